"""The example service in processes of its own, and a client of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from httpx_sse import EventSource

EXAMPLES = Path(__file__).parents[2] / "examples"
APP = ["uvicorn", "--app-dir", str(EXAMPLES), "service.app:create_app", "--factory"]
ADDRESS = re.compile(r"Uvicorn running on (http://127\.0\.0\.1:\d+)")

Events = list[tuple[str, Any]]


@dataclass
class Service:
    """A running service.

    Attributes:
        process: The process that was started; with several workers, their parent.
        url: Where it listens.
        log: What it has logged so far.
    """

    process: subprocess.Popen[str]
    url: str = ""
    log: list[str] = field(default_factory=list[str])
    logged: threading.Condition = field(default_factory=threading.Condition)

    def read(self) -> None:
        """Read what it logs, until it ends."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self.logged:
                self.log.append(line)
                self.logged.notify_all()

    def wait_for(self, words: str) -> None:
        """Wait until it has logged something."""
        with self.logged:
            assert self.logged.wait_for(lambda: any(words in line for line in self.log), 60)

    def workers(self) -> list[int]:
        """The processes that serve."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        serving = [int(child) for child in children if "spawn_main" in _command(child)]
        return serving or [pid]

    def worker_of(self, response: httpx.Response) -> int:
        """The process that answers."""
        stream = response.extensions["network_stream"]
        port = stream.get_extra_info("client_addr")[1]
        [inode] = [
            columns[9]
            for columns in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
            if int(columns[2].split(":")[1], 16) == port and columns[9] != "0"
        ]
        [pid] = [pid for pid in self.workers() if f"socket:[{inode}]" in _open_files(pid)]
        return pid


def _command(pid: str) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def _open_files(pid: int) -> set[str]:
    found: set[str] = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(str(path.readlink()))
        except FileNotFoundError:  # closed meanwhile
            continue
    return found


@contextmanager
def running(
    base_url: str, *arguments: str, workers: int = 1, **variables: str
) -> Iterator[Service]:
    """A service of the app `app` in an emulator; it is killed at the end, if it still runs."""
    inherited = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
    given = {
        "DASHSCOPE_API_KEY": "sk-mine",
        "BAILIAN_APP_ID": "app",
        "DASHSCOPE_HTTP_BASE_URL": base_url,
        "LANGGRAPH_STRICT_MSGPACK": "true",
        "PYTHONUTF8": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", *APP, "--port", "0", "--workers", str(workers), *arguments],
        env=inherited | given | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    service = Service(process)
    assert process.stderr is not None
    with process:
        try:
            for line in process.stderr:
                service.log.append(line)
                if found := ADDRESS.search(line):
                    service.url = found[1]
                started = sum("Application startup complete" in each for each in service.log)
                if service.url and started == workers:
                    break
            else:
                raise RuntimeError("".join(service.log))
            reader = threading.Thread(target=service.read)
            reader.start()
            yield service
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    reader.join()


def new_thread(url: str) -> str:
    """The path of a new conversation; it is the same at every worker."""
    return f"/api/threads/{httpx.post(f'{url}/api/threads').json()['thread_id']}"


def say(url: str, thread: str, text: str) -> Events:
    """One turn, to its end."""
    with saying(url, thread, text) as (_, events):
        return list(events)


@contextmanager
def saying(url: str, thread: str, text: str) -> Iterator[tuple[httpx.Response, Iterator[Any]]]:
    """One turn that may be left: the response, and its events as they come."""
    with (
        httpx.Client(timeout=60) as client,
        client.stream("POST", f"{url}{thread}/messages", json={"text": text}) as response,
    ):
        if response.status_code != 200:
            response.read()
        yield response, events_of(response)


def events_of(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    """The events of a response."""
    for event in EventSource(response).iter_sse():
        yield event.event, event.json()


def text_in(events: Events) -> str:
    """The answer in the events of a turn."""
    return "".join(data["text"] for name, data in events if name == "text")
