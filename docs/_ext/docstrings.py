"""Docstrings for Sphinx: they hold Markdown, and Sphinx reads reStructuredText.

Code in single backticks becomes a link where it is a public name, and code elsewhere; a fenced
block becomes a code block. Types in signatures link to the public name of their class.
"""

from __future__ import annotations

import inspect
import re
from functools import cache
from importlib import import_module
from typing import Any

from docutils import nodes
from pydantic import BaseModel
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

MODULES = (
    "bailian_apps",
    "bailian_apps.langchain",
    "bailian_apps.llamaindex",
    "bailian_apps.emulator",
    "bailian_apps.batch",
    "bailian_apps.inspector",
)
_CODE = re.compile(r"(?<![`:\w])`([^`]+)`(?!`)")
# How the docstrings of constructors begin that say no more than a model's class.
_MODEL_INITS = ("Create it from its fields.", "Create a new model by parsing and validating")
_whole: dict[str, list[str]] = {}  # the docstrings of fields, while napoleon reads them
_FENCE = re.compile(r"^(\s*)```(\w*)$")


@cache
def public_names() -> dict[str, str]:
    """Return the full name of every public name."""
    return {
        name: f"{module}.{name}" for module in MODULES for name in import_module(module).__all__
    }


def _is_model(obj: object) -> bool:
    return inspect.isclass(obj) and issubclass(obj, BaseModel)


def _as_rst(match: re.Match[str]) -> str:
    code = match[1]
    name, _, member = code.partition(".")
    if name in public_names() and (not member or member.isidentifier()):
        dot = "." if member else ""
        return rf":py:obj:`{code} <{public_names()[name]}{dot}{member}>`\ "
    return rf"``{code}``\ "


def to_rst(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Rewrite a docstring in place, before its sections are read."""
    if _is_model(obj):
        inits = [at for at, line in enumerate(lines) if line.startswith(_MODEL_INITS)]
        del lines[min(inits, default=len(lines)) :]
    text: list[str] = []
    fence = None
    prose: list[str] = []

    def flush() -> None:
        text.extend(_CODE.sub(_as_rst, "\n".join(prose)).split("\n") if prose else [])
        prose.clear()

    for line in lines:
        match = _FENCE.match(line)
        if match and fence is None:
            flush()
            fence = match[1]
            text += [f"{fence}.. code-block:: {match[2] or 'text'}", ""]
        elif match:
            fence = None
            text.append("")
        elif fence is not None:
            text.append(f"    {line}")
        else:
            prose.append(line)
    flush()
    lines[:] = text
    if what in ("attribute", "data", "property"):
        _whole[name] = text


def restore(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Undo what napoleon makes of a field: it takes the words before a colon for its type."""
    if name in _whole:
        lines[:] = _whole.pop(name)


def shorten_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: object, signature: str, returns: str
) -> tuple[str, str] | None:
    """Leave out a model's signature: its fields are listed below."""
    return ("", "") if _is_model(obj) and "__init__" not in obj.__dict__ else None


def skip_member(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Leave out what pydantic or a framework defines."""
    module = getattr(obj, "__module__", None) if callable(obj) else None
    foreign = module is not None and not module.startswith("bailian_apps")
    return True if name.startswith("model_") or foreign else None


def link_to_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.reference | None:
    """Find a class by its public name, where a signature names the module that defines it."""
    target = public_names().get(node.get("reftarget", "").rpartition(".")[2])
    if node.get("refdomain") != "py" or target is None or target == node["reftarget"]:
        return None
    python = env.get_domain("py")
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, contnode)  # pyright: ignore[reportReturnType]


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the functions above; docstrings are rewritten before napoleon reads them."""
    app.connect("autodoc-process-docstring", to_rst, priority=100)
    app.connect("autodoc-process-docstring", restore, priority=900)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("missing-reference", link_to_public_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
