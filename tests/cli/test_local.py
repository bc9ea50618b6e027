"""serve, record and replay, as their users run them: processes, signals, exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bailian_apps import AuthenticationError, BailianApp
from bailian_apps.emulator import Emulator, Failure

COMMAND = str(Path(sys.executable).with_name("bailian-apps"))
RECORDINGS = Path(__file__).parents[1] / "recordings"
TRAVEL = RECORDINGS / "workflow-timed.jsonl"
ANSWER = "亲,对我的介绍还满意吗"
KEY = "sk-0123456789abcdef"


def environment(**variables: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
    return inherited | {"PYTHONUTF8": "1", "COLUMNS": "100"} | variables


def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


class Running:
    """A command that serves, and what it printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.fullmatch(r"export DASHSCOPE_HTTP_BASE_URL=(http\S+)\n", line)
        assert match, line
        self.base_url = match[1]

    def end(self, number: int) -> tuple[str, str]:
        """Send a signal; what was printed until it ended, which it does well."""
        out, err = self.process.stdout, self.process.stderr
        assert out is not None
        assert err is not None
        said = ""
        while "Ctrl-C ends it" not in said:
            said += err.readline()
        self.process.send_signal(number)
        said += err.read()
        assert self.process.wait(20) == 0
        assert "Traceback" not in said
        return out.read(), said


