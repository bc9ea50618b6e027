"""A plain HTTP client for the emulator, to see the bytes that it sends."""

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

from bailian_apps.emulator import Emulator

TESTED_RECORDINGS = Path(__file__).parents[1] / "recordings"


@dataclass
class Received:
    """What a client gets."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.content)

    @property
    def output(self) -> dict[str, Any]:
        return self.body["output"]

    @property
    def frames(self) -> list[dict[str, Any]]:
        lines = self.content.decode().split("\n")
        return [json.loads(line[5:]) for line in lines if line.startswith("data:")]

    @property
    def outputs(self) -> list[dict[str, Any]]:
        return [frame["output"] for frame in self.frames]

    @property
    def events(self) -> list[str]:
        lines = self.content.decode().split("\n")
        return [line[6:] for line in lines if line.startswith("event:")]


@contextmanager
def requested(
    cloud: Emulator,
    app_id: str = "app",
    *,
    prompt: str | None = "你好",
    stream: bool = False,
    key: str | None = "key",
    content: bytes | None = None,
    path: str | None = None,
    method: str = "POST",
    parameters: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
    **fields: Any,
) -> Iterator[http.client.HTTPResponse]:
    """Send a request; the answer is there to be read, slowly or not at all."""
    url = urlsplit(cloud.base_url)
    assert url.hostname == "127.0.0.1"
    if prompt is not None:
        fields["prompt"] = prompt
    body = {"model": "", "input": fields, "parameters": parameters or {}}
    headers = {"Content-Type": "application/json", **(headers or {})}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    if stream:
        headers["X-DashScope-SSE"] = "enable"
    with closing(http.client.HTTPConnection(url.hostname, url.port, timeout=60)) as connection:
        connection.request(
            method,
            f"{url.path}/apps/{app_id}/completion" if path is None else path,
            json.dumps(body).encode() if content is None else content,
            headers,
        )
        with closing(connection.getresponse()) as response:
            yield response


@pytest.fixture
def post() -> Callable[..., Received]:
    def post(cloud: Emulator, *args: Any, **kwargs: Any) -> Received:
        with requested(cloud, *args, **kwargs) as response:
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Received(response.status, headers, response.read())

    return post


@pytest.fixture
def open_stream() -> Callable[..., Any]:
    def open_stream(cloud: Emulator, *args: Any, **kwargs: Any) -> Any:
        return requested(cloud, *args, stream=True, **kwargs)

    return open_stream


class RecordedSleep:
    """A `sleep` for the emulator that records what it should wait for, and does not wait."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.fixture
def sleep() -> RecordedSleep:
    return RecordedSleep()


@pytest.fixture
def recordings() -> Path:
    return TESTED_RECORDINGS


@pytest.fixture(scope="module")
def requests_of_this_sdk(strict_emulators: None) -> Iterator[None]:
    """Older SDKs send the workspace as a parameter, too, which a strict emulator refuses."""
    with pytest.MonkeyPatch.context() as patch:
        if version("dashscope").startswith("1."):
            patch.setitem(cast("Any", Emulator.__init__).__kwdefaults__, "strict", False)
        yield
