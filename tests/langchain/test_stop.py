"""`stop`: an app knows no stop sequences, so the answer is cut off on this side."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bailian_apps.emulator import Call


class Talker:
    """Says one piece after the other, and then waits until nobody listens."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces
        self.left = threading.Event()

    def __call__(self, call: Call) -> Iterator[dict[str, Any]]:
        for piece in self.pieces:
            yield {"output": {"text": piece, "finish_reason": "null"}}
        if call.gone.wait(10):
            self.left.set()
        yield {"output": {"text": "", "finish_reason": "stop"}}


@pytest.mark.parametrize("where", ["call", "field"])
def test_the_answer_ends_there_and_the_connection_is_closed(
    where: str, make_model: Any, ask: Any
) -> None:
    app = Talker("one, E", "N", "D, two")
    model = make_model(app, **({"stop": ["END"]} if where == "field" else {}))
    answer = ask(model, **({"stop": ["END"]} if where == "call" else {}))
    assert answer.content == "one, "
    assert answer.response_metadata["finish_reason"] == "stop"
    assert app.left.wait(10)


def test_the_call_goes_before_the_field(make_model: Any, ask: Any) -> None:
    model = make_model(lambda _: "a b c", stop=["a"])
    assert ask(model, stop=["c"]).content == "a b "


def test_an_answer_without_the_sequence_is_whole(make_model: Any, ask: Any) -> None:
    answer = ask(make_model(lambda _: "almost EN"), stop=["END"])
    assert answer.content == "almost EN"
    assert answer.response_metadata["bailian"]["round"] == 1


def test_after_an_answer_that_was_cut_off_the_whole_conversation_is_sent(
    start_cloud: Any, make_model: Any, ask: Any
) -> None:
    cloud = start_cloud(app=lambda _: "one, two")
    model = make_model(cloud)
    answer = ask(model, "hi", stop=[", "])
    assert "bailian" not in answer.response_metadata
    ask(model, [("human", "hi"), answer, ("human", "and?")])
    assert [message["content"] for message in cloud.requests[1].messages] == ["hi", "one", "and?"]


def test_steps_that_are_cut_off_end_well(make_model: Any, ask: Any, log: Any) -> None:
    def app(_: Call) -> list[dict[str, Any]]:
        call = {"action_type": "api", "action_name": "mail"}
        return [
            {"output": {"text": text, "finish_reason": finish, "thoughts": [call]}}
            for text, finish in [("one", "null"), ("END", "null"), ("", "stop")]
        ]

    ask(make_model(app), "hi", {"callbacks": [log]}, stop=["END"])
    assert log.events == [("start", "model"), ("start", "mail"), ("end", "mail"), ("end", "model")]
