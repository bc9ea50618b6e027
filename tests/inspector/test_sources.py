"""What a picture can be made of: results, errors, messages, responses, frames and recordings."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.recordings import ALL, FOLDER, UNFINISHED, expected_text

from bailian_apps import BailianApp, BailianError
from bailian_apps.emulator import Emulator, Recorder
from bailian_apps.inspector import render, render_frames, to_svg
from bailian_apps.inspector.sources import runs_of
from bailian_apps.langchain import BailianAppTool, ChatBailianApp
from bailian_apps.llamaindex import BailianAppLLM, BailianAppQueryEngine, bailian_app_tool

TIMED = FOLDER / "workflow-timed.jsonl"
NAMES = ["开始", "大模型_1", "大模型_2", "结束"]


@pytest.fixture(scope="module")
def settings() -> Any:
    with Emulator(apps={"trip": TIMED}) as cloud:
        yield {"app_id": "trip", "api_key": "k", "base_url": cloud.base_url}


def names(obj: object) -> list[str]:
    (run,) = runs_of(obj)
    assert run.result.text == expected_text(TIMED.name)
    assert run.result.usage.output_tokens == 37
    assert run.result.elapsed_ms
    assert [step.ended_ms for step in run.result.steps].count(None) == 0
    assert "大模型_1" in render(obj)
    return [step.name for step in run.result.steps]


def test_a_result_and_a_message_of_langchain_are_drawn_alike(settings: Any) -> None:
    from langchain_core.messages import HumanMessage

    assert names(BailianApp(**settings).invoke("Hi")) == NAMES
    message = ChatBailianApp(**settings).invoke("Hi")
    assert names(message) == NAMES
    state = {"messages": [HumanMessage("Where to?"), message, HumanMessage("And?"), message]}
    runs = runs_of(state)
    assert [run.prompt for run in runs] == ["Where to?", "And?"]
    assert render(state).count('<details class="run"') == 2
    assert runs_of(state["messages"]) == runs
    assert runs_of(SimpleNamespace(**state)) == runs


def test_a_message_of_standard_blocks_keeps_its_steps(settings: Any) -> None:
    message = ChatBailianApp(**settings, output_version="v1").invoke("Hi")
    assert names(message) == NAMES


def test_a_tool_message_holds_its_run(settings: Any) -> None:
    tool = BailianAppTool(**settings, name="trip", description="Plans a trip.")
    call: Any = {"name": "trip", "args": {"prompt": "Hi"}, "id": "1", "type": "tool_call"}
    message = tool.invoke(call)
    assert names(message) == NAMES
    assert runs_of(message)[0].prompt == "Hi"
    assert runs_of({"messages": [message]})[0].result.steps == runs_of(message)[0].result.steps


def test_responses_of_llamaindex_are_drawn(settings: Any) -> None:
    from llama_index.core.llms import ChatMessage

    llm = BailianAppLLM(**settings)
    assert names(llm.chat([ChatMessage("Hi")])) == NAMES
    assert names(llm.complete("Hi")) == NAMES
    assert names(BailianAppQueryEngine.from_defaults(**settings).query("Hi")) == NAMES
    assert names(bailian_app_tool(**settings, name="trip", description="d").call("Hi")) == NAMES


def test_an_error_shows_what_had_arrived(settings: Any) -> None:
    with Emulator(apps={"trip": TIMED}) as cloud:
        cloud.fail("close_between_frames", after_frames=5)
        with pytest.raises(BailianError) as caught:
            BailianApp(**settings | {"base_url": cloud.base_url}).invoke("Hi")
    page = render(caught.value)
    assert "the connection was lost before the run finished" in page
    assert "大模型_1" in page
    assert "st-running" in page
    with pytest.raises(BailianError) as caught:
        BailianApp(**settings | {"app_id": "missing"}).invoke("Hi")
    assert str(caught.value.code) in render(caught.value)  # pyright: ignore


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_every_recording_is_drawn(path: Path) -> None:
    (run,) = runs_of(path)
    assert path.name in render(path)
    assert to_svg(str(path)).startswith("<svg")
    if path.name.startswith("error"):
        assert run.error
        return
    assert run.finished == (path.name not in UNFINISHED)
    if run.finished:
        assert run.result.text == expected_text(path.name) or run.result.final_text


def test_a_folder_becomes_one_page_with_an_anchor_for_each_recording(tmp_path: Path) -> None:
    page = render(FOLDER)
    assert page.count('<details class="run" id="run-') == len(ALL)
    with pytest.raises(ValueError, match="has no recording"):
        render(tmp_path)


def test_what_the_recorder_wrote_has_the_request_and_the_times(tmp_path: Path) -> None:
    with Emulator(apps={"trip": TIMED}, pace=20) as cloud:
        with Recorder(tmp_path, upstream=cloud.base_url) as proxy:
            app = BailianApp(app_id="trip", api_key="sk-secret", base_url=proxy.base_url)
            result = app.invoke("Where to?", biz_params={"user_token": "tok-1", "city": "杭州"})
        (path,) = proxy.recordings
    (run,) = runs_of(path)
    assert (run.app_id, run.prompt) == ("trip", "Where to?")
    assert run.result == result
    began = [step.started_ms for step in run.result.steps]
    assert began == sorted(began, key=lambda ms: ms or 0)
    assert began[-1]
    assert "tok-1" not in render(path)


def test_a_recording_of_cumulative_frames_is_read_once(tmp_path: Path) -> None:
    node = {"nodeId": "n", "nodeName": "N", "nodeType": "LLM", "nodeStatus": "executing"}

    def frame(result: str, text: str | None = None, status: str = "executing") -> dict[str, Any]:
        entry = node | {"nodeStatus": status, "nodeResult": json.dumps({"result": result})}
        output: dict[str, Any] = {"thoughts": [{"response": json.dumps(entry)}]}
        return {
            "data": {"output": output | ({"text": text, "finish_reason": "stop"} if text else {})}
        }

    lines = [
        {"request": {"app_id": "a", "body": {"input": {"prompt": "p"}, "parameters": {"has_thoughts": True}}}},
        frame("One"), frame("One two"), frame("One two three", status="success"), frame("", "Whole", status="success"),
    ]  # fmt: skip
    path = tmp_path / "cumulative.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    (run,) = runs_of(path)
    assert [step.output for step in run.result.steps] == ["One two three"]
    assert run.result.text == "Whole"


def test_frames_with_times_become_a_page() -> None:
    frames = [
        (float(line["offset_ms"]), line["data"])
        for line in map(json.loads, TIMED.read_text(encoding="utf-8").splitlines())
    ]
    page = render_frames(frames, request={"input": {"prompt": "Where to?"}}, title="Exchange 7")
    assert "<title>Exchange 7</title>" in page
    assert "508 ms – 1.71 s" in page
    failed = render_frames(
        [(12.0, {"code": "Throttling", "message": "slow down", "request_id": "r"})]
    )
    assert "slow down" in failed
    assert render_frames([])  # it has not been answered


@pytest.mark.parametrize(
    "obj",
    [
        None,
        7,
        object(),
        {},
        [],
        b"x",
        {"messages": []},
        {"messages": ["x"]},
        SimpleNamespace(raw={}),
    ],
)
def test_what_holds_no_run_is_refused_with_what_is_accepted(obj: Any) -> None:
    with pytest.raises(TypeError, match=r"holds no run of an app: pass an AppResult"):
        render(obj)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [("a.txt", "", "not a recording"), ("a.json", "[1]", "a.json:1: must be a JSON object"),
     ("a.jsonl", '{"output": {}}\n{', "a.jsonl:2: not JSON"), ("a.sse", "data:nope", "a.sse:1: not JSON")],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_named_with_its_line(
    tmp_path: Path, name: str, text: str, problem: str
) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=problem):
        render(path)