@contextmanager
def running(*arguments: str | Path, **variables: str) -> Iterator[Running]:
    with subprocess.Popen(
        [COMMAND, *map(str, arguments)],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Running(process)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_answers_until_it_is_told_to_stop(number: int) -> None:
    with running("serve", "--app", f"mine={TRAVEL}", "--port", "0") as server:
        app = BailianApp(app_id="mine", api_key=KEY, base_url=server.base_url)
        assert app.invoke("a secret question").text == ANSWER
        out, err = server.end(number)
    assert out == "export DASHSCOPE_API_KEY=any-key\n"
    assert re.search(r"\d\d:\d\d:\d\d  mine  stream  200  \d+ ms\n", err)
    assert KEY not in err
    assert "secret question" not in err


def test_it_may_be_told_to_stop_before_it_has_said_how() -> None:
    with running("serve", "--port", "0") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(20) == 0
        assert server.process.stderr is not None
        assert "Traceback" not in server.process.stderr.read()


def test_serve_takes_a_folder_and_one_key(tmp_path: Path) -> None:
    (tmp_path / "travel.jsonl").write_bytes(TRAVEL.read_bytes())
    (tmp_path / "shop.yaml").write_text("text: Sold out\n")
    with running("serve", tmp_path, "--api-key", "sk-right", "--port", "0") as server:
        mine = BailianApp(app_id="shop", api_key="sk-right", base_url=server.base_url)
        assert mine.invoke("tea").text == "Sold out"
        assert mine.invoke("杭州", app_id="travel").text == ANSWER
        with pytest.raises(AuthenticationError):
            mine.invoke("tea", api_key="sk-wrong")
        out, err = server.end(signal.SIGINT)
    assert "sk-right" not in out + err
    assert "shop  stream  401" in err


def test_serve_without_a_file_has_the_travel_app() -> None:
    with running("serve", "--port", "0") as server:
        app = BailianApp(app_id="travel", api_key=KEY, base_url=server.base_url)
        assert app.invoke("杭州").text == ANSWER


def test_an_open_stream_does_not_keep_it_from_stopping(tmp_path: Path) -> None:
    slow = tmp_path / "slow.yaml"
    slow.write_text("agent: {text: [a, b], chunk_ms: 60000}\n")
    with running("serve", slow, "--pace", "1", "--port", "0") as server:
        app = BailianApp(app_id="slow", api_key=KEY, base_url=server.base_url)
        with app.stream("hi") as events:
            next(events)
            _, err = server.end(signal.SIGINT)
    assert "cut off" in err


@pytest.mark.parametrize(
    ("proxy", "no_proxy", "line"),
    [
        ("http_proxy", "", 'export NO_PROXY="$NO_PROXY,127.0.0.1"\n'),
        ("ALL_PROXY", "", 'export NO_PROXY="$NO_PROXY,127.0.0.1"\n'),
        ("http_proxy", "a.example", 'export no_proxy="$no_proxy,127.0.0.1"\n'),
        ("http_proxy", "127.0.0.1", ""),
        ("https_proxy", "", ""),
    ],
)
def test_behind_a_proxy_it_says_what_must_not_go_there(
    proxy: str, no_proxy: str, line: str
) -> None:
    given = {proxy: "http://127.0.0.1:9", "no_proxy": no_proxy}
    with running("serve", "--port", "0", **given) as server:
        out, _ = server.end(signal.SIGINT)
    assert out == "export DASHSCOPE_API_KEY=any-key\n" + line


def test_another_address_is_warned_of() -> None:
    with running("serve", "--host", "0.0.0.0", "--port", "0") as server:
        assert server.base_url.startswith("http://127.0.0.1:")
        assert server.process.stderr is not None
        said = [server.process.stderr.readline() for _ in range(2)]
    assert any("everybody who can reach this machine" in line for line in said)


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = [run("serve", "--port", port), run("record", "--out", tmp_path, "--port", port)]
    for each in done:
        assert each.returncode == 2
        assert f"cannot listen on 127.0.0.1 port {port}" in each.stderr
        assert "Traceback" not in each.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["serve", "missing"], "path 'missing' does not exist"),
        (["serve", "--app", "travel"], "is no id=path"),
        (["serve", "--app", "a=notes.txt"], "notes.txt"),
        (["replay", "missing.jsonl"], "path 'missing.jsonl' does not exist"),
        (["replay", "notes.txt"], "notes.txt"),
        (["record", "--out", "x", "--upstream", "ftp://host"], "is no API address"),
        (["record", "--out", __file__, "--port", "0"], "--out: " + __file__ + " cannot be made"),
    ],
)
def test_what_cannot_be_read_is_said(arguments: list[str], problem: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_a_key_in_the_place_of_the_address_is_not_shown(tmp_path: Path) -> None:
    done = run("record", "--out", tmp_path, DASHSCOPE_HTTP_BASE_URL=KEY)
    assert done.returncode == 2
    assert "--upstream (or DASHSCOPE_HTTP_BASE_URL): is no API address" in done.stderr
    assert KEY not in done.stderr


def test_record_then_serve_what_was_recorded(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        Emulator(apps={"mine": TRAVEL}, api_key=KEY) as cloud,
        running(
            "record", "--out", out, "--port", "0", DASHSCOPE_HTTP_BASE_URL=cloud.base_url
        ) as proxy,
    ):
        app = BailianApp(app_id="mine", api_key=KEY, base_url=proxy.base_url)
        recorded = app.invoke("杭州")
        _, err = proxy.end(signal.SIGINT)
    assert re.search(r"0001-mine-stream.jsonl  200  11 frames  \d+ ms", err)
    assert "1 recorded" in err
    assert KEY not in err
    with running("serve", out, "--port", "0") as server:
        replayed = BailianApp(app_id="mine", api_key="any", base_url=server.base_url).invoke("杭州")
    assert (replayed.text, replayed.steps) == (recorded.text, recorded.steps)


def test_the_recorder_does_not_call_itself(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = run(
        "record",
        "--out",
        tmp_path,
        "--port",
        str(port),
        DASHSCOPE_HTTP_BASE_URL=f"http://127.0.0.1:{port}/api/v1",
    )
    assert done.returncode == 2
    assert "is the recorder itself" in done.stderr


def test_replay_shows_a_recording_as_a_run() -> None:
    done = run("replay", TRAVEL, "--pace", "0", "--steps")
    assert (done.returncode, done.stdout) == (0, ANSWER + "\n")
    assert "✓ 大模型_1 LLM 1315 ms" in done.stderr


@pytest.mark.parametrize(
    "name",
    ["workflow-message-format.sse", "agent-plain-stream.sse", "agent-hello.json"],
)
def test_replay_reads_every_kind_of_recording(name: str) -> None:
    done = run("replay", RECORDINGS / name, "--json", "--pace", "0")
    assert done.returncode == 0
    assert json.loads(done.stdout)["text"]


def test_replay_prints_the_frames() -> None:
    done = run("replay", TRAVEL, "--raw", "--pace", "0")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 11


def test_replaying_a_failure_fails_like_it(tmp_path: Path) -> None:
    def throttled(_: object) -> Failure:
        return Failure(status=429, code="Throttling", message="Slow down")

    with (
        Emulator(apps={"mine": throttled}) as cloud,
        running("record", "--out", tmp_path, "--upstream", cloud.base_url, "--port", "0") as proxy,
    ):
        variables = {"DASHSCOPE_API_KEY": KEY, "DASHSCOPE_HTTP_BASE_URL": proxy.base_url}
        assert run("run", "mine", "hi", "--set", "max_retries:=0", **variables).returncode == 9
        proxy.end(signal.SIGINT)
    done = run("replay", tmp_path / "0001-mine-429.jsonl")
    assert done.returncode == 9
    assert "Slow down" in done.stderr


def test_without_the_extra_it_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['uvicorn'] = None; sys.argv = ['bailian-apps', 'serve'];"
        "from bailian_apps.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 1
    assert 'pip install "bailian-apps[emulator]"' in done.stderr
    assert "Traceback" not in done.stderr
