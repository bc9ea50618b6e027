"""One recorded exchange, and the folder that recordings are written to."""

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from starlette.datastructures import Headers

from bailian_apps.emulator.apps.recordings import read_event
from bailian_apps.emulator.credentials import masked_headers
from bailian_apps.emulator.models import ReceivedRequest
from bailian_apps.emulator.recorder.scrubbing import Scrubber
from bailian_apps.emulator.wire.frames import (
    EVENT_END,
    Frame,
    JsonObject,
    NestingError,
    as_object,
    encode_json,
    parse_json,
)

MAX_ANSWER_BYTES = 128 * 1024 * 1024
"""The longest answer that is recorded."""

_COMPLETION = re.compile(r".*/apps/([^/]+)/completion")
_NUMBER = re.compile(r"(\d{4,9})-")
_UNSAFE_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")

# A replay needs no others, and another header could hold a secret.
_KEPT = (
    "accept",
    "content-type",
    "retry-after",
    "user-agent",
    "x-dashscope-sse",
    "x-dashscope-workspace",
)


class Exchange:
    """A request and its response, as they pass through the recorder.

    Attributes:
        number: Its number in the order of all requests.
        status: The HTTP status of the response; None before it arrives.
        problem: Why it cannot be recorded, if so.
        ended_by: The side that ended the exchange early, if any.
    """

    def __init__(self, number: int, path: str, headers: Headers, body: bytes) -> None:
        """Start the exchange when the whole request has arrived; `path` is percent-encoded."""
        match = _COMPLETION.fullmatch(path)
        self.number = number
        self.status: int | None = None
        self.ended_by: Literal["client", "upstream", "recorder"] | None = None
        self.problem: str | None = None
        self._app_id = unquote(match[1]) if match else None
        self._headers = headers
        try:
            self._body = _parse(body, lenient=True)
        except NestingError as error:
            self.problem = f"the body of the request is {error}"
            self._body = None
        self._response_headers: dict[str, str] = {}
        self._streamed = False
        self._size = 0
        self._pending = bytearray()
        self._searched = 0
        self._entries: list[JsonObject] = []
        self._latest_ms = 0.0
        self._started_at = datetime.now(timezone.utc)
        self._started = time.monotonic()

    @property
    def is_call(self) -> bool:
        """Whether this is a call of an app; nothing else is recorded."""
        return self._app_id is not None

    def received(self, body: bytes) -> ReceivedRequest:
        """Return the request with this body, for the page."""
        return ReceivedRequest(
            app_id=self._app_id or "",
            body=body,
            headers=masked_headers(self._headers),
            body_bytes=len(body),
        )

    @property
    def finished(self) -> bool:
        """Whether the answer is complete."""
        data = as_object(self._entries[-1].get("data")) if self._entries else None
        return Frame(payload=data or {}).finished

    @property
    def succeeded(self) -> bool:
        """Whether the answer came, to its end and without an error."""
        failed = any(entry.get("event") == "error" for entry in self._entries)
        return self.status == 200 and self.ended_by is None and not failed

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Record the status and the headers of the response."""
        self.status = status
        self._response_headers = _kept(headers)
        self._streamed = self._response_headers.get("content-type", "").startswith(
            "text/event-stream"
        )

    def feed(self, chunk: bytes) -> None:
        """Record a part of the response's body that arrived now."""
        self._size += len(chunk)
        if self._size > MAX_ANSWER_BYTES:
            self.problem = f"its answer has more than {MAX_ANSWER_BYTES // 1024**2} MiB"
            self._entries, self._pending, self._searched = [], bytearray(), 0
            return
        self._latest_ms = self._now_ms()
        self._pending += chunk
        while self._streamed and (end := EVENT_END.search(self._pending, self._searched)):
            self._add(bytes(self._pending[: end.end()]))
            del self._pending[: end.end()]
            self._searched = 0
        self._searched = max(0, len(self._pending) - 3)

    def summary(self) -> str:
        """Return the result for the log."""
        took = (time.monotonic() - self._started) * 1000
        frames = f"{len(self._entries)} frames  " if self._streamed else ""
        cut = f"  cut off by the {self.ended_by}" if self.ended_by else ""
        return f"{self.status or 'no answer'}  {frames}{took:.0f} ms{cut}"

    def name(self, scrubber: Scrubber) -> str:
        """Return the file name without its number: app id and kind of response."""
        app_id = _UNSAFE_IN_NAMES.sub("_", scrubber.text(self._app_id or ""))[:80]
        body = "stream" if self._streamed else "json"
        kind = body if self.status == 200 else self.status or "lost"
        return f"{app_id}-{kind}.jsonl"

    def records(self, scrubber: Scrubber) -> list[JsonObject]:
        """Return the lines of the recording; the scrubber learns the request's secrets."""
        empty = not (self._streamed or self._entries or self.ended_by)
        if self._pending or empty:
            self._add(bytes(self._pending))
            self._pending = bytearray()
        for credentials in self._headers.getlist("authorization"):
            scrubber.learn(credentials.split(" ")[-1])
        scrubber.learn_tokens(self._body)
        head: JsonObject = {
            "recorded_at": self._started_at.isoformat(timespec="milliseconds"),
            "request": {
                "app_id": self._app_id,
                "headers": _kept(self._headers),
                "body": self._body,
            },
            "response": None,
        }
        if self.status is not None:
            head["response"] = {"status": self.status, "headers": self._response_headers}
        contents = [
            scrubber.value({k: e[k] for k in ("data", "raw") if k in e}) for e in self._entries
        ]
        scrubber.deltas(contents)
        lines = [
            scrubber.value(head),
            *({**e, **c} for e, c in zip(self._entries, contents, strict=True)),
        ]
        cut = {"offset_ms": self._now_ms(), "cut": self.ended_by}
        return [*lines, cut] if self.ended_by else lines

    def _add(self, content: bytes) -> None:
        try:
            entry = read_event(content) if self._streamed else {"data": _parse(content)}
        except NestingError:
            entry = None
        if entry is None or entry["data"] is None:  # kept as it is, even if it is not UTF-8
            entry = {"raw": content.decode(errors="surrogateescape")}
        if self.status != 200 and not self._streamed:
            entry = {"event": "error", "status": self.status, **entry}
        self._entries.append({"offset_ms": self._latest_ms, **entry})

    def _now_ms(self) -> float:
        return round((time.monotonic() - self._started) * 1000, 1)


