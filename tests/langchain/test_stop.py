"""`stop`: the API has no stop sequences, so the adapter cuts the answer off."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bailian_apps.emulator import Call


class Talker:
    """Sends one piece after the other, then waits until the client disconnects."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces
        self.left = threading.Event()

    def __call__(self, call: Call) -> Iterator[dict[str, Any]]:
        for piece in self.pieces:
            yield {"output": {"text": piece, "finish_reason": "null"}}
        if call.disconnected.wait(60):
            self.left.set()
        yield {"output": {"text": "", "finish_reason": "stop"}}


@pytest.mark.parametrize("where", ["call", "field"])
def test_a_stop_sequence_ends_the_answer_and_closes_the_connection(
    where: str, make_model: Any, ask: Any
) -> None:
    app = Talker("one, E", "N", "D, two")
    model = make_model(app, **({"stop": ["END"]} if where == "field" else {}))
    answer = ask(model, **({"stop": ["END"]} if where == "call" else {}))
    assert answer.content == "one, "
    assert answer.response_metadata["finish_reason"] == "stop"
    assert app.left.wait(60)


def test_stop_of_a_call_overrides_the_field(make_model: Any, ask: Any) -> None:
    model = make_model(lambda _: "a b c", stop=["a"])
    assert ask(model, stop=["c"]).content == "a b "


def test_an_answer_without_the_stop_sequence_is_complete(make_model: Any, ask: Any) -> None:
    answer = ask(make_model(lambda _: "almost EN"), stop=["END"])
    assert answer.content == "almost EN"
    assert answer.response_metadata["bailian"]["round"] == 1


def test_after_a_cut_off_answer_the_whole_conversation_is_sent(
    start_cloud: Any, make_model: Any, ask: Any
) -> None:
    cloud = start_cloud(app=lambda _: "one, two")
    model = make_model(cloud)
    answer = ask(model, "hi", stop=[", "])
    assert "bailian" not in answer.response_metadata
    ask(model, [("human", "hi"), answer, ("human", "and?")])
    assert [message["content"] for message in cloud.requests[1].messages] == ["hi", "one", "and?"]


def test_steps_cut_off_by_stop_end_without_error(make_model: Any, ask: Any, log: Any) -> None:
    def app(_: Call) -> list[dict[str, Any]]:
        call = {"action_type": "api", "action_name": "mail"}
        return [
            {"output": {"text": text, "finish_reason": finish, "thoughts": [call]}}
            for text, finish in [("one", "null"), ("END", "null"), ("", "stop")]
        ]

    ask(make_model(app), "hi", {"callbacks": [log]}, stop=["END"])
    assert log.events == [("start", "model"), ("start", "mail"), ("end", "mail"), ("end", "model")]
