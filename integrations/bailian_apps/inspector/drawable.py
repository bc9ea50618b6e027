"""What a picture may show of a result: no secrets, and every value of the type that it should have.

Results that were stored, as in a message, may hold anything. A time or a score that is not a finite
number is not known; anything but text is shown as its JSON.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from bailian_apps.core.documents import score_or_none
from bailian_apps.core.redaction import redact_value
from bailian_apps.core.result import AppResult, DocReference, ModelUsage, Step, Usage
from bailian_apps.core.values import milliseconds

_LONGEST_MS = 1e12  # 31 years; a scale of more has no round numbers


def drawable(result: AppResult) -> AppResult:
    """Return a result as a picture may show it."""
    return replace(
        result,
        text=shown_text(result.text),
        final_text=_text_or_none(result.final_text),
        reasoning=shown_text(result.reasoning),
        steps=tuple(map(_step, result.steps)),
        references=tuple(map(_reference, result.references)),
        usage=_usage(result.usage),
        session_id=_text_or_none(result.session_id),
        request_id=_text_or_none(result.request_id),
        attempts=_count(result.attempts),
        first_token_ms=_ms(result.first_token_ms),
        elapsed_ms=_ms(result.elapsed_ms),
    )


def shown_text(value: object) -> str:
    """Return any value as text with its secrets masked."""
    return as_json(redact_value(value))


def as_json(value: object) -> str:
    """A value as text: a text as it is, anything else as JSON; what has no JSON, as Python's."""
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        return str(type(value))


def _step(step: Step) -> Step:
    return replace(
        step,
        id=shown_text(step.id),
        name=shown_text(step.name or step.id),
        type=_text_or_none(step.type),
        status=shown_text(step.status),
        input=redact_value(step.input),
        output=shown_text(step.output),
        reasoning=shown_text(step.reasoning),
        error=_text_or_none(step.error),
        parent_id=_text_or_none(step.parent_id),
        usage=step.usage and _usage(step.usage),
        duration_ms=_ms(step.duration_ms),
        started_ms=_ms(step.started_ms),
        first_token_ms=_ms(step.first_token_ms),
        ended_ms=_ms(step.ended_ms),
    )


def _reference(reference: DocReference) -> DocReference:
    names = ("index_id", "title", "doc_id", "doc_name", "doc_url")
    texts: dict[str, Any] = {name: _text_or_none(getattr(reference, name)) for name in names}
    return replace(
        reference,
        text=shown_text(reference.text),
        page_number=tuple(reference.page_number),
        score=score_or_none(reference.score),
        **texts,
    )


def _usage(usage: Usage) -> Usage:
    return Usage(
        models=tuple(
            ModelUsage(
                model_id=shown_text(each.model_id),
                input_tokens=_count(each.input_tokens),
                output_tokens=_count(each.output_tokens),
            )
            for each in usage.models
        )
    )


def _text_or_none(value: object) -> str | None:
    return None if value is None else shown_text(value)


def _ms(value: object) -> float | None:
    ms = milliseconds(value)
    return None if ms is None or abs(ms) > _LONGEST_MS else ms


def _count(value: object) -> int:
    return int(score_or_none(value) or 0)
