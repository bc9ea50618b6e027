"""What a retrieval found: the one reader of a retrieval's output. Pure; knows no framework."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast, get_args

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.language import N_
from bailian_apps.core.values import JsonObject, as_text, first_text, parsed_json

DocumentSource: TypeAlias = Literal["cited", "retrieved"]
"""Which documents of a run: those that its answer cites, or those that its retrievals found."""

# An agent's observation is a list, or has it in `data`; the cloud's knowledge base API has it in
# `nodes`; the vendor's open-source platform, whose nodes have the same fields, in `chunk_list`.
_LIST_KEYS = ("data", "nodes", "chunk_list")
_TEXT_KEYS = ("text", "content")
# Those after the first: as recorded, and as in the tests of the official SDK.
_ID_KEYS = ("doc_id", "dataId", "docId")
_NAME_KEYS = ("doc_name", "dataName", "docName")
_TITLE_KEYS = ("title", *_NAME_KEYS)
_URL_KEYS = ("doc_url", "docUrl", "url")
_INDEX_KEYS = ("index_id", "referenceIndex", "indexId")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievedDocument:
    """One passage that a retrieval found. The fields have the names of `DocReference`'s.

    Attributes:
        text: The passage.
        score: Its relevance, if the app reports one.
        index_id: The number that `<ref>[1]</ref>` in the answer text would point at.
        title: The title of the passage, or the document's name.
        doc_id: The cloud's id of the document.
        doc_name: The document's name.
        doc_url: Where the document can be fetched.
        raw: The passage as it came, unknown fields included.
    """

    text: str
    score: float | None = None
    index_id: str | None = None
    title: str | None = None
    doc_id: str | None = None
    doc_name: str | None = None
    doc_url: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)

    @property
    def metadata(self) -> dict[str, Any]:
        """All that came with the text: the wire's own fields, and those above that are known."""
        names = ("score", "index_id", "title", "doc_id", "doc_name", "doc_url")
        came = {
            name: value
            for name, value in self.raw.items()
            if name not in _TEXT_KEYS or value != self.text
        }
        known = {name: value for name in names if (value := getattr(self, name)) is not None}
        return came | known


def document_source(value: object) -> DocumentSource | None:
    """Check which documents a retriever is to return.

    Raises:
        InvalidInputError: It is none of the allowed values.
    """
    if value is None or value in get_args(DocumentSource):
        return cast("DocumentSource | None", value)
    names = " or ".join(map(repr, get_args(DocumentSource)))
    raise InvalidInputError(
        "documents", N_("must be {names}, or None for both in turn").format(names=names)
    )


def read_documents(output: str) -> tuple[RetrievedDocument, ...]:
    """Read what a retrieval found.

    It is JSON: a list of objects with the passage in `text` or `content`, one such object, or an
    object that has the list in `data`, `nodes` or `chunk_list`, perhaps within one another. Nothing
    is lost: an entry of another shape becomes a document with the entry as its text, and output of
    another shape one with the whole output.

    Args:
        output: The output of a step that searched.

    Returns:
        The documents, in the app's order; none where the output, the list or an entry is empty.
    """
    try:
        documents = _documents(parsed_json(output))
    except RecursionError:  # its lists are nested too deeply
        documents = None
    if documents is None:
        return (RetrievedDocument(text=output),) if output else ()
    return documents


def best_of_each(documents: Iterable[RetrievedDocument]) -> tuple[RetrievedDocument, ...]:
    """Return each passage once, with its best score, where several retrievals found it."""
    best: dict[tuple[object, ...], RetrievedDocument] = {}
    for document in documents:
        key = (document.doc_id, document.doc_name, document.text)
        known = best.setdefault(key, document)
        if document.score is not None and (known.score is None or document.score > known.score):
            best[key] = document
    return tuple(best.values())


_Scored: TypeAlias = tuple[str, float, RetrievedDocument]


