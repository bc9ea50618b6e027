"""What a result's values are to a tracer and as JSON."""

from __future__ import annotations

import json
import pickle
from dataclasses import fields, replace
from typing import Any

import pytest

from bailian_apps import AppResult, DocReference, ModelUsage, Step, Usage

STEP = Step(id="1", kind="tool", name="search", input={"q": []}, output="x", duration_ms=0.0)
REFERENCE = DocReference(index_id="1", text="t", images=("a",), raw={"secret": 1})


@pytest.mark.parametrize(
    ("kind", "type_", "span_kind"),
    [
        ("tool", "mcp", "tool"),
        ("retrieval", "agentRag", "retrieval"),
        ("node", "Retrieval", "retrieval"),
        ("node", "LLM", "chain"),
        ("node", None, "chain"),
        ("reasoning", "reasoning", "chain"),
        ("response", "response", "chain"),
        # A tool's type is a word of its own, not a node's.
        ("tool", "Retrieval", "tool"),
    ],
)
def test_a_step_has_one_span_kind(kind: Any, type_: str | None, span_kind: str) -> None:
    assert Step(id="1", kind=kind, name="n", type=type_).span_kind == span_kind


def test_only_a_response_entry_is_the_answer() -> None:
    kinds: list[Any] = ["node", "tool", "retrieval", "reasoning", "response"]
    answers = [kind for kind in kinds if Step(id="1", kind=kind, name="n").is_answer]
    assert answers == ["response"]


def test_a_step_as_a_dict_has_every_field_or_only_the_filled_ones() -> None:
    values = STEP.to_dict()
    assert Step(**values) == STEP
    assert STEP.to_dict(compact=True) == {
        "id": "1",
        "kind": "tool",
        "name": "search",
        "status": "executing",
        "input": {"q": []},
        "output": "x",
        "duration_ms": 0.0,
    }


def test_a_reference_as_a_dict_is_json_without_its_raw_form() -> None:
    values = REFERENCE.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert "raw" not in values
    assert values["images"] == ["a"]
    assert values["page_number"] == []
    assert REFERENCE.to_dict(compact=True) == {"index_id": "1", "text": "t", "images": ["a"]}


def test_usage_as_a_dict_has_totals_and_models() -> None:
    model = ModelUsage(model_id="qwen", input_tokens=2, output_tokens=1)
    assert Usage(models=(model, model)).to_dict() == {
        "input_tokens": 4,
        "output_tokens": 2,
        "total_tokens": 6,
        "models": [{"model_id": "qwen", "input_tokens": 2, "output_tokens": 1}] * 2,
    }


@pytest.mark.parametrize(
    ("value", "lacking"),
    [
        (STEP, 3),  # the times by arrival
        (STEP, 5),
        (AppResult(text="x", steps=(STEP,), raw={"a": 1}), 2),
        (AppResult(text="x", attempts=2), 6),  # `raw`, too
        (replace(REFERENCE, raw={}), 2),
        (REFERENCE, 0),
    ],
)
def test_a_pickle_that_lacks_the_newest_fields_has_their_defaults(value: Any, lacking: int) -> None:
    def state_of_an_older_version(self: Any) -> list[Any]:
        return [getattr(self, each.name) for each in fields(self)][: len(fields(self)) - lacking]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(value), "__getstate__", state_of_an_older_version)
        pickled = pickle.dumps(value)
    read = pickle.loads(pickled)
    assert read == value
    assert repr(read) == repr(value)
    assert pickle.loads(pickle.dumps(read)) == value
