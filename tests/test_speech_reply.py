"""The example that speaks: the official SDK and an app, each with a service on loopback."""

from __future__ import annotations

import gc
import importlib.util
import inspect
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dashscope
import pytest
from dashscope.audio.tts_v2 import SpeechSynthesizer
from hypothesis import given
from hypothesis import strategies as st
from support.scripts import ENVIRONMENT
from support.speech_service import Fault, SpeechService, speech_service, spoken

from bailian_apps import BailianApp, BailianError, Step, StepFinished, TextDelta
from bailian_apps.emulator import Call, Emulator, Failure

# websocket-client 1.9 leaves a socket that the other side has closed to be collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

# Old SDKs end a task that is cancelled like any other, and close its connection.
CANCEL = inspect.signature(SpeechSynthesizer.streaming_cancel)
CANCELLED = "cancelled" if "complete_timeout_millis" in CANCEL.parameters else "finished"
EXAMPLE = Path(__file__).parents[1] / "examples" / "speech_reply.py"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("speech_reply", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


example = load()


@pytest.fixture(autouse=True, scope="module")
def _end_threads() -> Iterator[None]:
    """Wait for the threads of websocket-client: they look every ten seconds whether to end."""
    before = threading.enumerate()
    yield
    for thread in threading.enumerate():
        if thread not in before:
            thread.join(60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def frame(text: str, *, last: bool = False) -> dict[str, Any]:
    return {"output": {"text": text, "finish_reason": "stop" if last else "null"}}


def two_sentences_and_no_end(call: Call) -> Iterator[Any]:
    yield frame("西湖在杭州。值得一游。")
    call.disconnected.wait(60)


def two_sentences(call: Call) -> Iterator[Any]:
    yield frame("西湖在杭州。值得一", last=False)
    yield frame("游。", last=True)


# The sentences.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("你好。“好！”他说……", ["你好。", "“好！", "”他说…", "…"]),
        ("It is 3.5 km. Node.js runs. ", ["It is 3.5 km. ", "Node.js runs. "]),
        ("Ask Dr. Li, e.g. in the U.S. today! OK?\n", ["Ask Dr. Li, e.g. in the U.S. today! ", "OK?\n"]),
        ('"Why?" she asked. Yes', ['"Why?" ', "she asked. ", "Yes"]),
        ("# 杭州\n1. 西湖\n2. 灵隐寺", ["# 杭州\n", "1. 西湖\n", "2. 灵隐寺"]),
        ("一" * 100 + "，" + "二" * 60, ["一" * 100 + "，", "二" * 60]),
        ("word " * 30, ["word " * 24, "word " * 6]),
        ("1,000," * 30, ["1,000," * 20, "1,000," * 10]),
        ("", []),
    ],
)  # fmt: skip
def test_a_text_is_cut_at_the_ends_of_its_sentences(text: str, expected: list[str]) -> None:
    assert list(example.sentences([text])) == expected


@given(st.lists(st.text(st.sampled_from("一二Ab3 .,!?:\n\"'”。，！？；…、：") | st.characters())))
def test_sentences_are_the_text_however_it_arrives(pieces: list[str]) -> None:
    text = "".join(pieces)
    cut = list(example.sentences(pieces))
    assert "".join(cut) == text
    assert cut == list(example.sentences([text]))
    assert all(0 < len(sentence) <= example.LONGEST or "](" in sentence for sentence in cut)


def test_a_sentence_does_not_wait_for_what_follows() -> None:
    pieces = iter(["西湖在杭", "州。", "值得一游"])
    assert next(example.sentences(pieces)) == "西湖在杭州。"
    assert list(pieces) == ["值得一游"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("## **西湖**的[三潭](https://a.cn/b.c?d=1)。", "西湖的三潭。"),
        ("- 3*4 是 *12*\n* a_b `c` _d_\n> ~~e~~", "3*4 是 12\na_b c d\ne"),
        ("![图](a.png)\n---\n| 菜 | 价 |\n|---|---|\n", " 菜  价 \n"),
        ("Run:\n```sh\nrm -rf /\n```\nDone. ", "Run:\nDone. "),
        ("Run:\n~~~\nrm -rf /\n~~~\nDone. ", "Run:\nDone. "),
        ("See. ```pip list``` shows it. Done. ", "See. pip list shows it. Done. "),
        ("看图 ![西湖](https://a.cn/1.png?Signature=" + "a" * 300 + ")。西湖", "看图 西湖"),
        ("[西湖](https://a.cn/?q=" + "a" * 300 + ")\n在杭州", "西湖在杭州"),
    ],
)
def test_markdown_and_code_are_not_read_aloud(text: str, expected: str) -> None:
    assert "".join(example.speakable(example.sentences([text]))) == expected


