"""What LlamaIndex sees of an app's steps: live text, names, states, reasoning and tokens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, ThinkingBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from support import recordings
from support.thinking import THINKING, A, B, frame, node

from bailian_apps import BailianApp
from bailian_apps.emulator import Call, Emulator
from bailian_apps.llamaindex import BailianAppStepEvent

TIMED = recordings.FOLDER / "workflow-timed.jsonl"

# ------------------------------------------------------------------------- live


def test_step_events_carry_the_words_and_thoughts_of_a_node(
    ask: Any, llm_of: Any, events: Any
) -> None:
    frames = [frame(node("a", "success", "Hi", reasoning="hm"), finish="stop", text="Hi")]
    with Emulator(apps={"app": lambda call: frames}) as cloud:
        ask(llm_of(cloud, step_events=True))
    deltas = [event for event in events.of(BailianAppStepEvent) if event.phase == "delta"]
    assert [(event.text, event.reasoning) for event in deltas] == [("", "hm"), ("Hi", "")]
    assert deltas[0].step == {
        "id": "a",
        "kind": "node",
        "name": "节点 a",
        "type": "LLM",
        "status": "executing",
        "parent_id": None,
    }


def test_a_reader_sees_a_nodes_words_before_the_node_has_ended(llm_of: Any) -> None:
    heard, in_time = threading.Event(), []

    class Heard(BaseEventHandler):
        def handle(self, event: Any, **_: Any) -> None:
            if isinstance(event, BailianAppStepEvent) and event.text == "first words":
                heard.set()

    def speaks(_: Call) -> Iterator[dict[str, Any]]:
        yield frame(node("a", "executing", "first words"))
        in_time.append(heard.wait(20))
        yield frame(node("a", "success"), finish="stop", text="Done.")

    root, handler = get_dispatcher(), Heard()
    root.add_event_handler(handler)
    try:
        with Emulator(apps={"app": speaks}) as cloud:
            llm_of(cloud, step_events=True).chat([ChatMessage(content="hi")])
    finally:
        root.event_handlers.remove(handler)
    assert in_time == [True]


# --------------------------------------------------------------- names, statuses


def test_a_span_has_the_real_name_of_its_node(ask: Any, llm_of: Any, spans: Any) -> None:
    with Emulator(apps={"app": TIMED}) as cloud:
        ask(llm_of(cloud))
    names = [note.name for note in spans.notes if note.name.startswith("node ")]
    assert names == ["node 开始", "node 大模型_1", "node 大模型_2", "node 结束"]


@pytest.mark.parametrize("status", ["skip", "pause", "stop"])
def test_a_state_that_is_no_failure_exits_the_span(
    status: str, ask: Any, llm_of: Any, spans: Any
) -> None:
    frames = [frame(node("a", status), finish="stop", text="ok")]
    with Emulator(apps={"app": lambda call: frames}) as cloud:
        ask(llm_of(cloud))
    span = spans.named("node 节点 a")
    assert (span.outcome, span.result["status"]) == ("exit", status)


# -------------------------------------------------------------------- reasoning


def test_nodes_that_think_at_once_have_a_block_each(llm_of: Any) -> None:
    with Emulator(apps={"app": THINKING}) as cloud:
        llm = llm_of(cloud)
        response = llm.chat([ChatMessage(content="hi")])
        chunks = list(llm.stream_chat([ChatMessage(content="hi")]))
        completed = list(llm.stream_complete("hi"))
    for message in (response.message, chunks[-1].message, chunks[-2].message):
        blocks = [block.content for block in message.blocks if isinstance(block, ThinkingBlock)]
        assert sorted(blocks) == sorted([A, B])
    for read in (chunks, completed):
        deltas = [chunk.additional_kwargs.get("thinking_delta", "") for chunk in read]
        assert "".join(deltas) in (A + B, B + A)
        assert len(list(filter(None, deltas))) > 2  # the first node's come as they are thought
    own = [step["reasoning"] for step in response.raw["steps"][1:3]]
    assert sorted(own) == sorted([A, B])


def test_a_node_that_thinks_again_has_one_block_in_every_chunk(llm_of: Any) -> None:
    said = [("a", "", "Mm. "), ("a", "1", ""), ("b", "", "So."), ("b", "2", ""), ("a", "", "Oh.")]
    frames = [frame(node(id_, "executing", text, reasoning=why)) for id_, text, why in said]
    with Emulator(apps={"app": lambda call: [*frames, frame(finish="stop", text="!")]}) as cloud:
        chunks = list(llm_of(cloud).stream_chat([ChatMessage(content="hi")]))
    seen = [
        [block.content for block in chunk.message.blocks if isinstance(block, ThinkingBlock)]
        for chunk in chunks
    ]
    whole = ["Mm. Oh.", "So."]
    assert seen == [["Mm. "], ["Mm. ", "So."], whole, whole, whole]


# ----------------------------------------------------------------------- tokens


def test_tokens_are_counted_once_and_shown_by_step(ask: Any, llm_of: Any) -> None:
    counter = TokenCountingHandler(tokenizer=str.split)
    with Emulator(apps={"app": TIMED}) as cloud:
        seen = ask(llm_of(cloud, callback_manager=CallbackManager([counter])))
        usage = BailianApp(app_id="app", api_key="k", base_url=cloud.base_url).invoke("hi").usage
    assert counter.prompt_llm_token_count == usage.input_tokens
    assert counter.completion_llm_token_count == usage.output_tokens
    own = [step["usage"] for step in seen.raw["steps"]]
    assert [each and each["models"][0]["model_id"] for each in own] == [
        *(None, "qwen-max"),
        *("qwen-max", None),
    ]
    assert sum(each["total_tokens"] for each in own if each) == usage.total_tokens
