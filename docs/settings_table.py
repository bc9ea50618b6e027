"""Writes the tables of settings in docs/app.md from the source: `python docs/settings_table.py`.

A field's docstring holds its meaning, then `Default: …`, the kind of app it works for and, last,
where it is sent. What the code itself decides (the default, the place in the request body) is read
from the field; the docstring may not contradict it. A test fails if the page is out of date.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bailian_apps.core.request import AppRequest, Input, Parameter
from bailian_apps.core.settings import AppSettings, Timeout

PAGE = Path(__file__).with_name("app.md")
BEGIN, END = "<!-- settings -->", "<!-- end -->"

_OBJECTS = {Input: "input", Parameter: "parameters"}
_KINDS = re.compile(r"(All|Agent|Workflow|Older agent) apps.*|Apps with .*")
_SENT_OUTSIDE_BODY = re.compile(r"part of the URL|header `[\w-]+`")
_NOT_SENT = "not sent"


def docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring below each field of a model, those of its base classes included."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if not issubclass(base, BaseModel) or base is BaseModel:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)  # noqa: S101
        for field, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = below.value if isinstance(below, ast.Expr) else None
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    found[field.target.id] = " ".join(text.value.split())
    return found


def place(name: str, field: FieldInfo) -> str | None:
    """Return where in the request body a field stands; None if it is not in the body."""
    for mark in field.metadata:
        if isinstance(mark, (Input, Parameter)):
            return f"`{_OBJECTS[type(mark)]}.{mark.name or name}`"
    return None


def default(field: FieldInfo, documented: str | None) -> str:
    """Return a field's default: its value, or what its docstring states where there is no value."""
    value = field.default
    if field.default_factory is None and not field.is_required() and value not in (None, ()):
        if isinstance(value, str):
            return f'`"{value}"`'
        return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
    return documented or "none"


def choices(annotation: object) -> Iterator[str]:
    """Yield the values of a Literal, also of one in a union."""
    if typing.get_origin(annotation) is typing.Literal:
        yield from (f"`{value}`" for value in typing.get_args(annotation))
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from choices(part)


def row(name: str, field: FieldInfo, docstring: str) -> tuple[str, ...]:
    """Return the row of a field: its name, default, kind of app, place, and meaning.

    Raises:
        ValueError: The docstring does not end with the place, or names another one.
    """
    *sentences, sent = re.split(r"(?<=\.) (?=[A-Z`])", docstring)
    sent = sent[0].lower() + sent[1:].removesuffix(".")
    in_body = place(name, field)
    if sent != in_body and (in_body or not (sent == _NOT_SENT or _SENT_OUTSIDE_BODY.match(sent))):
        raise ValueError(f"the docstring of {name} ends with {sent!r} instead of {in_body}")
    documented, kind, meaning = None, "all", list[str]()
    for sentence in sentences:
        if sentence.startswith("Default: "):
            documented = sentence.removeprefix("Default: ").removesuffix(".")
        elif _KINDS.fullmatch(sentence):
            kind = re.sub(r"^Apps |^(.*?) apps", r"\1", sentence.removesuffix(".")).lower()
        else:
            meaning.append(sentence)
    values = list(choices(field.annotation))
    if not all(value.strip("`") in docstring for value in values):
        meaning.append(f"One of {', '.join(values)}.")
    return f"`{name}`", default(field, documented), kind, sent, " ".join(meaning)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables() -> str:
    """Return all tables: of the settings, of the options of a call, and of `Timeout`."""
    texts = docstrings(AppRequest) | docstrings(AppSettings)
    settings = [row(name, field, texts[name]) for name, field in AppSettings.model_fields.items()]
    calls = [
        row(name, field, texts[name])
        for name, field in AppRequest.model_fields.items()
        if name not in AppSettings.model_fields
    ]
    texts = docstrings(Timeout)
    limits = [
        (f"`{name}`", default(field, None), texts[name])
        for name, field in Timeout.model_fields.items()
    ]
    # First what reaches the app, then what it is to do, then what is not sent.
    settings.sort(key=lambda line: (line[3] == _NOT_SENT) - bool(_SENT_OUTSIDE_BODY.match(line[3])))
    head = ("setting", "default", "kind of app", "sent as", "meaning")
    return "\n\n".join(
        (
            table(head, settings),
            "These options exist only for a call:",
            table(("option", *head[1:]), calls),
            "The limits of a `Timeout`:",
            table(("limit", "default", "meaning"), limits),
        )
    )


def updated(page: str) -> str:
    """Return the page with the tables between its two markers written anew."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE} has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