# Speaking.


@pytest.fixture
def service() -> Iterator[SpeechService]:
    with speech_service() as service:
        yield service


def speak(service: SpeechService, app: Any, path: Path) -> None:
    """Have an app's answer spoken in this process."""
    with Emulator(apps={"app": app}) as cloud, pytest.MonkeyPatch.context() as patch:
        patch.setattr(dashscope, "base_websocket_api_url", service.base_url)
        patch.setattr(dashscope, "api_key", "sk-mine")
        client = BailianApp(
            app_id="app", api_key="any", base_url=cloud.base_url, citation_marks="strip"
        )
        try:
            example.speak(client, "西湖在哪里？", path)
        finally:
            if app is two_sentences_and_no_end:
                assert cloud.requests[0].disconnected.wait(60)


def test_sentences_are_spoken_in_order_and_without_marks(
    service: SpeechService, tmp_path: Path
) -> None:
    pieces = [
        "**西湖**在杭州<re",
        "f>[1]</ref>。面积约 6",
        ".",
        "39 平方公里。\n- Wor",
        "th a visit",
    ]

    def app(call: Call) -> Iterator[Any]:
        yield from (frame(piece, last=piece == pieces[-1]) for piece in pieces)

    speak(service, app, tmp_path / "answer.mp3")
    [task] = service.tasks
    assert task.texts == ["西湖在杭州。", "面积约 6.39 平方公里。", "Worth a visit"]
    assert task.end == "finished"
    assert task.parameters["format"] == "mp3"
    assert spoken((tmp_path / "answer.mp3").read_bytes()) == "".join(task.texts)


def test_audio_is_written_before_the_answer_ends(
    service: SpeechService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = threading.Event()
    in_time: list[bool] = []
    on_data = example.Voice.on_data

    def observed(self: Any, data: bytes) -> None:
        on_data(self, data)
        written.set()

    def app(call: Call) -> Iterator[Any]:
        yield frame("西湖在杭州。值得")
        in_time.append(written.wait(60))
        yield frame("一游。", last=True)

    monkeypatch.setattr(example.Voice, "on_data", observed)
    speak(service, app, tmp_path / "answer.mp3")
    assert in_time == [True]
    assert spoken((tmp_path / "answer.mp3").read_bytes()) == "西湖在杭州。值得一游。"


def test_a_pause_in_the_answer_ends_a_task_and_the_next_sentence_starts_another(
    service: SpeechService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_time: list[bool] = []

    def app(call: Call) -> Iterator[Any]:
        yield frame("请稍候。")
        in_time.append(service.wait_for("finished"))
        yield frame("杭州晴。", last=True)

    monkeypatch.setattr(example, "IDLE_S", 0.01)
    speak(service, app, tmp_path / "answer.mp3")
    assert in_time == [True]
    assert [(task.texts, task.end) for task in service.tasks] == [
        (["请稍候。"], "finished"),
        (["杭州晴。"], "finished"),
    ]
    assert spoken((tmp_path / "answer.mp3").read_bytes()) == "请稍候。杭州晴。"


def test_an_answer_without_text_is_not_spoken(service: SpeechService, tmp_path: Path) -> None:
    def app(call: Call) -> str:
        return ""

    speak(service, app, tmp_path / "answer.mp3")
    assert service.tasks == []


def test_what_an_output_node_says_is_spoken_while_the_next_node_works() -> None:
    step = Step(id="1", kind="node", name="wait", type="Output", status="success")
    events = iter([TextDelta("One moment, please."), StepFinished(step), TextDelta("It is sunny.")])
    assert next(example.sentences(example.texts(events))) == "One moment, please.\n"
    assert len(list(events)) == 1


# Failures.


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("refuse", "Throttling.RateQuota: Requests rate limit"),
        ("fail", "InternalError: no voice left"),
        ("drop", "."),  # as the operating system says it
    ],
)
def test_a_synthesis_that_fails_ends_the_answer(
    service: SpeechService, tmp_path: Path, fault: Fault, message: str
) -> None:
    service.fault = fault
    with pytest.raises(example.SpeechError, match=message):
        speak(service, two_sentences_and_no_end, tmp_path / "answer.mp3")


