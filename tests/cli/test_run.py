"""`run`: its output streams, its exit codes, and the connections it closes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command import BAILIAN, bailian, environment, exit_code_of
from support.images import PNG, data_url
from support.pages import LANGUAGES, page
from support.recordings import FOLDER, expected_text, frames
from support.wire import SSE_HEAD, Answer, Do, WireServer, answer, chunk, event, frame, stream

from bailian_apps.cli.main import EXIT_CODES
from bailian_apps.core import errors
from bailian_apps.emulator import Call, Emulator

RECORDING = "workflow-two-llm.sse"


def echo(call: Call) -> str:
    return f"{call.prompt}|{json.dumps(call.biz_params, ensure_ascii=False)}"


def endless(call: Call) -> Iterator[dict[str, Any]]:
    while True:
        yield {"output": {"text": "字 ", "finish_reason": "null", "session_id": call.session_id}}
        if call.disconnected.wait(0.02):
            return


@pytest.fixture
def cloud() -> Iterator[Emulator]:
    apps = {"two": FOLDER / RECORDING, "echo": echo, "endless": endless}
    with Emulator(apps=apps, api_key="sk-mine") as running:
        yield running


# ------------------------------------------------------------------ output


def test_standard_output_has_only_the_answer(cloud: Emulator) -> None:
    done = bailian("run", "two", "hi", "--base-url", cloud.base_url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == expected_text(RECORDING) + "\n"


def test_steps_go_to_standard_error_with_their_durations(cloud: Emulator) -> None:
    done = bailian("run", "two", "hi", "--steps", "--base-url", cloud.base_url)
    assert (done.returncode, done.stdout) == (0, expected_text(RECORDING) + "\n")
    assert re.search(r"^✓ .* \d+ ms", done.stderr, re.M)
    assert "\nsession " in done.stderr
    assert "\x1b" not in done.stderr


def test_json_is_one_object_with_documented_fields(cloud: Emulator) -> None:
    done = bailian("run", "two", "hi", "--json", "--base-url", cloud.base_url)
    assert (done.returncode, done.stderr) == (0, "")
    run = json.loads(done.stdout)
    assert run["text"] == expected_text(RECORDING)
    assert (
        run["usage"]["total_tokens"] == run["usage"]["input_tokens"] + run["usage"]["output_tokens"]
    )
    assert all(step["status"] == "success" for step in run["steps"])
    for language in LANGUAGES:
        documented = page("command-line", language)
        assert [name for name in run if f"`{name}`" not in documented] == []


def test_raw_prints_every_frame_of_the_recording(cloud: Emulator) -> None:
    done = bailian("run", "two", "hi", "--raw", "--base-url", cloud.base_url)
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line) for line in done.stdout.splitlines()] == frames(RECORDING)


def test_no_stream_prints_the_answer_at_the_end(cloud: Emulator) -> None:
    done = bailian("run", "two", "hi", "--no-stream", "--base-url", cloud.base_url)
    assert (done.returncode, done.stdout) == (0, expected_text(RECORDING) + "\n")


def test_prompt_and_app_id_have_defaults(cloud: Emulator) -> None:
    more = {"BAILIAN_APP_ID": "echo", "DASHSCOPE_HTTP_BASE_URL": cloud.base_url}
    assert bailian("run", stdin="第一行\n第二行\n", **more).stdout == "第一行\n第二行|{}\n"
    assert bailian("run", "-", "hi", **more).stdout == "hi|{}\n"


CONSOLE_ID = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("arguments", "stdin", "sent"),
    [
        (["Plan a day"], None, ("echo", "Plan a day")),
        (["Plan a day"], "a file", ("echo", "Plan a day")),
        (["Hello"], None, ("echo", "Hello")),
        (["-", "Hello"], "a file", ("echo", "Hello")),
        (["echo"], "a file", ("echo", "a file")),
        (["other", "-"], "a file", ("other", "a file")),
        ([CONSOLE_ID], "a file", (CONSOLE_ID, "a file")),
        (["Hello"], "a file", "The only argument can be an app id, with the prompt on standard"),
        ([CONSOLE_ID], None, "PROMPT is empty"),
    ],
)
def test_one_argument_is_the_prompt_of_the_app_of_the_environment(
    arguments: list[str],
    stdin: str | None,
    sent: tuple[str, str] | str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "stdin").write_text(stdin or "")
    source = tmp_path / "stdin" if stdin else Path(os.devnull)
    apps = dict.fromkeys(("echo", "other", CONSOLE_ID), echo)
    with Emulator(apps=apps) as cloud, source.open() as given:
        monkeypatch.setattr(sys, "stdin", given)
        monkeypatch.setenv("BAILIAN_APP_ID", "echo")
        monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-mine")
        monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", cloud.base_url)
        code = exit_code_of(monkeypatch, "run", *arguments)
        requests = [(request.app_id, request.prompt) for request in cloud.requests]
    if isinstance(sent, tuple):
        assert (code, requests) == (0, [sent])
    else:
        assert (code, requests) == (2, [])
        assert sent in capsys.readouterr().err


@pytest.mark.parametrize("prompt", ["Plan a day", "安排杭州一日游"])
def test_a_prompt_alone_needs_an_app(
    prompt: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("BAILIAN_APP_ID", raising=False)
    assert exit_code_of(monkeypatch, "run", prompt) == 2
    assert "APP_ID is missing, for a prompt alone. Write it before" in capsys.readouterr().err


def test_a_dry_run_prints_what_a_run_sends_without_secrets(
    cloud: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        *("run", "echo", "你好", "--base-url", cloud.base_url, "--biz", "city=杭州"),
        *("--biz", "code=s3cret", "--set", 'secret_biz_params:=["code"]', "--session", "s-1"),
        *("--set", 'extra_headers:={"X-User": "s3cret"}', "--set", "temperature=0.2"),
        *("--image", data_url(PNG)),
    )
    assert exit_code_of(monkeypatch, *arguments, "--dry-run") == 0  # without a key
    text = capsys.readouterr().out
    assert exit_code_of(monkeypatch, *arguments, "--dry-run", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert cloud.requests == []
    assert "s3cret" not in text + str(shown)
    assert f"POST {cloud.base_url}/apps/echo/completion\n" in text
    assert "\nAuthorization: Bearer **********\n" in text
    assert json.loads(text.partition("\n\n")[2]) == shown["body"]

    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-mine")
    assert exit_code_of(monkeypatch, *arguments) == 0
    sent = cloud.requests[0]
    body = shown["body"]
    assert body["input"].pop("biz_params") == {"city": "杭州", "code": "**********"}
    assert body["input"].pop("image_list") == ["data:image/png;base64,… (24 bytes)"]
    assert body["parameters"] == sent.parameters
    assert body["input"] == {
        name: value for name, value in sent.input.items() if name in ("prompt", "session_id")
    }


@pytest.mark.parametrize("failure", [None, errors.StreamInterruptedError, errors.NotFoundError])
def test_the_picture_of_a_run_shows_what_arrived(
    failure: type[errors.BailianError] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-mine")
    html = tmp_path / "run.html"
    whole = stream(event(frame("half")), event(frame(" and half", "stop")))
    with WireServer(FAILURES[failure] if failure else whole) as server:
        given = ["--base-url", server.base_url, "--html", str(html)]
        code = exit_code_of(monkeypatch, "run", "app", "hi", *given)
    assert code == (EXIT_CODES[failure] if failure else 0)
    if failure is errors.NotFoundError:  # nothing had arrived
        assert not html.exists()
    else:
        assert "half" in html.read_text(encoding="utf-8")
        assert f"Picture of the run: {html}" in capsys.readouterr().err


def test_run_needs_no_framework_and_no_emulator(cloud: Emulator) -> None:
    script = (
        "import sys\n"
        "for name in ('langchain_core', 'llama_index', 'starlette', 'uvicorn'):\n"
        "    sys.modules[name] = None\n"
        f"sys.argv = ['bailian-apps', 'run', 'echo', 'hi', '--base-url', {cloud.base_url!r}]\n"
        "from bailian_apps.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "hi|{}\n", "")


def test_no_color_switches_colour_off(cloud: Emulator) -> None:
    def steps(**more: str) -> str:
        return bailian("run", "two", "hi", "--steps", "--base-url", cloud.base_url, **more).stderr

    colour = re.compile("\x1b\\[[0-9;]*3[0-9]")
    assert colour.search(steps(FORCE_COLOR="1"))
    assert not colour.search(steps(FORCE_COLOR="1", NO_COLOR="1"))


# ------------------------------------------------------------------ arguments


def test_biz_params_are_text_or_json(cloud: Emulator, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    tokens.write_text('{"city": "苏州", "user_defined_tokens": {"t": {"user_token": "s3"}}}')
    bailian(
        *("run", "echo", "hi", "--base-url", cloud.base_url, "--biz-json", f"@{tokens}"),
        *("--biz", "city=杭州=好", "--biz", "days:=2", "--set", "temperature=0.2"),
        *("--model-id", "qwen-max", "--session", "s-1"),
    )
    request = cloud.requests[0]
    assert request.biz_params == {
        "city": "杭州=好",
        "days": 2,
        "user_defined_tokens": {"t": {"user_token": "s3"}},
    }
    assert request.parameters["temperature"] == 0.2
    assert request.parameters["model_id"] == "qwen-max"
    assert request.session_id == "s-1"


def test_images_and_files_of_the_command_line_are_sent(cloud: Emulator, tmp_path: Path) -> None:
    (tmp_path / "lake.jpg").write_bytes(PNG)
    done = bailian(
        *("run", "echo", "hi", "--base-url", cloud.base_url, "--image", str(tmp_path / "lake.jpg")),
        *("--image", "https://example.com/a.png", "--image", data_url(PNG)),
        *("--file", "https://example.com/a.pdf"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    sent = cloud.requests[0].input
    assert sent["image_list"] == [data_url(PNG), "https://example.com/a.png", data_url(PNG)]
    assert sent["file_list"] == ["https://example.com/a.pdf"]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--biz", "city"], "--biz must be NAME=VALUE"),
        (["--biz", "n:={s3cret"], "--biz n is not JSON"),
        (["--biz-json", "[1]"], "--biz-json must be a JSON object, not of type list"),
        (["--biz-json", "s3cret"], "at column 1. Quote it for the shell, or pass a file as @FILE"),
        (["--biz-json", "@/no/s3cret"], "--biz-json cannot be read (No such file or directory)"),
        (["--set", "api_key=s3cret"], "--set api_key would show the key"),
        (["--set", "tempratur=1"], "tempratur is not a setting. Did you mean --set temperature=…?"),
        (["--set", "prompt=1"], "--set prompt is not a setting. Write the prompt after the app id"),
        (["--set", "city=s3cret"], "--set city is not a setting. Write --biz city=… for a start"),
        (["--set", "temperature=9"], "--set temperature must be less than 2"),
        (["--set", "timeout=0"], "--set timeout must be a positive number of seconds"),
        (
            ["--timeout", "0"],
            ": --timeout must be a positive number of seconds\n",
        ),
        (
            ["--base-url", "s3cret"],
            ": --base-url (or DASHSCOPE_HTTP_BASE_URL) is not an http(s) URL",
        ),
        (["--workspace", "a b"], ": --workspace has a character"),
        (
            ["--image", "no-such.png"],
            "--image no-such.png is the path of a file that does not exist",
        ),
        (["--image", "data:image/png;base64,s3cret"], "--image is not valid base64"),
        (["--file", "s3cret.pdf"], "--file is not an http(s) URL"),
        (["--json", "--raw"], "--json and --raw"),
        (["--html", "no/such/s3cret.html"], "--html is in a folder that does not exist"),
        (["--dry-run", "--raw"], "--dry-run excludes --raw"),
        (["--bogus"], "No such option: --bogus. For a start variable of a workflow, write --biz"),
        (["a", "prompt"], "Quote the prompt"),
        (["--temprature", "1"], "Did you mean --set temperature=…?"),
        (["--api-key", "s3cret"], "No such option: --api-key. Set DASHSCOPE_API_KEY instead"),
        (["--prompt", "hi"], "No such option: --prompt. Write the prompt after the app id"),
    ],
)
def test_invalid_input_is_named_and_nothing_is_sent(
    arguments: list[str],
    names: str,
    cloud: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = exit_code_of(monkeypatch, "run", "echo", "hi", "--base-url", cloud.base_url, *arguments)
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert names in printed.err
    assert "s3cret" not in printed.err
    assert cloud.requests == []


# ------------------------------------------------------------------ endings


def refused(status: str, code: str) -> Answer:
    body = json.dumps({"code": code, "message": "no", "request_id": "r-1"}).encode()
    return answer(status, body)


FAILURES: dict[type[errors.BailianError], Answer] = {
    errors.BailianError: refused("418 Teapot", "Unheard"),
    errors.AuthenticationError: refused("401 Unauthorized", "InvalidApiKey"),
    errors.PermissionDeniedError: refused("403 Forbidden", "App.AccessDenied"),
    errors.NotFoundError: refused("404 Not Found", "NotFound"),
    errors.BadRequestError: refused("400 Bad Request", "InvalidParameter"),
    errors.ContentBlockedError: refused("400 Bad Request", "DataInspectionFailed"),
    errors.BillingError: refused("400 Bad Request", "Arrearage"),
    errors.RateLimitError: refused("429 Too Many Requests", "Throttling"),
    errors.ServiceUnavailableError: refused("503 Unavailable", "ModelUnavailable"),
    errors.AppFailedError: refused("500 Error", "AppProcessFailed"),
    errors.ServerError: refused("500 Error", "InternalError"),
    errors.ConnectionLostError: [Do.CLOSE],
    errors.RequestTimeoutError: [Do.STALL],
    errors.ProtocolError: answer("200 OK", b"<html>", "text/html"),
    errors.StreamInterruptedError: [SSE_HEAD, chunk(event(frame("half"))), Do.CLOSE],
}


@pytest.mark.parametrize("kind", FAILURES, ids=lambda kind: kind.__name__)
def test_each_class_of_error_has_its_exit_code(
    kind: type[errors.BailianError],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-mine")
    with WireServer(FAILURES[kind], FAILURES[kind]) as server:
        given = ["--base-url", server.base_url, "--set", "max_retries=0", "--timeout", "0.5"]
        code = exit_code_of(monkeypatch, "run", "app", "hi", *given)
        printed = capsys.readouterr()
        code_as_json = exit_code_of(monkeypatch, "run", "app", "hi", *given, "--json")
        report = json.loads(capsys.readouterr().out)
    assert code == code_as_json == EXIT_CODES[kind]
    name = "APIError" if kind is errors.BailianError else kind.__name__
    assert printed.err.startswith(f"{name}: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ("half\n" if kind is errors.StreamInterruptedError else "")
    assert report["error"]["type"] == name
    assert (report["partial"] or {}).get("text") == (printed.out.strip() or None)


@pytest.mark.parametrize(
    ("app_id", "key", "hint"),
    [
        ("-", "sk-mine", "APP_ID is empty. Pass APP_ID or set BAILIAN_APP_ID\n"),
        ("app", "", "API key is missing. Set DASHSCOPE_API_KEY in the environment\n"),
        ("app", "sk-wrong", "set DASHSCOPE_API_KEY; a key belongs to one region, which --base-url"),
    ],
)
def test_a_hint_names_options_not_arguments(
    app_id: str,
    key: str,
    hint: str,
    cloud: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", key)
    monkeypatch.setattr("dashscope.api_key", None)
    monkeypatch.setattr("dashscope.api_key_file_path", str(tmp_path / "none"))
    cloud.fail("http_401")
    exit_code_of(monkeypatch, "run", app_id, "hi", "--base-url", cloud.base_url)
    assert hint in capsys.readouterr().err


def test_a_prompt_that_is_not_utf_8_is_refused(
    cloud: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("run", "echo", "caf\udce9", "--base-url", cloud.base_url)
    assert exit_code_of(monkeypatch, *given) == 2
    assert "PROMPT is not UTF-8 text. Convert it with iconv\n" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["half\nthe: s3cret", "钥s3cret"])
@pytest.mark.parametrize(
    "command", [["run", "echo", "hi"], ["run", "echo", "hi", "--raw"], ["chat"]]
)
def test_a_malformed_key_is_not_sent_and_not_shown(
    command: list[str],
    key: str,
    cloud: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", key)
    monkeypatch.setenv("BAILIAN_APP_ID", "echo")
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\n"))
    code = exit_code_of(monkeypatch, *command, "--base-url", cloud.base_url)
    printed = capsys.readouterr()
    assert (code, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert "characters that an API key cannot have" in printed.err
    assert "s3cret" not in printed.err


def test_a_refused_connection_has_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-mine")
    with WireServer() as server:
        closed = server.base_url
    arguments = ["run", "app", "hi", "--base-url", closed, "--set", "max_retries=0"]
    assert exit_code_of(monkeypatch, *arguments) == EXIT_CODES[errors.ConnectError]


def test_a_retry_is_printed_as_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-mine")
    busy = answer("429 Busy", b'{"code":"Throttling"}', "application/json", "Retry-After: 0")
    with WireServer(busy, stream(event(frame("hi")), event(frame("", "stop")))) as server:
        assert exit_code_of(monkeypatch, "run", "app", "x", "--base-url", server.base_url) == 0
    printed = capsys.readouterr()
    assert printed.out == "hi\n"
    assert "attempt 1 of app app failed with RateLimitError" in printed.err


def test_half_a_surrogate_pair_is_replaced_in_the_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-mine")
    half = event('{"output":{"text":"a\\ud83d","finish_reason":"null"}}')
    with WireServer(stream(half, event(frame("b", "stop")))) as server:
        assert exit_code_of(monkeypatch, "run", "app", "x", "--base-url", server.base_url) == 0
    assert capsys.readouterr().out == "a\ufffdb\n"


def test_the_exit_codes_are_distinct_and_documented() -> None:
    leaves = {
        kind
        for name in errors.__dict__
        if isinstance(kind := getattr(errors, name), type)
        and issubclass(kind, errors.BailianError)
        and kind not in (errors.APIError, errors.TransportError)
        and kind is not errors.InvalidOutputError  # no command has an `output_schema`
    }
    assert set(EXIT_CODES) == leaves
    # Errors of background runs have the exit code of any other error.
    shared = (errors.NoResultError, errors.SubmissionUnknownError)
    assert {EXIT_CODES[kind] for kind in shared} == {1}
    codes = [code for kind, code in EXIT_CODES.items() if kind not in shared]
    assert sorted(codes) == list(range(1, 18))
    for language in LANGUAGES:
        documented = page("command-line", language)
        for kind, code in EXIT_CODES.items():
            if kind is not errors.BailianError:
                assert re.search(rf"^\| {code} \| .*`{kind.__name__}`", documented, re.M)


def test_ctrl_c_closes_the_connection_at_once(cloud: Emulator) -> None:
    process = subprocess.Popen(
        [BAILIAN, "run", "endless", "hi", "--base-url", cloud.base_url],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.read(2) == "字 "
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=120)
    assert (process.returncode, log) == (130, "")
    assert cloud.requests[0].disconnected.wait(50)


def test_a_closed_pipe_ends_the_command_silently(cloud: Emulator) -> None:
    process = subprocess.Popen(
        [BAILIAN, "run", "endless", "hi", "--base-url", cloud.base_url],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(2) == "字 "
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(50) == 1
    assert cloud.requests[0].disconnected.wait(50)


@pytest.mark.parametrize("closed", ["stdin", "stdout", "stderr"])
def test_a_standard_stream_may_be_closed(
    closed: str,
    cloud: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As with `2>&-`, for which Python sets the stream to None."""
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-mine")
    monkeypatch.setattr(sys, closed, None)
    code = exit_code_of(monkeypatch, "run", "echo", "hi", "--steps", "--base-url", cloud.base_url)
    getattr(sys, closed).close()
    assert (code, capsys.readouterr().out) == (0, "" if closed == "stdout" else "hi|{}\n")


def test_ctrl_c_while_python_imports_leaves_no_traceback() -> None:
    program = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from bailian_apps.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")
