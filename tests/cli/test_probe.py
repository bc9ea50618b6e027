"""`probe`: what it finds out about each kind of app, how often it calls, and what it writes."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shutil
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dashscope
import pytest
from support.command import BAILIAN, environment, exit_code_of
from support.wire import Do, WireServer

from bailian_apps.app import BailianApp
from bailian_apps.cli.probe import MAX_CALLS, PROMPT, Answer, Probe
from bailian_apps.core.result import AppResult
from bailian_apps.emulator import (
    Agent,
    Call,
    Emulator,
    Failure,
    Node,
    PromptOnly,
    Rule,
    Rules,
    Thought,
    TokenUsage,
    Turn,
    When,
    Workflow,
    load_apps,
)

KEY = "sk-0123456789abcdef"
COUNT = ", ".join(map(str, range(1, 31)))


def answer_to(prompt: str, turns: tuple[Turn, ...], earlier: list[dict[str, Any]]) -> str:
    """What a model would answer."""
    known = " ".join([turn.user for turn in turns] + [each["content"] for each in earlier])
    known += f" {prompt}"
    if "Which number" not in prompt:
        return COUNT
    numbers = re.findall(r"Remember the number (\d+)", known)[-1:]
    return " ".join(
        ["It is", *numbers, *re.findall(r"End every answer with the number (\d+)", known)]
    )


def model(call: Call) -> str:
    """An agent that remembers its session and reads messages."""
    return answer_to(call.prompt, call.turns, call.messages)


def forgetful(call: Call) -> str:
    return answer_to(call.prompt, (), call.messages)


def workflow(call: Call) -> list[dict[str, Any]]:
    """A workflow with a Start, an LLM and an End node; the first two frames of the LLM stream."""
    text = answer_to(call.prompt, call.turns, call.messages)
    half = len(text) // 2

    def frame(*pieces: str, end: bool = False) -> dict[str, Any]:
        nodes = [
            {"nodeName": name, "nodeType": type_, "nodeId": f"{type_}_1", "nodeStatus": status,
             "nodeResult": json.dumps({"result": piece})}
            for (name, type_), piece in zip((("大模型", "LLM"), ("结束", "End")), pieces, strict=False)
            for status in ["success" if end else "executing"]
        ]  # fmt: skip
        last = {"finish_reason": "stop", "text": text} if end else {"finish_reason": "null"}
        thoughts = [{"response": json.dumps(node)} for node in nodes]
        return {"output": {"thoughts": thoughts, **last}, "usage": {}}

    return [frame(text[:half]), frame(text[half:]), frame("", text), frame("", "", end=True)]


def probe(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cloud: Emulator,
    app_id: str,
    *arguments: str,
) -> tuple[int, dict[str, Any], str]:
    """Probe an app; return the exit code, the report and what is on standard error."""
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    given = ("--yes", "--json", "--base-url", cloud.base_url, *arguments)
    code = exit_code_of(monkeypatch, "probe", app_id, *given)
    printed = capsys.readouterr()
    return code, json.loads(printed.out), printed.err


def questions(report: dict[str, Any]) -> list[str]:
    return [call["question"] for call in report["calls"]]


# ---------------------------------------------------------------- kinds of app


def test_an_agent_that_does_everything_needs_no_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Emulator(apps={"mine": model}) as cloud:
        code, report, _ = probe(monkeypatch, capsys, cloud, "mine")
        assert len(cloud.requests) == 4
    assert questions(report) == ["first", "session", "messages", "unknown session"]
    assert (code, report["kind"], report["session"]) == (0, "agent", "remembered")
    assert (report["messages"], report["system_message"]) == ("read", "followed")
    assert (report["unknown_session"], report["settings"]) == ("other_id", {})
    assert report["modes"]["full_thoughts"]["streams"]
    assert report["modes"]["full_thoughts"]["last_frame"] == "empty"


@pytest.mark.parametrize("kind", ["refused", "ignored"])
def test_an_app_that_takes_only_a_prompt_is_called_with_one(
    kind: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Emulator(apps={"mine": PromptOnly(model, kind)}) as cloud:
        code, report, _ = probe(monkeypatch, capsys, cloud, "mine")
        assert len(cloud.requests) == len(report["calls"]) == 4
    assert (code, report["kind"], report["messages"]) == (0, "agent_2", kind)
    assert report["settings"] == {"history_format": "prompt"}


def test_an_app_that_refuses_only_the_system_message_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_system(call: Call) -> str:
        if any(message["role"] == "system" for message in call.messages):
            raise Failure(status=400, code="InvalidParameter", message="no role system, please")
        return model(call)

    with Emulator(apps={"mine": without_system}) as cloud:
        code, report, _ = probe(monkeypatch, capsys, cloud, "mine")
    assert questions(report)[2:4] == ["messages", "no system"]
    assert (code, report["messages"], report["system_message"]) == (0, "read", "refused")
    assert report["settings"] == {"history_format": "prompt"}


def test_an_app_that_forgets_its_session_is_sent_everything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Emulator(apps={"mine": forgetful}) as cloud:
        _, report, _ = probe(monkeypatch, capsys, cloud, "mine")
    assert (report["session"], report["settings"]) == ("forgotten", {"history_mode": "full"})
    assert "one prompt" not in questions(report)


def test_one_prompt_shows_that_an_app_can_repeat_a_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Emulator(apps={"mine": PromptOnly(forgetful, "ignored")}) as cloud:
        _, report, _ = probe(monkeypatch, capsys, cloud, "mine")
        assert len(cloud.requests) == 5
    assert "one prompt" in questions(report)
    assert (report["session"], report["messages"]) == ("forgotten", "ignored")
    assert report["settings"] == {"history_mode": "full", "history_format": "prompt"}


def test_a_workflow_is_asked_in_every_stream_mode(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Emulator(apps={"mine": PromptOnly(workflow, "ignored")}) as cloud:
        code, report, _ = probe(monkeypatch, capsys, cloud, "mine")
        asked = [request.parameters.get("flow_stream_mode") for request in cloud.requests]
    assert asked == [None] * 4 + ["message_format", "message_format_plus"]
    assert (code, report["kind"], report["session"]) == (0, "workflow", "remembered")
    assert report["messages"] == "ignored"
    modes = report["modes"]
    assert list(modes) == ["full_thoughts", "message_format", "message_format_plus"]
    assert [(step["type"], step["frames"]) for step in modes["full_thoughts"]["steps"]] == [
        ("LLM", 2),
        ("End", 1),
    ]
    assert modes["full_thoughts"]["last_frame"] == "whole"
    assert [step["type"] for step in modes["message_format"]["steps"]] == ["End"]


def test_an_answer_that_repeats_no_number_leaves_memory_open(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = TokenUsage(model_id="qwen-max", input_tokens=25, output_tokens=12)
    nodes = [
        Node(name="answer", output="Always the same text.", usage=usage),
        Node(name="end", type="End", mirrors="answer"),
    ]
    with Emulator(apps={"mine": Workflow(nodes=nodes)}) as cloud:
        code, report, _ = probe(monkeypatch, capsys, cloud, "mine")
        assert len(cloud.requests) == 7
    known = {report[name] for name in ("session", "messages", "system_message")}
    assert (code, known, report["settings"]) == (0, {"unclear"}, {})
    assert report["modes"]["message_format"]["streams"]
    tokens = [call["usage"]["total_tokens"] for call in report["calls"]]
    assert tokens == [37] * 7


def test_the_steps_of_an_agent_are_listed_with_their_action_types(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    thoughts = [
        Thought(reasoning="Some words about it."),
        Thought(tool="weather", type="mcp", arguments={"city": "x"}, observation="20"),
    ]
    with Emulator(apps={"mine": Agent(thoughts=thoughts, text="It is fine.")}) as cloud:
        _, report, _ = probe(monkeypatch, capsys, cloud, "mine")
    assert [step["type"] for step in report["steps"]] == ["reasoning", "mcp"]
    assert report["kind"] == "agent"


@pytest.mark.parametrize(
    ("last", "described", "settings"),
    [
        ("Part one. Part two.", "whole", {"flow_stream_mode": "message_format"}),
        ("Part two.", "end_node", {"flow_stream_mode": "message_format"}),
    ],
)
def test_the_last_frame_holds_the_whole_answer_or_the_end_nodes(
    last: str,
    described: str,
    settings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def message(
        name: str, type_: str, text: str, seq: int, *, done: bool = False
    ) -> dict[str, Any]:
        node = {
            "node_id": name,
            "node_name": name,
            "node_type": type_,
            "node_status": "success" if done else "executing",
            "node_is_completed": done,
            "node_msg_seq_id": seq,
            "message": {"role": "assistant", "content": text},
        }
        return {"output": {"workflow_message": node, "finish_reason": "null"}}

    def app(call: Call) -> list[dict[str, Any]]:
        if call.request.parameters.get("flow_stream_mode") is None:
            return workflow(call)
        return [
            message("output", "OUTPUT", "Part ", 1),
            message("output", "OUTPUT", "one. ", 2, done=True),
            message("end", "End", "Part ", 1),
            message("end", "End", "two.", 2),
            message("end", "End", "", 3, done=True),
            {"output": {"finish_reason": "stop", "text": last}, "usage": {}},
        ]

    with Emulator(apps={"mine": app}) as cloud:
        _, report, _ = probe(monkeypatch, capsys, cloud, "mine")
    mode = report["modes"]["message_format"]
    assert (mode["streams"], mode["last_frame"]) == (True, described)
    assert [(step["name"], step["frames"]) for step in mode["steps"]] == [("output", 2), ("end", 2)]
    assert report["settings"] == settings


@pytest.mark.parametrize(("output_nodes", "frames"), [("answer", 2), ("steps", 1)])
def test_what_streams_depends_on_the_setting_of_output_nodes(
    output_nodes: str,
    frames: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    nodes = [
        Node(name="wait", type="Output", output="One moment. "),
        Node(name="end", type="End", output="Here it is."),
    ]
    with Emulator(apps={"mine": Workflow(nodes=nodes)}) as cloud:
        given = ("--set", f"output_nodes={output_nodes}")
        code, report, _ = probe(monkeypatch, capsys, cloud, "mine", *given)
    mode = report["modes"]["message_format"]
    assert (code, mode["text_frames"], mode["streams"]) == (0, frames, frames > 1)


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("It is 12345.", True),
        ("**12,345**, or 12 345", True),
        ("１２３４５", True),
        ("12345,67890", True),
        ("12345号", True),
        ("It is 123456.", False),
        ("It is 912345.", False),
        ("12,345,678", False),
        ("0.12345", False),
        ("1, 2, 3, 4, 5", False),
        ("12, 345", False),
        ("", False),
    ],
)
def test_a_number_is_not_found_within_another_number(text: str, has: bool) -> None:
    answer = Answer(question="q", mode="m", asked_session=None, result=AppResult(text=text))
    assert answer.has("12345") is has


# -------------------------------------------------------------------- failures


def test_an_unknown_session_may_be_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Emulator(apps={"mine": model}, unknown_session="error") as cloud:
        code, report, _ = probe(monkeypatch, capsys, cloud, "mine")
    assert (code, report["unknown_session"]) == (0, "refused")
    assert report["calls"][-1]["error"] == {
        "type": "BadRequestError",
        "code": "InvalidParameter",
        "status_code": 400,
    }


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (Failure(status=401, code="InvalidApiKey"), 3),
        (Failure(status=400, code="InvalidParameter", message="biz_params.city is missing"), 6),
        (Failure(status=429, code="Throttling"), 9),
        (Failure(status=500, code="AppProcessFailed"), 11),
        (Failure(status=503, code="ModelUnavailable"), 10),
    ],
)
def test_a_first_question_that_fails_ends_the_probe(
    failure: Failure,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Emulator(apps={"mine": lambda call: failure}) as cloud:
        left, report, errors = probe(monkeypatch, capsys, cloud, "mine")
        assert len(cloud.requests) == 1
    assert (left, report["kind"], questions(report)) == (code, None, ["first"])
    assert failure.code in errors


def test_a_failed_question_does_not_end_the_probe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Emulator(apps={"mine": model}) as cloud:
        cloud.fail("http_500", nth=2)
        code, report, errors = probe(monkeypatch, capsys, cloud, "mine")
        assert len(cloud.requests) == 4
    assert (code, report["session"], report["messages"]) == (12, None, "read")
    assert [call["answered"] for call in report["calls"]] == [True, False, True, True]
    assert "✗ ServerError" in errors


def test_a_question_is_not_repeated_after_throttling(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Emulator(apps={"mine": model}) as cloud:
        cloud.fail("throttled", nth=3)
        code, report, _ = probe(
            monkeypatch,
            capsys,
            cloud,
            "mine",
            "--set",
            "max_retries:=5",
            "--set",
            "idempotent:=true",
        )
        assert len(cloud.requests) == 3
    assert (code, report["session"], report["messages"]) == (9, "remembered", None)


def test_a_lost_connection_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    with WireServer([Do.RESET]) as server:
        given = ("--yes", "--json", "--base-url", server.base_url)
        assert exit_code_of(monkeypatch, "probe", "mine", *given) == 14
        assert len(server.posts) == 1
    assert questions(json.loads(capsys.readouterr().out)) == ["first"]


def test_no_app_is_asked_more_often_than_announced() -> None:
    def stubborn(call: Call) -> list[dict[str, Any]]:
        if call.messages and call.messages[0]["role"] == "system":
            raise Failure(status=400, code="InvalidParameter", message="no role system, please")
        return workflow(Call(request=call.request, session_id=call.session_id, request_id=""))

    with Emulator(apps={"mine": PromptOnly(stubborn, "ignored")}) as cloud:
        app = BailianApp(app_id="mine", api_key=KEY, base_url=cloud.base_url)
        asked = Probe(app, PROMPT)
        list(asked.ask_all())
        assert len(cloud.requests) == len(asked.answers) <= MAX_CALLS == len(asked.plan())
    assert asked.answers.keys() <= asked.plan().keys()


# ------------------------------------------------------- before and after calls


def test_without_a_terminal_nothing_is_sent_unless_confirmed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with Emulator(apps={"mine": model}) as cloud:
        assert exit_code_of(monkeypatch, "probe", "mine", "--base-url", cloud.base_url) == 2
        assert cloud.requests == []
    assert "--yes is needed without a terminal" in capsys.readouterr().err


def test_a_missing_key_is_found_before_anything_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(dashscope, "api_key", None)
    monkeypatch.setattr(dashscope, "api_key_file_path", str(tmp_path / "none"))
    with Emulator(apps={"mine": model}) as cloud:
        given = ("--yes", "--base-url", cloud.base_url)
        assert exit_code_of(monkeypatch, "probe", "mine", *given) == 2
        assert cloud.requests == []
    assert "API key is missing" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "code", "calls"), [("n\n", 1, 0), ("\n", 1, 0), ("y\n", 0, 4)])
def test_in_a_terminal_it_lists_the_questions_and_asks(typed: str, code: int, calls: int) -> None:
    with Emulator(apps={"mine": model}) as cloud:
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [BAILIAN, "probe", "mine", "--base-url", cloud.base_url],
            env=environment(TERM="dumb", COLUMNS="80"),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            os.close(theirs)
            os.write(ours, typed.encode())
            out, errors = process.communicate(timeout=120)
            os.close(ours)
        assert len(cloud.requests) == calls
    assert process.returncode == code
    assert f"up to {MAX_CALLS} times" in " ".join(errors.split())
    assert all(name in errors for name in ("first", "unknown session", "message_format_plus"))
    assert ("settings to use  the defaults" in out) == bool(calls)
    assert ("Nothing was sent." in errors) != bool(calls)


def test_ctrl_c_ends_with_what_is_known() -> None:
    waiting = threading.Event()

    def app(call: Call) -> Iterator[dict[str, Any]]:
        if call.turns:
            waiting.set()
            call.disconnected.wait(60)
        yield {"output": {"text": COUNT, "finish_reason": "null"}}
        yield {"output": {"text": "", "finish_reason": "stop"}}

    with Emulator(apps={"mine": app}) as cloud:
        with subprocess.Popen(
            [BAILIAN, "probe", "mine", "--yes", "--json", "--base-url", cloud.base_url],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert waiting.wait(60)
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=60)
        assert len(cloud.requests) == 2
        assert cloud.requests[1].disconnected.wait(60)
    report = json.loads(out)
    assert process.returncode == 130
    assert [call["answered"] for call in report["calls"]] == [True, False]
    assert "Traceback" not in errors


# ----------------------------------------------------------------------- text


def test_the_report_is_short_lines_of_plain_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "80")
    with Emulator(apps={"mine": PromptOnly(workflow, "ignored")}) as cloud:
        given = ("--yes", "--base-url", cloud.base_url)
        assert exit_code_of(monkeypatch, "probe", "mine", *given) == 0
    printed = capsys.readouterr()
    assert max(map(len, (printed.out + printed.err).splitlines())) <= 80
    assert all(line == line.rstrip() for line in printed.out.splitlines())
    assert "kind of app          workflow\n" in printed.out
    assert "messages             ignores all but the last one\n" in printed.out
    assert 'in Python            history_format="prompt",\n' in printed.out
    assert "in a terminal        --set history_format=prompt\n" in printed.out
    assert "put the variable historyList into the prompt" in printed.out


def test_an_app_that_pauses_is_reported_as_such(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    nodes = [
        Node(name="say", type="Output", output="Which?"),
        Node(name="ask", type="Input", status="pause"),
    ]
    with Emulator(apps={"mine": Workflow(nodes=nodes)}) as cloud:
        given = ("--yes", "--base-url", cloud.base_url)
        assert exit_code_of(monkeypatch, "probe", "mine", *given) == 0
    printed = capsys.readouterr().out
    assert "pauses               it waits for a person: ask (Input)\n" in printed
    assert "End node" not in printed, "it did not run"


# ----------------------------------------------------------------------- --save


def test_save_writes_recordings_and_a_report_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    token = "user-token-98765"

    def leaky(call: Call) -> str:
        return f"{model(call)} {token} {KEY}"

    folder = tmp_path / "found"
    with Emulator(apps={"mine": PromptOnly(leaky)}, api_key=KEY) as cloud:
        code, report, _ = probe(
            *(monkeypatch, capsys, cloud, "mine", "--save", str(folder)),
            *("--biz-json", json.dumps({"user_defined_tokens": {"tool": {"user_token": token}}})),
        )
        calls = len(cloud.requests)
    assert code == 0
    recordings = sorted(folder.glob("*.jsonl"))
    assert len(recordings) == calls == len(report["calls"])
    assert recordings[2].name == "0003-mine-400.jsonl"
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8")
        assert token not in text
        assert KEY not in text
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in recordings)
    written = (folder / "report.md").read_text(encoding="utf-8")
    assert "messages         refused\n" in written
    assert json.loads(written.split("```json\n")[1].removesuffix("\n```\n")) == report
    assert PROMPT not in written


def test_what_is_saved_can_be_served_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rules = Rules(
        rules=[
            Rule(when=When(prompt="Which"), text="I do not know."),
            Rule(text="One, two, three, four, five."),
        ]
    )
    with Emulator(apps={"mine": rules}) as cloud:
        probe(monkeypatch, capsys, cloud, "mine", "--save", str(tmp_path))
    with Emulator(apps=load_apps(tmp_path)) as local:
        app = BailianApp(app_id="mine", api_key="any", base_url=local.base_url)
        assert app.invoke(PROMPT).text == "One, two, three, four, five."


def test_a_run_that_is_cut_off_is_recorded_with_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with Emulator(apps={"mine": model}) as cloud:
        cloud.fail("close_between_frames", after_frames=2)
        code, report, _ = probe(monkeypatch, capsys, cloud, "mine", "--save", str(tmp_path))
    assert (code, report["calls"][0]["frames"]) == (17, 2)
    (path,) = tmp_path.glob("*.jsonl")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert ["data" in line for line in lines] == [False, True, True, False]
    assert lines[-1]["cut"] == "upstream"


@pytest.mark.parametrize("lost", ["recording", "report"])
def test_a_file_that_cannot_be_written_after_a_call_is_not_invalid_input(
    lost: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Exit code 2 means that nothing was sent."""
    folder, asked = tmp_path / "found", list[str]()

    def app(call: Call) -> str:
        asked.append(call.prompt)
        if lost == "report" and len(asked) == 1:
            (folder / "report.md").mkdir()
        if lost == "recording" and len(asked) == 2:
            shutil.rmtree(folder)
            folder.write_text("")
        return model(call)

    with Emulator(apps={"mine": app}) as cloud:
        code, report, errors = probe(monkeypatch, capsys, cloud, "mine", "--save", str(folder))
    assert code == 1
    assert "BailianError: --save cannot be written" in errors
    assert "Saved in" not in errors
    assert len(asked) == len(report["calls"]) == (2 if lost == "recording" else 4)
    assert report["session"] == "remembered"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--set", 'secret_biz_params:=["pin"]'), "cannot be used with secret_biz_params"),
        ((), "has a report already"),
    ],
)
def test_save_is_refused_before_anything_is_sent(
    arguments: tuple[str, ...],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    (tmp_path / "report.md").write_text("mine")
    with Emulator(apps={"mine": model}) as cloud:
        given = ("--yes", "--base-url", cloud.base_url, "--save", str(tmp_path), *arguments)
        assert exit_code_of(monkeypatch, "probe", "mine", *given) == 2
        assert cloud.requests == []
    assert problem in capsys.readouterr().err
    assert (tmp_path / "report.md").read_text() == "mine"
