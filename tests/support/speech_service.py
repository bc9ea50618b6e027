"""CosyVoice's socket on loopback, as the official SDK speaks with it.

It follows the vendor's pages on the events of the client and of the server
(https://help.aliyun.com/zh/model-studio/cosyvoice-client-events, …-server-events), and fails a
task whose client does not. Its audio is MP3: frames of silence that hold the sentence they are for
where a decoder does not look, so that a test can read what is in a file.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

import pytest

PATH = "/api-ws/v1/inference"
VOICES = {
    "cosyvoice-v3-flash": {"longanyang", "longanhuan_v3"},
    "cosyvoice-v2": {"longxiaochun_v2"},
}
# MPEG-2 Layer III without CRC, 64 kbit/s, 22050 Hz, mono; side information of zeros is silence.
_FRAME_HEADER = bytes([0xFF, 0xF3, 0x80, 0xC0]) + bytes(9)
_FRAME_BYTES = 72 * 64_000 // 22_050

Fault = Literal["refuse", "fail", "drop", "fail_at_the_end", "drop_at_the_end"]


def speech(text: str) -> bytes:
    """The audio of a text."""
    content = text.encode()
    size = _FRAME_BYTES - len(_FRAME_HEADER)
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    return b"".join(_FRAME_HEADER + piece.ljust(size, b"\0") for piece in pieces)


def spoken(audio: bytes) -> str:
    """The text that audio was made of."""
    frames = [audio[start : start + _FRAME_BYTES] for start in range(0, len(audio), _FRAME_BYTES)]
    assert all(frame.startswith(_FRAME_HEADER) for frame in frames)
    return b"".join(frame[len(_FRAME_HEADER) :].rstrip(b"\0") for frame in frames).decode()


@dataclass
class SpeechTask:
    """A task as the service saw it."""

    parameters: dict[str, Any]
    texts: list[str] = field(default_factory=list[str])
    end: str | None = None  # "finished", "cancelled" or "failed"


@dataclass
class SpeechService:
    """The service.

    Attributes:
        api_key: The key that it accepts.
        fault: What goes wrong: it refuses every task, it fails one or drops its connection when it
            was sent `fault_at` texts, or it does so in place of the end.
        tasks: The tasks that were started, in their order.
        changed: Notified when a task has been sent a text or has ended.
    """

    api_key: str = "sk-mine"
    fault: Fault | None = None
    fault_at: int = 2
    base_url: str = ""
    tasks: list[SpeechTask] = field(default_factory=list[SpeechTask])
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, what: str, number: int = 1) -> bool:
        """Wait until tasks have received so many texts, or so many have ended in a way."""

        def reached() -> bool:
            if what == "texts":
                return sum(len(task.texts) for task in self.tasks) >= number
            return sum(task.end == what for task in self.tasks) >= number

        with self.changed:
            return self.changed.wait_for(reached, 60)

    def serve(self, connection: Any) -> None:
        """Answer one connection: tasks, one after the other."""
        task: SpeechTask | None = None
        for message in connection:
            command = json.loads(message)
            header, payload = command["header"], command["payload"]
            reply = _Reply(connection, header["task_id"])
            if header["action"] == "run-task":
                task = SpeechTask(payload["parameters"])
                problem = self._problem(header, payload)
                self._record(task, end="failed" if problem else None)
                reply.failed(*problem) if problem else reply.event("task-started")
            elif task is None or task.end is not None:
                reply.failed("InvalidTask", "no task")
            elif header["action"] == "continue-task":
                self._speak(task, payload["input"]["text"], reply)
            elif self.fault == "drop_at_the_end":
                _drop(connection)
            elif self.fault == "fail_at_the_end":
                self._record(task, end="failed")
                reply.failed("InternalError", "no voice left")
            else:
                cancelled = payload["input"].get("directive") == "cancel"
                self._record(task, end="cancelled" if cancelled else "finished")
                reply.event("task-finished")
            if task is not None and task.end == "failed":
                return  # the service closes the connection of a task that failed

    def _problem(self, header: dict[str, Any], payload: dict[str, Any]) -> tuple[str, str] | None:
        wanted = {"task_group": "audio", "task": "tts", "function": "SpeechSynthesizer"}
        if header["streaming"] != "duplex" or payload != payload | wanted:
            return "InvalidParameter", "run-task"
        if payload["parameters"]["voice"] not in VOICES.get(payload["model"], ()):
            return "InvalidParameter", "voice of another model"
        if self.fault == "refuse":
            return "Throttling.RateQuota", "Requests rate limit"
        return None

    def _speak(self, task: SpeechTask, text: str, reply: _Reply) -> None:
        with self.changed:
            task.texts.append(text)
            self.changed.notify_all()
        if self.fault == "drop" and len(task.texts) == self.fault_at:
            _drop(reply.connection)
        elif self.fault == "fail" and len(task.texts) == self.fault_at:
            self._record(task, end="failed")
            reply.failed("InternalError", "no voice left")
        else:
            sentence: dict[str, Any] = {"index": len(task.texts) - 1, "words": []}
            reply.event("result-generated", output={"type": "sentence-begin", "sentence": sentence})
            reply.event(
                "result-generated", output={"type": "sentence-synthesis", "sentence": sentence}
            )
            reply.connection.send(speech(text))
            reply.event("result-generated", output={"type": "sentence-end", "sentence": sentence})

    def _record(self, task: SpeechTask, end: str | None) -> None:
        with self.changed:
            if not any(each is task for each in self.tasks):
                self.tasks.append(task)
            task.end = end
            self.changed.notify_all()


@dataclass
class _Reply:
    """What the service sends on a connection for a task."""

    connection: Any
    task_id: str

    def event(self, name: str, output: dict[str, Any] | None = None, **header: str) -> None:
        """Send an event."""
        fields: dict[str, Any] = {
            "task_id": self.task_id,
            "event": name,
            "attributes": {},
            **header,
        }
        payload = {} if output is None else {"output": output}
        self.connection.send(json.dumps({"header": fields, "payload": payload}))

    def failed(self, code: str, message: str) -> None:
        """Send `task-failed`."""
        self.event("task-failed", error_code=code, error_message=message)


def _drop(connection: Any) -> None:
    """End the connection without a closing handshake."""
    connection.socket.shutdown(socket.SHUT_RDWR)


@contextmanager
def speech_service(**fields: Any) -> Generator[SpeechService]:
    """Run the service; its `base_url` is for `DASHSCOPE_WEBSOCKET_BASE_URL`."""
    pytest.importorskip("websockets", minversion="13")
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.server import serve

    service = SpeechService(**fields)

    def check(connection: Any, request: Any) -> Any:
        if request.path != PATH:
            return connection.respond(HTTPStatus.NOT_FOUND, "url error")
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if (scheme.lower(), key) != ("bearer", service.api_key):  # old SDKs say "bearer"
            return connection.respond(HTTPStatus.UNAUTHORIZED, '{"code": "InvalidApiKey"}')
        return None

    def answer(connection: Any) -> None:
        with suppress(ConnectionClosed):  # the client has left, or a fault has dropped it
            service.serve(connection)

    with serve(answer, "127.0.0.1", 0, process_request=check) as server:
        service.base_url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}{PATH}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()
