"""`serve`, `record` and `replay` as their users run them: processes, signals, exit codes."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import requests
from support.command import BAILIAN, bailian, environment, exit_code_of

from bailian_apps import AuthenticationError, BailianApp
from bailian_apps.emulator import Emulator, Failure

RECORDINGS = Path(__file__).parents[1] / "recordings"
TRAVEL = RECORDINGS / "workflow-timed.jsonl"
ANSWER = "亲,对我的介绍还满意吗"
KEY = "sk-0123456789abcdef"


class Running:
    """A server command and its output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.fullmatch(r"export DASHSCOPE_HTTP_BASE_URL=(http\S+)\n", line)
        assert match, line
        self.base_url = match[1]

    def end(self, number: int) -> tuple[str, str]:
        """Send a signal, and return the rest of both outputs of a process that exits with 0."""
        out, err = self.process.stdout, self.process.stderr
        assert out is not None
        assert err is not None
        log = ""
        while "Press Ctrl-C to stop" not in log:
            log += err.readline()
        self.process.send_signal(number)
        log += err.read()
        assert self.process.wait(60) == 0
        assert "Traceback" not in log
        return out.read(), log


@contextmanager
def running(*arguments: str | Path, **variables: str) -> Iterator[Running]:
    with subprocess.Popen(
        [BAILIAN, *map(str, arguments)],
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
def test_serve_answers_calls_until_a_signal_stops_it(number: int) -> None:
    with running("serve", "--app", f"mine={TRAVEL}", "--port", "0") as server:
        app = BailianApp(app_id="mine", api_key=KEY, base_url=server.base_url)
        assert app.invoke("a question").text == ANSWER
        out, err = server.end(number)
    assert out == "export DASHSCOPE_API_KEY=any-key\n"
    assert f"Page: {server.base_url.removesuffix('/api/v1')}/\n" in err
    assert re.search(r"\d\d:\d\d:\d\d  mine    200 +\d+ ms  \w{6}   a question\n", err)
    assert KEY not in err


def test_serve_and_record_answer_at_hosts_that_are_allowed(tmp_path: Path) -> None:
    allowed = ("--allow-host", "one.test", "--allow-host", "two.test", "--port", "0")
    with (
        running("serve", *allowed) as server,
        running("record", "--out", tmp_path, "--upstream", server.base_url, *allowed) as proxy,
    ):
        for base_url in (server.base_url, proxy.base_url):
            status = {
                name: httpx.get(base_url, headers={"Host": name}, trust_env=False).status_code
                for name in ("one.test", "two.test", "three.test")
            }
            assert status == {"one.test": 404, "two.test": 404, "three.test": 403}


def test_serve_can_be_interrupted_before_it_is_ready() -> None:
    with running("serve", "--port", "0") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0
        assert server.process.stderr is not None
        assert "Traceback" not in server.process.stderr.read()


def test_serve_reads_a_folder_and_accepts_one_key(tmp_path: Path) -> None:
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
    assert re.search(r"  shop    401  .*  tea\n", err)


@pytest.mark.parametrize("source", ["variable", "key file", "file"])
def test_serve_reads_its_key_from_the_environment_or_a_file(source: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("sk-right\n")
    variables = {
        "variable": {"DASHSCOPE_API_KEY": "sk-right"},
        "key file": {"DASHSCOPE_API_KEY": "", "DASHSCOPE_API_KEY_FILE_PATH": str(path)},
        "file": {},
    }[source]
    option = f"@{path}" if source == "file" else "-"
    with running("serve", "--api-key", option, "--port", "0", **variables) as server:
        app = BailianApp(app_id="travel", api_key="sk-right", base_url=server.base_url)
        assert app.invoke("杭州").text == ANSWER
        with pytest.raises(AuthenticationError):
            app.invoke("杭州", api_key="sk-wrong")
        out, err = server.end(signal.SIGINT)
    assert "sk-right" not in out + err
    assert "the key of --api-key" in out


@pytest.mark.parametrize(
    ("option", "problem"),
    [("@missing", "cannot be read (No such file"), ("", "is empty"), ("-", "cannot be read")],
)
def test_serve_refuses_to_start_without_the_key_that_it_is_given(
    option: str, problem: str, tmp_path: Path
) -> None:
    variables = {"DASHSCOPE_API_KEY": "", "DASHSCOPE_API_KEY_FILE_PATH": str(tmp_path / "none")}
    done = bailian("serve", "--api-key", option, "--port", "0", **variables)
    assert done.returncode == 2
    assert f"--api-key {problem}" in done.stderr


@pytest.mark.parametrize(("options", "status"), [((), 200), (("--strict",), 400)])
def test_serve_refuses_a_misspelt_name_only_if_strict(
    options: tuple[str, ...], status: int
) -> None:
    body = {"input": {"prompt": "杭州"}, "parameters": {"temprature": 1}}
    with running("serve", "--port", "0", *options) as server:
        answer = requests.post(
            f"{server.base_url}/apps/travel/completion",
            json=body,
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=60,
        )
    assert answer.status_code == status
    assert ("did you mean temperature?" in answer.text) == (status == 400)


def test_serve_without_files_has_a_travel_app() -> None:
    with running("serve", "--port", "0") as server:
        app = BailianApp(app_id="travel", api_key=KEY, base_url=server.base_url)
        assert app.invoke("杭州").text == ANSWER


def test_serve_records_what_is_missing_and_serves_it_without_the_cloud(tmp_path: Path) -> None:
    with Emulator(apps={"mine": TRAVEL}, api_key=KEY) as cloud:
        given = {"DASHSCOPE_HTTP_BASE_URL": cloud.base_url}
        with running("serve", tmp_path, "--record-missing", "--port", "0", **given) as server:
            app = BailianApp(app_id="mine", api_key=KEY, base_url=server.base_url)
            assert [app.invoke("杭州").text for _ in range(2)] == [ANSWER] * 2
            out, err = server.end(signal.SIGINT)
        assert out == ""  # the caller keeps its own key
        assert len(cloud.requests) == 1
    assert f"What is not recorded goes to {given['DASHSCOPE_HTTP_BASE_URL']}, at your cost." in err
    assert re.search(r"mine    200 .*  passed on, recorded  杭州\n", err)
    with running("serve", tmp_path, "--nearest", "--port", "0") as server:
        app = BailianApp(app_id="mine", api_key="any", base_url=server.base_url)
        assert app.invoke("杭州?").text == ANSWER
        _, err = server.end(signal.SIGINT)
    assert "  nearest 0001-mine-stream.jsonl; differs: prompt  杭州?\n" in err


def test_what_serve_records_is_masked_as_by_record(tmp_path: Path) -> None:
    with Emulator(apps={"mine": TRAVEL}) as cloud:
        given = {"DASHSCOPE_HTTP_BASE_URL": cloud.base_url}
        options = ("--record-missing", "--mask", "phone", "--port", "0")
        with running("serve", tmp_path, *options, **given) as server:
            app = BailianApp(app_id="mine", api_key=KEY, base_url=server.base_url)
            assert app.invoke("杭州", biz_params={"phone": "13800"}).text == ANSWER
            server.end(signal.SIGINT)
        assert cloud.requests[0].biz_params == {"phone": "13800"}
    (recording,) = tmp_path.iterdir()
    assert "13800" not in recording.read_text(encoding="utf-8")


def test_serve_reads_a_changed_file_again(tmp_path: Path) -> None:
    path = tmp_path / "apps.yaml"
    path.write_text("- {id: a, text: x}\n- {id: b, text: y}\n")
    with running("serve", path, "--port", "0") as server:
        app = BailianApp(app_id="b", api_key="k", base_url=server.base_url)
        assert app.invoke("?").text == "y"
        path.write_text("- {id: a, text: x}\n- {id: b, txt: z}\n")
        assert app.invoke("?").text == "y"
        path.write_text("- {id: a, text: x}\n- {id: b, text: z}\n")
        assert app.invoke("?").text == "z"
        _, err = server.end(signal.SIGINT)
    assert f"not reloaded: {path}:2: [1]: unknown field 'txt'; did you mean text?" in err
    assert f"  reloaded {path}\n" in err


def test_serve_stops_while_a_stream_is_open(tmp_path: Path) -> None:
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
def test_serve_prints_no_proxy_where_a_proxy_would_be_used(
    proxy: str, no_proxy: str, line: str
) -> None:
    given = {proxy: "http://127.0.0.1:9", "no_proxy": no_proxy}
    with running("serve", "--port", "0", **given) as server:
        out, _ = server.end(signal.SIGINT)
    assert out == "export DASHSCOPE_API_KEY=any-key\n" + line


def test_serve_warns_when_others_can_connect() -> None:
    with running("serve", "--host", "0.0.0.0", "--port", "0") as server:
        assert server.base_url.startswith("http://127.0.0.1:")
        assert server.process.stderr is not None
        log = [server.process.stderr.readline() for _ in range(2)]
    assert any("anyone who can reach this machine" in line for line in log)


@pytest.mark.parametrize("command", [["serve"], ["record", "--out", "recordings"]])
def test_a_port_in_use_is_an_input_error(
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert exit_code_of(monkeypatch, *command, "--port", port) == 2
    problem = f"cannot listen on 127.0.0.1 port {port} (Address already in use). Choose"
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["serve", "missing"], "path 'missing' does not exist"),
        (["serve", "--app", "travel"], "--app must be ID=FILE"),
        (["serve", "--app", "a=notes.txt"], "notes.txt"),
        (["serve", "--record-missing"], "needs one folder to write to, not none"),
        (["serve", "--mask", "phone"], "--mask needs --record-missing"),
        (["serve", "rules.yaml"], "rules.yaml:4: apps.desk.rules[0].when.prompt: Input should"),
        (["serve", __file__], "not a recording; its name must end in"),
        (["serve", "--nearest", "--record-missing"], "exclude each other"),
        (["serve", "--no-reload", "--record-missing"], "needs --reload"),
        (["recordings", "ls", __file__], "FOLDER is not a folder"),
        (["init", f"{__file__}/x"], "FOLDER cannot be written to"),
        (["replay", "missing.jsonl"], "'missing.jsonl' does not exist"),
        (["replay", "notes.txt"], "notes.txt"),
        (["record", "--out", "x", "--upstream", "ftp://host"], "must be an http(s) URL without"),
        (["serve", "--allow-host", "http://a.test"], "--allow-host must be a host name or an IP"),
        (["record", "--out", "x", "--allow-host", "a:80"], "--allow-host must be a host name or"),
        (["record", "--out", __file__, "--port", "0"], "--out cannot be created: " + __file__),
    ],
)
def test_an_unusable_file_or_option_is_an_input_error(
    arguments: list[str],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    rules = "apps:\n  desk:\n    rules:\n      - {when: {prompt: 500}, text: a}\n"
    Path("rules.yaml").write_text(rules, encoding="utf-8")
    assert exit_code_of(monkeypatch, *arguments) == 2
    assert problem in capsys.readouterr().err


def test_a_key_given_as_the_url_is_not_shown(tmp_path: Path) -> None:
    done = bailian("record", "--out", str(tmp_path), DASHSCOPE_HTTP_BASE_URL=KEY)
    assert done.returncode == 2
    assert "--upstream (or DASHSCOPE_HTTP_BASE_URL) must be an http(s) URL" in done.stderr
    assert KEY not in done.stderr


def test_serve_replays_what_record_recorded(tmp_path: Path) -> None:
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
    assert "Recorded 1." in err
    assert KEY not in err
    with running("serve", out, "--port", "0") as server:
        replayed = BailianApp(app_id="mine", api_key="any", base_url=server.base_url).invoke("杭州")
    assert (replayed.text, replayed.steps) == (recorded.text, recorded.steps)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_record_refuses_itself_as_the_upstream(name: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = bailian(
        "record",
        "--out",
        str(tmp_path),
        "--port",
        str(port),
        DASHSCOPE_HTTP_BASE_URL=f"http://{name}:{port}/api/v1",
    )
    assert done.returncode == 2
    assert "is the recorder itself" in done.stderr


def test_record_says_which_certificates_cannot_be_read(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.pem")
    done = bailian("record", "--out", str(tmp_path / "out"), REQUESTS_CA_BUNDLE=gone)
    assert done.returncode == 2
    assert f"REQUESTS_CA_BUNDLE: cannot read the certificates in {gone}" in done.stderr


def test_replay_shows_a_recording_as_a_run() -> None:
    done = bailian("replay", str(TRAVEL), "--pace", "0", "--steps")
    assert (done.returncode, done.stdout) == (0, ANSWER + "\n")
    assert "✓ 大模型_1 LLM 1315 ms" in done.stderr


@pytest.mark.parametrize(
    "name",
    ["workflow-message-format.sse", "agent-plain-stream.sse", "agent-hello.json"],
)
def test_replay_reads_every_kind_of_recording(name: str) -> None:
    done = bailian("replay", str(RECORDINGS / name), "--json", "--pace", "0")
    assert done.returncode == 0
    assert json.loads(done.stdout)["text"]


def test_replay_raw_prints_every_frame() -> None:
    done = bailian("replay", str(TRAVEL), "--raw", "--pace", "0")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 11


def test_replaying_a_failure_has_its_exit_code(tmp_path: Path) -> None:
    def throttled(_: object) -> Failure:
        return Failure(status=429, code="Throttling", message="Slow down")

    with (
        Emulator(apps={"mine": throttled}) as cloud,
        running("record", "--out", tmp_path, "--upstream", cloud.base_url, "--port", "0") as proxy,
    ):
        variables = {"DASHSCOPE_API_KEY": KEY, "DASHSCOPE_HTTP_BASE_URL": proxy.base_url}
        assert bailian("run", "mine", "hi", "--set", "max_retries:=0", **variables).returncode == 9
        proxy.end(signal.SIGINT)
    done = bailian("replay", str(tmp_path / "0001-mine-429.jsonl"))
    assert done.returncode == 9
    assert "Slow down" in done.stderr


def test_without_the_extra_the_error_names_it() -> None:
    script = (
        "import sys; sys.modules['uvicorn'] = None; sys.argv = ['bailian-apps', 'serve'];"
        "from bailian_apps.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    assert 'pip install "bailian-apps[emulator]"' in done.stderr
    assert "Traceback" not in done.stderr
