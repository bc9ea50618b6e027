"""What LangChain sees of an app's steps: live text, names, states, reasoning and tokens."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.callbacks import (
    AsyncCallbackHandler,
    BaseCallbackHandler,
    CallbackManager,
    UsageMetadataCallbackHandler,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from support import recordings
from support.thinking import THINKING, A, B, frame, node

from bailian_apps import BailianApp, StepDelta
from bailian_apps.emulator import Call
from bailian_apps.langchain import (
    BailianAppRetriever,
    BailianAppRunnable,
    BailianAppTool,
    ChatBailianApp,
    StepPrinter,
)
from bailian_apps.langchain.step_runs import StepRuns

TIMED = recordings.FOLDER / "workflow-timed.jsonl"


class Steps(BaseCallbackHandler):
    """Collects the data of the custom events."""

    run_inline = True

    def __init__(self) -> None:
        self.data: list[dict[str, Any]] = []

    def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        self.data.append(data)


# ------------------------------------------------------------------------- live


def test_each_node_is_heard_while_it_speaks(ask: Any, make_model: Any) -> None:
    steps = Steps()
    ask(make_model(TIMED), "hi", {"callbacks": [steps]})
    first = [each for each in steps.data if each["step"]["id"] == "LLM_j45e"]
    assert [(each["event"], each["step"]["name"]) for each in first[:3]] == [
        ("start", "LLM_j45e"),
        ("update", "大模型_1"),
        ("delta", "大模型_1"),
    ]
    said = "".join(each["text"] for each in first if each["event"] == "delta")
    assert said == recordings.node_texts(TIMED.name)["LLM_j45e"]
    assert first[-1]["event"] == "end"


def test_what_a_node_thinks_is_not_what_it_says(ask: Any, make_model: Any) -> None:
    steps = Steps()
    frames = [frame(node("a", "success", "Hi", reasoning="hm")), frame(finish="stop", text="Hi")]
    ask(make_model(lambda _: frames), "hi", {"callbacks": [steps]})
    deltas = [each for each in steps.data if each["event"] == "delta"]
    assert [(each.get("text"), each.get("reasoning")) for each in deltas] == [
        (None, "hm"),
        ("Hi", None),
    ]


def test_a_reader_sees_a_nodes_words_before_the_node_has_ended(fields_of: Any) -> None:
    heard, in_time = threading.Event(), []

    class Heard(Steps):
        def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
            if "first words" in data.get("text", ""):
                heard.set()

    def speaks(_: Call) -> Iterator[dict[str, Any]]:
        yield frame(node("a", "executing", "first words"))
        in_time.append(heard.wait(20))
        yield frame(node("a", "success"), finish="stop", text="Done.")

    tool = BailianAppTool(name="t", description="d", **fields_of(speaks))
    tool.invoke("hi", {"callbacks": [Heard()]})
    assert in_time == [True]


def test_deltas_are_reported_only_where_somebody_listens(fields_of: Any) -> None:
    class Silent(BaseCallbackHandler):
        run_inline = True

    class AsyncSteps(AsyncCallbackHandler):
        def __init__(self) -> None:
            self.kinds: list[str] = []

        async def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
            self.kinds.append(data["event"])

    class Deaf(Steps):
        @property
        def ignore_custom_event(self) -> bool:
            return True

    listening = {
        StepDelta in StepRuns(manager_of(CallbackManager([handler])), "app").reported: handler
        for handler in (Silent(), Steps())
    }
    assert isinstance(listening[False], Silent)
    assert isinstance(listening[True], Steps)
    deaf = StepRuns(manager_of(CallbackManager([Deaf(), AsyncCallbackHandler()])), "app")
    assert StepDelta not in deaf.reported
    steps = AsyncSteps()
    asyncio.run(ChatBailianApp(**fields_of(TIMED)).ainvoke("hi", {"callbacks": [steps]}))
    assert "delta" in steps.kinds


def manager_of(manager: Any) -> Any:
    [run] = manager.on_llm_start({}, ["hi"])
    return run


# --------------------------------------------------------------- names, statuses


def test_a_run_has_the_real_name_of_its_node(ask: Any, make_model: Any, log: Any) -> None:
    ask(make_model(TIMED), "hi", {"callbacks": [log]})
    started = [name for event, name in log.events if event == "start"]
    assert started == ["model", "开始", "大模型_1", "大模型_2", "结束"]


@pytest.mark.parametrize("status", ["skip", "pause", "stop"])
def test_a_state_that_is_no_failure_is_in_the_output_of_the_run(
    status: str, ask: Any, make_model: Any, traces: Any
) -> None:
    frames = [frame(node("a", status), finish="stop", text="ok")]
    ask(make_model(lambda _: frames), "hi", {"callbacks": [traces]})
    [run] = traces.roots[0].child_runs
    assert (run.error, run.outputs) == (None, {"output": "", "status": status})


@pytest.mark.parametrize(("status", "run_type"), [("skip", "chain"), ("stop", "retriever")])
def test_a_search_that_was_skipped_is_no_run_of_a_retriever(
    status: str, run_type: str, ask: Any, make_model: Any, traces: Any
) -> None:
    frames = [frame(node("kb", status, nodeType="Retrieval"), finish="stop", text="ok")]
    out = io.StringIO()
    ask(make_model(lambda _: frames), "hi", {"callbacks": [traces, StepPrinter(out)]})
    [run] = traces.roots[0].child_runs
    assert (run.run_type, run.name) == (run_type, "节点 kb")
    lines = [line for line in out.getvalue().splitlines() if "Retrieval" in line]
    assert len(lines) == (1 if status == "skip" else 2), "what is skipped does not run"
    assert lines[-1].endswith(f"节点 kb Retrieval {status}")


def test_a_child_of_a_silent_node_is_below_its_run(ask: Any, make_model: Any, traces: Any) -> None:
    loop = {"nodeName": "loop"}
    frames = [
        frame(node("loop", "executing", **loop)),
        frame(node("loop", "executing", **loop), node("in", "success", "x", parentNodeId="loop")),
        frame(node("loop", "success"), finish="stop", text="x"),
    ]
    ask(make_model(lambda _: frames), "hi", {"callbacks": [traces]})
    [outer] = traces.roots[0].child_runs
    assert [run.name for run in outer.child_runs] == ["节点 in"]


def test_a_tools_run_begins_with_whole_arguments(ask: Any, make_model: Any, traces: Any) -> None:
    call = {"action_type": "mcp", "action_name": "weather", "thought": ""}
    frames = [
        frame(call | {"arguments": '{"city"'}),
        frame(call | {"arguments": ': "杭州"}'}),
        frame(call | {"observation": "晴"}),
        frame(finish="stop", text="晴"),
    ]
    ask(make_model(lambda _: frames), "hi", {"callbacks": [traces]})
    [run] = traces.roots[0].child_runs
    assert run.inputs in ({"city": "杭州"}, {"input": '{"city": "杭州"}'})  # the latter before 1.1


# -------------------------------------------------------------------- reasoning


def reasoning_blocks(message: Any) -> list[str]:
    return [block["reasoning"] for block in message.content_blocks if block["type"] == "reasoning"]


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_nodes_that_think_at_once_have_a_block_each(
    version: str, ask: Any, make_model: Any
) -> None:
    message = ask(make_model(THINKING, output_version=version), "hi")
    assert sorted(reasoning_blocks(message)) == sorted([A, B])
    if version == "v0":
        assert message.additional_kwargs["reasoning_content"] in (A + B, B + A)
        own = [step["reasoning"] for step in message.additional_kwargs["steps"][1:3]]
        assert sorted(own) == sorted([A, B])


def test_a_stream_adds_up_to_the_blocks_of_the_message(make_model: Any) -> None:
    chunks = list(make_model(THINKING).stream("hi"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert isinstance(whole, AIMessageChunk)
    assert sorted(reasoning_blocks(whole)) == sorted([A, B])
    pieces = [chunk.additional_kwargs.get("reasoning_content", "") for chunk in chunks]
    assert "".join(pieces) in (A + B, B + A)
    assert len(list(filter(None, pieces))) > 2  # the first node's come as they are thought


def thinks_again() -> list[dict[str, Any]]:
    """Two nodes think, and say a word, in turn; some of their thoughts are of the same length."""
    said = [
        ("a", "", "Mm. "), ("a", "1", ""), ("b", "", "So. "), ("b", "", "Yes."), ("b", "2", ""),
        ("a", "", "Oh. "), ("a", "", "Aha!"), ("a", "3", ""), ("b", "", " OK."),
    ]  # fmt: skip
    frames = [frame(node(id_, "executing", text, reasoning=why)) for id_, text, why in said]
    return [*frames, frame(finish="stop", text="Done.")]


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_a_node_that_thinks_again_has_one_block(version: str, ask: Any, make_model: Any) -> None:
    model = make_model(lambda _: thinks_again(), output_version=version)
    chunks = list(model.stream("hi"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    for message in (ask(model, "hi"), whole):
        assert reasoning_blocks(message) == ["Mm. Oh. Aha!", "So. Yes. OK."]
    first = [block for chunk in chunks[:6] for block in reasoning_blocks(chunk)]
    assert "".join(first).startswith("Mm. So. Yes.")


@pytest.mark.skipif(
    not hasattr(BaseChatModel, "stream_events"), reason="langchain-core has no protocol events"
)
def test_protocol_events_have_a_block_for_each_node_that_thinks(make_model: Any) -> None:
    message = make_model(THINKING).stream_events("hi", version="v3").output
    assert sorted(reasoning_blocks(message)) == sorted([A, B])


# ----------------------------------------------------------------------- tokens


def callers(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": ChatBailianApp(**fields),
        "runnable": BailianAppRunnable(**fields),
        "tool": BailianAppTool(name="t", description="d", **fields),
        "retriever": BailianAppRetriever(**fields),
    }


@pytest.mark.parametrize("kind", ["model", "runnable", "tool", "retriever"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_tokens_are_counted_once(kind: str, asynchronous: bool, fields_of: Any) -> None:
    fields = fields_of(TIMED)
    usage = BailianApp(**fields).invoke("hi").usage
    counted = UsageMetadataCallbackHandler()
    called, config = callers(fields)[kind], {"callbacks": [counted]}
    if asynchronous:
        asyncio.run(called.ainvoke("hi", config))
    else:
        called.invoke("hi", config)
    [(name, total)] = counted.usage_metadata.items()
    assert name == (fields["app_id"] if kind == "model" else "qwen-max")
    assert (total["input_tokens"], total["output_tokens"]) == (
        usage.input_tokens,
        usage.output_tokens,
    )


def test_a_model_run_is_below_the_node_that_called_it(fields_of: Any, traces: Any) -> None:
    BailianAppRunnable(**fields_of(TIMED)).invoke("hi", {"callbacks": [traces]})
    [root] = traces.roots
    below = {run.name: [child.name for child in run.child_runs] for run in root.child_runs}
    assert below == {"开始": [], "大模型_1": ["qwen-max"], "大模型_2": ["qwen-max"], "结束": []}
    model = root.child_runs[1].child_runs[0]
    assert (model.run_type, model.extra["metadata"]["ls_model_name"]) == ("llm", "qwen-max")


def test_a_failed_run_counts_what_it_had_used(fields_of: Any) -> None:
    used = {"models": [{"model_id": "m", "input_tokens": 5, "output_tokens": 4}]}
    frames = [frame(node("a", "success", "x")) | {"usage": used}]
    counted = UsageMetadataCallbackHandler()
    with pytest.raises(Exception, match="before the run finished"):
        BailianAppRunnable(**fields_of(lambda _: frames)).invoke("hi", {"callbacks": [counted]})
    assert counted.usage_metadata["m"]["total_tokens"] == 9
