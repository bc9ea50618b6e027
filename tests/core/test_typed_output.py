"""An answer that is JSON as an object, whole and as it grows."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, RootModel

from bailian_apps import AppResult, InvalidInputError, InvalidOutputError, Step
from bailian_apps.core.answer_text import AnswerFilter
from bailian_apps.core.decoder import Decoder
from bailian_apps.core.events import fold
from bailian_apps.core.retry import is_retryable
from bailian_apps.core.typed_output import check_output_schema, partial_output, typed_output


class Dish(BaseModel):
    name: str
    price: Decimal = Decimal(0)


class Trip(BaseModel):
    model_config = ConfigDict(extra="forbid")

    city: str
    days: int = 1
    dishes: list[Dish] = []


WHOLE = '{"city": "杭州", "days": 2, "dishes": [{"name": "醋鱼", "price": 1.10}]}'
TRIP = Trip(city="杭州", days=2, dishes=[Dish(name="醋鱼", price=Decimal("1.10"))])


@pytest.mark.parametrize(
    "text",
    [
        WHOLE,
        f"\n {WHOLE}\n",
        f"```json\n{WHOLE}\n```",
        f"```\n{WHOLE}\n```",
        f"```JSON {WHOLE}```",
        f"Here it is:\n\n```json\n{WHOLE}\n```\nEnjoy ```it```!",
        f"```text\nA trip\n```\n```json\n{WHOLE}\n```",
        f"{WHOLE}<ref>[1]</ref>",
        WHOLE.replace('",', '"<ref>[1]</ref>,'),
        f"<ref>[2]</ref>```\n{WHOLE}<ref>[1]</ref>\n```",
    ],
)
def test_json_is_read_with_and_without_a_fence(text: str) -> None:
    assert typed_output(AppResult(text=text), Trip) == TRIP


def test_a_fence_inside_a_string_does_not_end_the_json() -> None:
    text = json.dumps({"city": "```json\n{}\n```"})
    assert typed_output(AppResult(text=text), Trip).city == "```json\n{}\n```"
    assert typed_output(AppResult(text=f"```json\n{text}\n```"), Trip).city.endswith("```")


def test_line_breaks_in_strings_are_accepted_as_models_write_them() -> None:
    assert typed_output(AppResult(text='{"city": "a\nb"}'), Trip).city == "a\nb"


def test_a_list_is_read_with_a_root_model() -> None:
    assert typed_output(AppResult(text="[1, 2]"), RootModel[list[int]]).root == [1, 2]


def test_an_answer_that_does_not_fit_names_its_fields_and_keeps_the_result() -> None:
    text = '{"days": "two", "dishes": [{"price": 1}], "more": 1}'
    result = AppResult(text=text, session_id="s", request_id="r", attempts=2)
    with pytest.raises(InvalidOutputError) as caught:
        typed_output(result, Trip)
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.fields == ("city", "days", "dishes[0].name", "more")
    assert error.partial == result
    assert (error.session_id, error.request_id, error.attempts) == ("s", "r", 2)
    assert str(error) == (
        "the app ran, but its answer does not fit output_schema Trip: city is missing; days must "
        "be a valid integer, unable to parse string as an integer; dishes[0].name is missing; "
        "more: Extra inputs are not permitted. The answer is in .partial.text "
        "(request_id r, 2 attempts)"
    )
    assert not is_retryable(error, idempotent=True)


@pytest.mark.parametrize("text", ["", "a lake", '{"city": "杭', '```json\n{"city": 1', "[" * 3000])
def test_text_that_is_not_json_is_an_error_without_fields(text: str) -> None:
    with pytest.raises(InvalidOutputError, match="Trip: the answer: Invalid JSON") as caught:
        typed_output(AppResult(text=text), Trip)
    assert caught.value.fields == ()
    assert caught.value.__cause__ is None


def test_a_long_list_of_problems_is_shortened() -> None:
    class Numbers(RootModel[list[int]]):
        pass

    with pytest.raises(InvalidOutputError, match="and 90 more") as caught:
        typed_output(AppResult(text=json.dumps(["x"] * 100)), Numbers)
    assert len(caught.value.fields) == 100


def test_an_object_grows_with_the_text() -> None:
    seen: list[Trip] = []
    for end in range(len(WHOLE) + 1):
        output = partial_output(AppResult(text=WHOLE[:end]), Trip)
        if output is not None and output not in seen:
            seen.append(output)
    assert [each.city for each in seen[:3]] == ["", "杭", "杭州"]
    assert seen[-1] == TRIP


@pytest.mark.parametrize("number", ["123", "-1.25", "1.5e10"])
@pytest.mark.parametrize("form", ['{{"n": {}, "s": ""}}', '{{"n": [{}, 1]}}', "```json\n[{}]\n```"])
def test_a_number_counts_when_it_is_whole(number: str, form: str) -> None:
    class Numbers(RootModel[Any]):
        pass

    text = form.format(number)
    outputs = (partial_output(AppResult(text=text[:end]), Numbers) for end in range(len(text)))
    seen = {found for output in outputs for found in numbers_of(output)}
    assert seen <= {float(number), 1.0}
    assert float(number) in seen
    word = partial_output(AppResult(text='{"s": "at 12'), Numbers)
    assert word is not None
    assert word.root == {"s": "at 12"}  # in a string, digits are letters like any other


def numbers_of(value: Any) -> list[float]:
    if isinstance(value, (int, float)):
        return [float(value)]
    value = getattr(value, "root", value)
    return [n for item in getattr(value, "values", lambda: value or [])() for n in numbers_of(item)]


@given(st.text('{}[]"`json:,12 \n', max_size=20))
def test_the_beginning_of_any_text_is_an_object_or_none(text: str) -> None:
    assert isinstance(partial_output(AppResult(text=text), Trip), Trip | None)


@pytest.mark.parametrize("schema", [dict, "Trip", Trip(city="a"), {"type": "object"}])
def test_an_output_schema_is_a_pydantic_model_class(schema: object) -> None:
    with pytest.raises(InvalidInputError, match="output_schema must be a pydantic model class"):
        check_output_schema(schema)


MARKED = '{"city": "杭州<ref>[1]</ref>", "days": 12}'
THOUGHT = f"<think>Where {{to}}?</think>{MARKED}<ref>[2]</ref>"


@pytest.mark.parametrize("citation_marks", ["keep", "strip"])
@pytest.mark.parametrize("think_tags", ["keep", "reasoning"])
@pytest.mark.parametrize("end", [MARKED, f"```json\n{MARKED}\n```", THOUGHT])
@pytest.mark.parametrize("said", ["See {it} [1] in ```x```.", ""])
def test_the_end_nodes_json_is_read_whatever_output_nodes_said_before_it(
    said: str, end: str, think_tags: Any, citation_marks: Any
) -> None:
    """Each frame has one character, so every mark and tag is divided."""
    if end is THOUGHT and think_tags == "keep":
        return  # what is before the JSON is then a part of the answer
    whole = {"city": "杭州<ref>[1]</ref>" if citation_marks == "keep" else "杭州", "days": 12}
    decoder, answer = Decoder(), AnswerFilter(citation_marks, think_tags)
    partial, cities = AppResult(), list[str]()
    for frame in frames_of(said, end):
        for event in answer.feed(decoder.feed(frame), last=decoder.finished):
            partial = fold(partial, event)
            output = partial_output(partial, Trip)
            if output is not None and not decoder.finished:
                assert whole["city"].startswith(output.city)
                assert output.days in (1, 12)
                cities.append(output.city)
    assert "杭" in cities
    assert (
        typed_output(answer.result(decoder.finish()), Trip).model_dump(exclude_unset=True) == whole
    )


def frames_of(said: str, end: str) -> Iterator[dict[str, Any]]:
    for name, text in (("Output", said), ("End", end)):
        for piece in text:
            node = {"nodeId": name, "nodeType": name, "nodeStatus": "executing"}
            node["nodeResult"] = json.dumps({"result": piece})
            yield {"output": {"thoughts": [{"response": json.dumps(node)}]}}
    yield {"output": {"text": said + end, "finish_reason": "stop"}}


def test_the_json_of_an_end_node_is_read_where_output_nodes_spoke_before_it() -> None:
    steps = (
        Step(id="o", kind="node", name="Output", type="Output", output="One moment."),
        Step(id="e", kind="node", name="End", type="End", output=WHOLE),
    )
    assert typed_output(AppResult(text=f"One moment.{WHOLE}", steps=steps), Trip) == TRIP