class PassageScores:
    """The scores of the passages that a run found, for those that its answer cites."""

    def __init__(self, documents: Iterable[RetrievedDocument]) -> None:
        """Index the documents that have a score."""
        self._scored: list[_Scored] = [
            (_squeeze(document.text), document.score, document)
            for document in documents
            if document.score is not None
        ]
        self._by_text: dict[str, list[_Scored]] = {}
        self._by_id: dict[str | None, list[_Scored]] = {}
        for item in self._scored:
            self._by_text.setdefault(item[0], []).append(item)
            self._by_id.setdefault(item[2].doc_id, []).append(item)

    def find(
        self, text: str, *, index_id: str | None, doc_id: str | None, doc_name: str | None
    ) -> float | None:
        """Return the score of a cited passage.

        It is the passage with the same text; else one that holds its text, or that its text holds
        (agent-rag-citations.json puts the document's name before the passage); else one of the same
        document, by its id; else the one with its index. Of several that fit equally, the best.

        Args:
            text: The cited text.
            index_id: The number in the answer's `<ref>[1]</ref>`.
            doc_id: The cloud's id of the document.
            doc_name: The document's name.

        Returns:
            The score; None where no passage fits.
        """
        text = _squeeze(text)
        candidates = self._by_text.get(text, []) if text else []
        if not candidates and doc_id is not None:
            candidates = self._by_id.get(doc_id, [])
        found: list[tuple[int, bool, bool, float]] = []
        for passage, score, document in candidates or self._scored:
            overlaps = passage in text or text in passage
            overlap = min(len(passage), len(text)) if overlaps else 0  # 0 where one is empty
            same_id = doc_id is not None and document.doc_id == doc_id
            same_index = index_id is not None and document.index_id == index_id
            elsewhere = _differ(document.doc_id, doc_id) or _differ(document.doc_name, doc_name)
            if overlap or same_id or (same_index and not elsewhere):
                found.append((overlap, same_id, same_index, score))
        return max(found)[-1] if found else None


def score_or_none(value: object) -> float | None:
    """Return a finite number, or the text of one, as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        score = float(value)
    except (ValueError, OverflowError):
        return None
    return score if math.isfinite(score) else None


def _documents(found: object) -> tuple[RetrievedDocument, ...] | None:
    """Read passages in any known shape; None for another."""
    if found in (None, "", [], {}):
        return ()
    if isinstance(found, list):
        return tuple(document for item in cast("list[object]", found) for document in _entry(item))
    if not isinstance(found, dict):
        return None
    fields = cast("JsonObject", found)
    document = _document(fields)
    if document is not None and document.text:
        return (document,)
    lists = [_documents(parsed_json(fields[key])) for key in _LIST_KEYS if key in fields]
    known = tuple(each for documents in lists if documents is not None for each in documents)
    if document is not None:
        return known or (document,)
    return known if lists and None not in lists else None


def _entry(item: object) -> tuple[RetrievedDocument, ...]:
    """Read an entry of a list; one of another shape is a document too."""
    documents = _documents(item)
    return (RetrievedDocument(text=as_text(item)),) if documents is None else documents


def _document(item: object) -> RetrievedDocument | None:
    """Read one entry; None if it holds no passage."""
    fields = cast("JsonObject", item) if isinstance(item, dict) else {}
    texts = [text for key in _TEXT_KEYS if isinstance(text := fields.get(key), str)]
    if not texts:
        return None
    return RetrievedDocument(
        text=next(filter(None, texts), ""),
        score=score_or_none(fields.get("score")),
        index_id=first_text(fields, *_INDEX_KEYS),
        title=first_text(fields, *_TITLE_KEYS),
        doc_id=first_text(fields, *_ID_KEYS),
        doc_name=first_text(fields, *_NAME_KEYS),
        doc_url=first_text(fields, *_URL_KEYS),
        raw=fields,
    )


def _squeeze(text: str) -> str:
    return " ".join(text.split())


def _differ(one: str | None, other: str | None) -> bool:
    return None not in (one, other) and one != other
