"""Writes what repeats the settings: `python docs/settings_table.py`.

That is the tables in settings.md and parameters.md, in docs/en and docs/zh, and core/keywords.py,
which has the keyword arguments of calls for type checkers and editors.

A field's docstring holds its meaning, then `Default: …`, the kind of app it works for and, last,
where it is sent. What the code itself decides (the default, the place in the request body) is read
from the field; the docstring may not contradict it. The Chinese tables have the same rows, with the
words of docs/zh/settings.toml. A test fails if a file is out of date, or a Chinese text is missing.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bailian_apps.core.request import AppRequest, Input, Parameter
from bailian_apps.core.settings import AppSettings, Timeout

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCS = Path(__file__).parent
CHINESE = DOCS / "zh" / "settings.toml"
KEYWORDS = Path(__file__).parents[1] / "integrations" / "bailian_apps" / "core" / "keywords.py"
BEGIN, END = "<!-- settings -->", "<!-- end -->"

_OBJECTS = {Input: "input", Parameter: "parameters"}
_KINDS = re.compile(
    r"(All|Agent|Agent 1\.0|Agent 1\.0 and workflow|Workflow|Older agent) apps.*|Apps with .*"
)
_SENT_OUTSIDE_BODY = re.compile(r"part of the (?:URL|body|headers)|header `[\w-]+`")
_NOT_SENT = "not sent"

SDK_NAMES = {
    "app_id": "app_id", "api_key": "api_key", "workspace": "workspace", "base_url": "base_address",
    "extra_headers": "headers", "extra_body": "any other keyword (`parameters` only)",
}  # fmt: skip
"""The SDK's names for what is not one field of the body; there, its name is the wire's."""

ALWAYS_SENT = {
    "incremental_output": "`parameters.incremental_output`",
    "stream": "header `X-DashScope-SSE`",
}
"""Parameters that are always `True`: the SDK's name, and where each is sent."""

RECORDED = {
    "prompt": "agent-plain-stream.sse",
    "messages": "workflow-multi-turn-messages.json",
    "session_id": "workflow-multi-turn-session-round-2.json",
    "biz_params": "workflow-biz-params.json",
    "file_list": "agent2-file-list.json",
    "thoughts": "workflow-two-llm.sse",
    "flow_stream_mode": "workflow-message-format.sse",
    "incremental_output": "agent-plain-stream.sse",
    "stream": "agent-plain-stream.sse",
}
"""An answer of the real API to a request with the parameter, in tests/recordings."""


KEYWORDS_HEAD = '''\
"""The keyword arguments of constructors and calls, for type checkers and editors.

Written from the fields of `AppSettings` and `AppRequest` by `python docs/settings_table.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from typing_extensions import TypedDict

from bailian_apps.core.answer import OutputNodes
from bailian_apps.core.answer_text import CitationMarks, ThinkTags
from bailian_apps.core.endpoint import APIKey, BaseURL, Headers, Workspace
from bailian_apps.core.history_template import HistoryFormat, HistoryTemplate
from bailian_apps.core.json_values import ExtraBody, Id, Ids, JsonObject, Texts
from bailian_apps.core.request import AppId, Files, Images, Message, ModeName, SessionId
from bailian_apps.core.settings import HistoryMode, Timeout
'''

ACCEPTED = {
    "messages": "Sequence[Message | Mapping[str, Any]] | None",
}
"""Types that a keyword argument may have where its field holds another one."""


def fields_in_source(model: type[BaseModel]) -> Iterator[tuple[str, str, str]]:
    """Yield the name, the annotation and the docstring of each field, base classes' first."""
    for base in reversed(model.__mro__):
        if not issubclass(base, BaseModel) or base is BaseModel:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)  # noqa: S101
        for field, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = below.value if isinstance(below, ast.Expr) else None
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    docstring = " ".join(text.value.split())
                    yield field.target.id, ast.unparse(field.annotation), docstring


def docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring below each field of a model, those of its base classes included."""
    return {name: docstring for name, _, docstring in fields_in_source(model)}


def keywords_module() -> str:
    """Return the source of core/keywords.py."""
    fields = {name: each for name, *each in fields_in_source(AppSettings)}
    options = {name: each for name, *each in fields_in_source(AppRequest) if name not in fields}
    del options["prompt"]
    messages = {"messages": options.pop("messages")}
    classes = [
        ("SettingKeywords(TypedDict, total=False)", "The fields of `AppSettings`.", fields),
        (
            "CallKeywords(SettingKeywords, total=False)",
            "The settings that a call overrides, and the options that only a call has.",
            options,
        ),
        (
            "AppCallKeywords(CallKeywords, total=False)",
            "The keyword arguments of `BailianApp.invoke` and its other calls.",
            messages,
        ),
    ]
    return "\n\n".join([KEYWORDS_HEAD, *(_typed_dict(*each) for each in classes)])


def _typed_dict(head: str, docstring: str, fields: dict[str, list[str]]) -> str:
    lines = [f"class {head}:", f'    """{docstring}"""', ""]
    for name, (annotation, text) in fields.items():
        accepted = ACCEPTED.get(name) or re.sub(
            r"^Annotated\[(.*?), \w+\(.*\)\]$", r"\1", annotation
        )
        indent: Any = {"initial_indent": "    ", "subsequent_indent": "    "}
        lines += [
            f"    {name}: {accepted}".replace("'", '"'),
            textwrap.fill(
                f'"""{text}"""', 100, break_long_words=False, break_on_hyphens=False, **indent
            ),
            "",
        ]
    return "\n".join(lines)


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
    elif typing.get_origin(annotation) is typing.Annotated:
        yield from choices(typing.get_args(annotation)[0])


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


@dataclass(frozen=True)
class Language:
    """The texts of the tables in one language: English as in the docstrings, or Chinese."""

    folder: str
    words: Mapping[str, str] | None = None
    meanings: Mapping[str, str] | None = None

    def word(self, english: str) -> str:
        """Return what stands in a head or a cell. Code stays as it is."""
        return (
            english
            if re.fullmatch(r"`[^`]*`|", english)
            else self._of("words", self.words, english, english)
        )

    def meaning(self, name: str, english: str) -> str:
        """Return what a field means."""
        return self._of("meanings", self.meanings, name, english)

    def tests(self, english: str) -> str:
        """Return what a parameter is tested by: words and files, with commas between them."""
        return ("、" if self.words else ", ").join(map(self.word, english.split(", ")))

    def translated(self, line: Iterable[str]) -> list[str]:
        """Return the row of a field: its name, any other cells, and last its meaning."""
        name, *cells, meaning = line
        return [name, *map(self.word, cells), self.meaning(name.strip("`"), meaning)]

    def _of(self, part: str, texts: Mapping[str, str] | None, key: str, english: str) -> str:
        if texts is None:
            return english
        if not texts.get(key):
            raise ValueError(f"{CHINESE.name} has no {key!r} in [{part}]")
        return texts[key]


def languages() -> tuple[Language, Language]:
    """Return English and Chinese."""
    return Language("en"), Language("zh", **tomllib.loads(CHINESE.read_text(encoding="utf-8")))


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables(language: Language) -> str:
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
    parts: list[str] = []
    for title, first, rows in (
        ("All settings", "setting", settings),
        ("Options of a call", "option", calls),
        ("`Timeout`", "limit", limits),
    ):
        head = (first, "default", *(("kind of app", "sent as") if rows is not limits else ()))
        parts += [
            f"## {language.word(title)}",
            table(map(language.word, (*head, "meaning")), map(language.translated, rows)),
        ]
    return "\n\n".join(parts)


def kinds_of_app(kind: str) -> tuple[bool, bool, bool]:
    """Return whether agent 1.0, agent 2.0 and workflow apps take a field, by its kind of app."""
    every = kind == "all" or kind.startswith("with ")
    only_first = kind.startswith(("agent 1.0", "older agent"))
    agent = "agent" in kind
    return every or agent, every or (agent and not only_first), every or "workflow" in kind


def sdk_name(name: str, field: FieldInfo) -> str:
    """Return what `dashscope.Application.call` calls a field."""
    in_body = place(name, field)
    return in_body.strip("`").partition(".")[2] if in_body else SDK_NAMES[name]


def parameters_table(language: Language) -> str:
    """Return the table of everything that is sent: under which names, for which kind of app."""
    texts = docstrings(AppRequest) | docstrings(AppSettings)
    rows: list[tuple[str, ...]] = []
    for name, field in (AppSettings.model_fields | AppRequest.model_fields).items():
        _, _, kind, sent, _ = row(name, AppSettings.model_fields.get(name, field), texts[name])
        if sent != _NOT_SENT:
            rows.append(_parameter(f"`{name}`", name, sdk_name(name, field), sent, kind))
    for name, sent in ALWAYS_SENT.items():
        rows.append(_parameter("always `True`", name, name, sent, "all"))
    kinds = ("agent 1.0", "agent 2.0", "workflow")
    head = ("ours", "the SDK's", "on the wire", *kinds, "tested by")
    return table(
        map(language.word, head),
        ([*map(language.word, line[:3]), *line[3:6], language.tests(line[6])] for line in rows),
    )


def _parameter(ours: str, name: str, sdk: str, sent: str, kind: str) -> tuple[str, ...]:
    marks = ("✓" if takes else "" for takes in kinds_of_app(kind))
    tests = ["SDK", "emulator", *(f"`{RECORDED[each]}`" for each in (name,) if each in RECORDED)]
    return ours, sdk if " " in sdk else f"`{sdk}`", sent, *marks, ", ".join(tests)


def updated(page: str, text: str) -> str:
    """Return a page with what stands between its two markers replaced."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def pages() -> Iterator[tuple[Path, str]]:
    """Yield each page with tables, and what has to stand between its markers."""
    for language in languages():
        yield DOCS / language.folder / "settings.md", tables(language)
        yield DOCS / language.folder / "parameters.md", parameters_table(language)


if __name__ == "__main__":
    KEYWORDS.write_text(keywords_module(), encoding="utf-8")
    for path, text in pages():
        path.write_text(updated(path.read_text(encoding="utf-8"), text), encoding="utf-8")
