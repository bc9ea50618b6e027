"""What is noted of an exchange while it passes, and the recording that becomes of it."""

import json
import os
import re
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from starlette.datastructures import Headers

from bailian_apps.emulator.apps.recordings import read_event
from bailian_apps.emulator.recorder.scrubbing import Scrubber
from bailian_apps.emulator.wire.frames import JsonObject, as_object, encode_json

_COMPLETION = re.compile(r".*/apps/([^/]+)/completion")
_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_NUMBER = re.compile(r"(\d{4,})-.*\.jsonl")
_OTHER_THAN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")

# The others are of no use in a replay, and one of them could be a secret.
_KEPT = ("content-type", "retry-after", "user-agent", "x-dashscope-sse", "x-dashscope-workspace")


class Tape:
    """Notes one exchange.

    Attributes:
        number: Its place in the order of all requests.
        status: The HTTP status of the answer; None while there is none.
        cut: Who ended the exchange before its end.
    """

    def __init__(self, number: int, path: str, headers: Headers, body: bytes) -> None:
        """Begin at the moment when the request is there.

        Args:
            number: The number of the exchange.
            path: The path of the request, still percent-encoded.
            headers: Its headers.
            body: Its body.
        """
        called = _COMPLETION.fullmatch(path)
        self.number = number
        self.status: int | None = None
        self.cut: Literal["client", "upstream", "recorder"] | None = None
        self._app_id = unquote(called[1]) if called else None
        self._headers = headers
        self._body = body
        self._answer_headers: dict[str, str] = {}
        self._streamed = False
        self._pending = b""
        self._searched = 0
        self._entries: list[JsonObject] = []
        self._latest_ms = 0.0
        self._begun_at = datetime.now(timezone.utc)
        self._begun = time.monotonic()

    @property
    def is_call(self) -> bool:
        """Whether this is a call of an app; nothing else is recorded."""
        return self._app_id is not None

    @property
    def finished(self) -> bool:
        """Whether the app has told its answer to the end."""
        data = as_object(self._entries[-1].get("data")) if self._entries else None
        output = as_object((data or {}).get("output")) or {}
        return output.get("finish_reason") == "stop"

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Note how the answer begins."""
        self.status = status
        self._answer_headers = _kept(headers)
        self._streamed = self._answer_headers.get("content-type", "").startswith(
            "text/event-stream"
        )

    def feed(self, chunk: bytes) -> None:
        """Note a part of the answer, and that it came now."""
        self._latest_ms = self._now_ms()
        self._pending += chunk
        while self._streamed and (end := _EVENT_END.search(self._pending, self._searched)):
            self._note(self._pending[: end.end()])
            self._pending, self._searched = self._pending[end.end() :], 0
        self._searched = max(0, len(self._pending) - 3)

    def summary(self) -> str:
        """What came of it, in a few words."""
        took = (time.monotonic() - self._begun) * 1000
        told = f"{len(self._entries)} frames  " if self._streamed else ""
        cut = f"  cut off by the {self.cut}" if self.cut else ""
        return f"{self.status or 'no answer'}  {told}{took:.0f} ms{cut}"

    def name(self, scrubber: Scrubber) -> str:
        """The file's name: number, app, and what came back."""
        app_id = _OTHER_THAN_NAMES.sub("_", scrubber.text(self._app_id or ""))[:80]
        came = "stream" if self._streamed else "json"
        kind = came if self.status == 200 else self.status or "lost"
        return f"{self.number:04}-{app_id}-{kind}.jsonl"

    def records(self, scrubber: Scrubber) -> list[JsonObject]:
        """Return the lines of the recording; the scrubber learns the secrets of the request."""
        nothing_came = not (self._streamed or self._entries or self.cut)
        if self._pending or nothing_came:
            self._note(self._pending)
            self._pending = b""
        body = _parse(self._body)
        for credentials in self._headers.getlist("authorization"):
            scrubber.learn(credentials.split(" ")[-1])
        scrubber.learn_tokens(body)
        head: JsonObject = {
            "recorded_at": self._begun_at.isoformat(timespec="milliseconds"),
            "request": {"app_id": self._app_id, "headers": _kept(self._headers), "body": body},
            "response": None,
        }
        if self.status is not None:
            head["response"] = {"status": self.status, "headers": self._answer_headers}
        told = [scrubber.value({k: e[k] for k in ("data", "raw") if k in e}) for e in self._entries]
        scrubber.deltas(told)
        lines = [
            scrubber.value(head),
            *({**e, **t} for e, t in zip(self._entries, told, strict=True)),
        ]
        return [*lines, {"offset_ms": self._now_ms(), "cut": self.cut}] if self.cut else lines

    def _note(self, content: bytes) -> None:
        told = read_event(content) if self._streamed else {"data": _parse(content)}
        if told is None or told["data"] is None:  # kept as it is, bytes that are no UTF-8 too
            told = {"raw": content.decode(errors="surrogateescape")}
        if self.status != 200 and not self._streamed:
            told = {"event": "error", "status": self.status, **told}
        self._entries.append({"offset_ms": self._latest_ms, **told})

    def _now_ms(self) -> float:
        return round((time.monotonic() - self._begun) * 1000, 1)


class Folder:
    """The folder that recordings are written to."""

    def __init__(self, path: Path) -> None:
        """Take a folder; nothing is made before `open`."""
        self._path = path
        self._scrubber = Scrubber()
        self._last_number = 0
        self._written: dict[int, Path] = {}

    @property
    def written(self) -> list[Path]:
        """The recordings written, in the order of their requests."""
        return [path for _, path in sorted(self._written.items())]

    def open(self) -> None:
        """Make the folder if there is none, and find the number to go on from.

        Raises:
            OSError: It cannot be made.
        """
        self._path.mkdir(parents=True, exist_ok=True)
        names = map(_NUMBER.fullmatch, sorted(each.name for each in self._path.iterdir()))
        self._last_number = max((int(name[1]) for name in names if name), default=0)

    def next_number(self) -> int:
        """Number one more exchange."""
        self._last_number += 1
        return self._last_number

    def save(self, tape: Tape) -> Path:
        """Write a recording, whole or not at all, for its owner's eyes.

        Raises:
            OSError: It cannot be written.
        """
        lines = tape.records(self._scrubber)
        path = self._path / tape.name(self._scrubber)
        with tempfile.NamedTemporaryFile(dir=self._path, prefix=".", delete=False) as file:  # 0600
            try:
                file.writelines(encode_json(line, end="\n") for line in lines)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink()
                raise
        self._written[tape.number] = path
        return path


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in _KEPT if name in headers}


def _parse(content: bytes) -> JsonObject | None:
    try:
        return as_object(json.loads(content))
    except ValueError:
        return None