class RecordingFolder:
    """The folder that recordings are written to."""

    def __init__(self, path: Path, mask: Iterable[str] = ()) -> None:
        """Use a folder; it is not created before `open`. `mask` has names of further secrets."""
        self._path = path
        self._scrubber = Scrubber(mask)
        self._last_number = 0
        self._taken: set[int] = set()
        self._changed_ns = 0
        self._written: dict[int, Path] = {}
        self._lock = threading.Lock()

    @property
    def written(self) -> list[Path]:
        """The recordings written, in the order of their requests."""
        return [path for _, path in sorted(self._written.items())]

    def open(self) -> None:
        """Create the folder if it does not exist, and continue its numbering."""
        self._path.mkdir(parents=True, exist_ok=True)
        # Numbers that were used before a restart are not used again, even if the files are gone.
        self._last_number = max(self._last_number, *self._numbers())

    def next_number(self) -> int:
        """Return the number of the next exchange."""
        self._last_number += 1
        return self._last_number

    def save(self, exchange: Exchange) -> Path:
        """Write a recording, readable only by its owner.

        Another recorder may write to the folder too, so the file can get a later number than the
        exchange. May be called from several threads.

        Raises:
            OSError: It cannot be written; nothing of it is left.
            ValueError: The exchange has a `problem`.
        """
        if exchange.problem:
            raise ValueError(exchange.problem)
        # The secrets of one exchange must not be lost while another learns its own.
        with self._lock:
            lines = exchange.records(self._scrubber)
            content = b"".join(encode_json(line, end="\n") for line in lines)
            path = self._create(exchange.number, exchange.name(self._scrubber), content)
            self._written[exchange.number] = path
        return path

    def _create(self, number: int, name: str, content: bytes) -> Path:
        while True:
            taken = self._numbers()
            if number in taken:
                number = max(taken) + 1
            path = self._path / f"{number:04}-{name}"
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:  # since the folder was listed
                self._changed_ns = 0
                continue
            try:
                with os.fdopen(descriptor, "wb") as file:
                    self._note_own_change(number)
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            return path

    def _numbers(self) -> set[int]:
        """Return 0 and the numbers of the files in the folder."""
        changed_ns = self._path.stat().st_mtime_ns
        if changed_ns != self._changed_ns:  # by someone else; listing it is slow if it is large
            names = os.listdir(self._path)  # noqa: PTH208  # several times faster than paths
            found = [match for name in names if (match := _NUMBER.match(name))]
            self._taken = {0, *(int(match[1]) for match in found)}
            self._changed_ns = changed_ns
        return self._taken

    def _note_own_change(self, number: int) -> None:
        """Remember how the folder is after a file was created in it."""
        self._taken.add(number)
        # A time of our own: those that the file system sets are the same for some milliseconds.
        now_ns = time.time_ns()
        with contextlib.suppress(OSError):  # the folder is someone else's
            os.utime(self._path, ns=(now_ns, now_ns))
        self._changed_ns = self._path.stat().st_mtime_ns


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in _KEPT if name in headers}


def _parse(content: bytes, *, lenient: bool = False) -> JsonObject | None:
    try:
        text = content.decode(json.detect_encoding(content), "surrogatepass")
        return as_object(parse_json(text, lenient=lenient))
    except NestingError:
        raise
    except ValueError:
        return None
