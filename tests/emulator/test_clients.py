"""Four clients read recorded answers from the emulator: two SDKs, curl and Node."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from dashscope import Application
from pydantic import ValidationError
from support.recordings import ALL, MODES, frames

from bailian_apps.emulator import Emulator

Payload: TypeAlias = dict[str, Any]
Read: TypeAlias = Callable[[Emulator, bool, Payload], list[Payload]]

NODE = """
const answers = [];
for (const [url, headers, body] of JSON.parse(process.argv[1])) {
  const decoder = new TextDecoder();
  const answer = await fetch(url, {method: "POST", headers, body});
  let text = "";
  for await (const chunk of answer.body) text += decoder.decode(chunk, {stream: true});
  answers.push(text);
}
console.log(JSON.stringify(answers));
"""


@pytest.fixture(autouse=True, scope="module")
def strict_emulators() -> None:
    """Here the requests are not ours: older SDKs send the workspace as a parameter, too."""


def program(name: str) -> str:
    """A missing program is skipped on a desk, and fails where everything is to be tested."""
    path = shutil.which(name)
    if path is None:
        problem = f"{name} is not installed; apt-get install {'nodejs' if name == 'node' else name}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(problem)
    return path


def asked(path: Path) -> tuple[bool, Payload]:
    """Return whether to stream, and the parameters, for a recording."""
    stream = path.suffix != ".json"
    parameters: Payload = {"has_thoughts": True}
    if stream:
        parameters["incremental_output"] = True
    if path.name in MODES:
        parameters["flow_stream_mode"] = MODES[path.name]
    return stream, parameters


def request_of(cloud: Emulator, stream: bool, parameters: Payload) -> tuple[str, Payload, str]:
    headers = {"Authorization": "Bearer key", "Content-Type": "application/json"}
    if stream:
        headers["X-DashScope-SSE"] = "enable"
    body = {"model": "", "input": {"prompt": "你好"}, "parameters": parameters}
    return f"{cloud.base_url}/apps/app/completion", headers, json.dumps(body)


def payloads(content: bytes, stream: bool) -> list[Payload]:
    if not stream:
        return [json.loads(content)]
    lines = content.decode().split("\n")
    return [json.loads(line[5:]) for line in lines if line.startswith("data:")]


def run(*command: str) -> bytes:
    return subprocess.run(command, capture_output=True, check=True, timeout=120).stdout


def curl(cloud: Emulator, stream: bool, parameters: Payload) -> list[Payload]:
    url, headers, body = request_of(cloud, stream, parameters)
    lines = [word for pair in headers.items() for word in ("-H", ": ".join(pair))]
    return payloads(
        run(program("curl"), "-sS", "-N", "--noproxy", "*", *lines, "-d", body, url), stream
    )


@pytest.fixture(scope="module")
def node_answers() -> dict[str, str]:
    """The answers to all recordings, read by one Node process, which is slow to start."""
    command = [program("node"), "--input-type=module", "-e", NODE]
    with ExitStack() as clouds:  # one for each: some recordings have the same session id
        requests = [
            request_of(clouds.enter_context(Emulator(apps={"app": path})), *asked(path))
            for path in ALL
        ]
        answers = json.loads(run(*command, json.dumps(requests)))
    return {path.name: answer for path, answer in zip(ALL, answers, strict=True)}


def sdk(cloud: Emulator, stream: bool, parameters: Payload) -> list[Payload]:
    asked = {"stream": stream, **parameters}
    answer = Application.call("app", "你好", api_key="key", base_address=cloud.base_url, **asked)
    responses = [json.loads(str(response)) for response in (answer if stream else [answer])]
    return [{key: item for key, item in each.items() if key != "status_code"} for each in responses]


def sdk_v2(cloud: Emulator, stream: bool, parameters: Payload) -> list[Payload]:
    dashscope = pytest.importorskip("dashscope.v2", reason="this dashscope has no v2 client")

    async def call() -> list[Payload]:
        async with dashscope.AsyncClient(api_key="key", base_url=cloud.base_url) as client:
            parts = {"parameters": parameters, "stream": stream, "prompt": "你好"}
            answer = await client.apps.completions.create(app_id="app", **parts)
            return [each.model_dump() async for each in answer] if stream else [answer.model_dump()]

    errors = pytest.importorskip("dashscope.v2.errors")
    try:
        flat = asyncio.run(call())
    except errors.DashScopeError as error:
        return [{"code": error.code, "message": error.message, "request_id": error.request_id}]
    envelope = {"usage", "request_id", "code", "message"}
    return [
        {key: item for key, item in each.items() if key in envelope}
        | {"output": {key: item for key, item in each.items() if key not in {*envelope, "headers"}}}
        for each in flat
    ]


READERS: dict[str, Read] = {"sdk": sdk, "sdk-v2": sdk_v2, "curl": curl}


def empty(value: object) -> bool:
    parts = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    )
    return value in (None, "", 0) if parts is None else all(map(empty, parts))


def check_says(got: object, wanted: object, path: str = "") -> None:
    """All that is recorded is there, and beside it nothing but empty fields and the ids."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        extra = {key for key in got.keys() - wanted.keys() if not empty(got[key])}
        assert extra <= {"session_id", "request_id"}, path
        for key, item in wanted.items():
            if key in got or not empty(item):
                check_says(got[key], item, f"{path}.{key}")
    elif isinstance(wanted, list) and isinstance(got, list):
        assert len(got) == len(wanted), path
        for place, (each, recorded) in enumerate(zip(got, wanted, strict=True)):
            check_says(each, recorded, f"{path}[{place}]")
    else:
        assert got == wanted or (empty(got) and empty(wanted)), path


def check_recorded(got: list[Payload], path: Path) -> None:
    check_says(got, [{k: v for k, v in f.items() if k != "status_code"} for f in frames(path.name)])


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_a_client_reads_the_recorded_answer(path: Path, reader: str) -> None:
    stream, parameters = asked(path)
    with Emulator(apps={"app": path}) as cloud:
        if reader == "sdk-v2" and path.name in MODES:
            # This client expects a string where every recording has true or false, and refuses it.
            with pytest.raises(ValidationError, match=r"workflow_message\.node_is_completed"):
                READERS[reader](cloud, stream, parameters)
            return
        check_recorded(READERS[reader](cloud, stream, parameters), path)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_node_reads_the_recorded_answer(path: Path, node_answers: dict[str, str]) -> None:
    check_recorded(payloads(node_answers[path.name].encode(), asked(path)[0]), path)
