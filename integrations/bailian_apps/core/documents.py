"""What a retrieval found, read from a step's output. Pure; knows no framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from bailian_apps.core.result import Step
from bailian_apps.core.values import first_text, parsed_json

_TEXT_KEYS = ("text", "content")
_TITLE_KEYS = ("title", "dataName", "doc_name")
_URL_KEYS = ("docUrl", "doc_url", "url")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievedDocument:
    """One passage that a retrieval found.

    Attributes:
        text: The passage.
        score: Its relevance, if the app reports one.
        title: The document's title or name.
        url: Where the document can be fetched.
        metadata: All other fields as they came, those above but the text included.
    """

    text: str
    score: float | None = None
    title: str | None = None
    url: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


def retrieved_documents(step: Step) -> tuple[RetrievedDocument, ...]:
    """Read what a retrieval found.

    An agent's observation is a JSON list of objects with the passage in `text` or `content`. A
    workflow's node may hold anything. Output of another shape becomes one document with the whole
    output as its text, so that nothing is lost.

    Args:
        step: A step whose `span_kind` is `"retrieval"`.

    Returns:
        The documents, in the app's order; none for an empty output or an empty list.
    """
    found: object = parsed_json(step.output)
    items = cast("list[object]", found) if isinstance(found, list) else [found]
    documents = [_document(item) for item in items]
    if None in documents:
        return (RetrievedDocument(text=step.output),) if step.output else ()
    return tuple(document for document in documents if document)


def _document(item: object) -> RetrievedDocument | None:
    """Read one entry; None if it holds no passage."""
    fields = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
    key = next((key for key in _TEXT_KEYS if isinstance(fields.get(key), str)), None)
    if key is None:
        return None
    return RetrievedDocument(
        text=fields[key],
        score=_number(fields.get("score")),
        title=first_text(fields, *_TITLE_KEYS),
        url=first_text(fields, *_URL_KEYS),
        metadata={name: value for name, value in fields.items() if name != key},
    )


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value)