def test_a_connection_that_is_lost_at_the_end_is_an_error(
    service: SpeechService, tmp_path: Path
) -> None:
    service.fault = "drop_at_the_end"
    with pytest.raises(example.SpeechError):
        speak(service, two_sentences, tmp_path / "answer.mp3")


def test_a_failure_at_the_end_is_reported_before_the_sdk_wakes_who_waits(
    service: SpeechService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_error = example.Voice.on_error
    waits: list[bool] = []

    def observed(self: Any, message: str) -> None:
        waits.append(not self._task.complete_event.is_set())
        on_error(self, message)

    service.fault = "fail_at_the_end"
    monkeypatch.setattr(example.Voice, "on_error", observed)
    with pytest.raises(example.SpeechError, match="InternalError: no voice left"):
        speak(service, two_sentences, tmp_path / "answer.mp3")
    assert waits[0]


def test_a_file_that_cannot_be_written_ends_both(
    service: SpeechService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(example.Voice, "on_data", full)
    with pytest.raises(example.SpeechError, match="No space left on device"):
        speak(service, two_sentences_and_no_end, tmp_path / "answer.mp3")
    assert service.wait_for(CANCELLED)


def test_an_answer_that_fails_cancels_the_synthesis(service: SpeechService, tmp_path: Path) -> None:
    def app(call: Call) -> Iterator[Any]:
        yield frame("西湖在杭州。值得")
        service.wait_for("texts")
        yield Failure(status=400, code="DataInspectionFailed", message="not that")

    with pytest.raises(BailianError, match="not that"):
        speak(service, app, tmp_path / "answer.mp3")
    assert service.wait_for(CANCELLED)
    assert service.tasks[0].texts == ["西湖在杭州。"]


# In a process of its own.


def start(service: SpeechService, cloud: Emulator, folder: Path, key: str) -> Any:
    variables = {
        "DASHSCOPE_API_KEY": key,
        "BAILIAN_APP_ID": "app",
        "DASHSCOPE_HTTP_BASE_URL": cloud.base_url,
        "DASHSCOPE_WEBSOCKET_BASE_URL": service.base_url,
    }
    return subprocess.Popen(
        [sys.executable, str(EXAMPLE)],
        cwd=folder,
        env=ENVIRONMENT | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT to another process")
def test_ctrl_c_leaves_both(service: SpeechService, tmp_path: Path) -> None:
    with (
        Emulator(apps={"app": two_sentences_and_no_end}) as cloud,
        start(service, cloud, tmp_path, "sk-mine") as process,
    ):
        assert service.wait_for("texts", 2)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
        assert cloud.requests[0].disconnected.wait(60)
    assert (process.returncode, stderr) == (130, "")
    assert "sk-mine" not in stdout
    assert service.wait_for(CANCELLED)


@pytest.mark.process
@pytest.mark.parametrize(("key", "fault"), [("sk-mine", "fail"), ("sk-other", None)])
def test_a_failure_is_one_line_and_an_exit_code(
    service: SpeechService, tmp_path: Path, key: str, fault: Fault | None
) -> None:
    service.fault = fault
    with (
        Emulator(apps={"app": two_sentences_and_no_end}) as cloud,
        start(service, cloud, tmp_path, key) as process,
    ):
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    why = "InternalError: no voice left" if fault else "Handshake status 401 Unauthorized"
    assert stderr == f"SpeechError: {why}\n"
    assert key not in stdout
