"""What `bailian-apps probe --save` writes: its report, and a recording of each call.

The recordings are in the recorder's format and masked by its rule. They are made of the frames as
they were read, so bytes that are not frames are not in them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from starlette.datastructures import Headers

from bailian_apps.cli.probe_report import print_report
from bailian_apps.core.errors import APIError, BailianError, InvalidInputError, RequestTimeoutError
from bailian_apps.core.language import N_
from bailian_apps.core.request import AppRequest
from bailian_apps.core.settings import AppSettings
from bailian_apps.emulator.recorder.exchange import Exchange, RecordingFolder
from bailian_apps.transport.request_builder import build_request

_SSE = {"content-type": "text/event-stream"}
_JSON = {"content-type": "application/json"}


class CallRecording:
    """The recording of one call."""

    def __init__(self, folder: RecordingFolder, exchange: Exchange) -> None:
        """Made by `Recordings.begin`."""
        self._folder = folder
        self._exchange = exchange

    def feed(self, frame: Mapping[str, Any]) -> None:
        """Record a frame that arrived now."""
        self._event("result", 200, frame)

    def end(self, error: BailianError | None, *, finished: bool) -> None:
        """Write the file, unless nothing was sent.

        Args:
            error: What the call failed with.
            finished: Whether the last frame came.

        Raises:
            BailianError: The file cannot be written.
        """
        if error is not None and error.request_state == "not_sent":
            return
        if isinstance(error, APIError):
            body = {
                "code": error.code,
                "message": error.message.split(" | ")[0],  # without our hint
                "request_id": error.request_id,
            }
            if error.request_state == "answered":  # an HTTP error, before the stream
                self._exchange.begin(error.status_code or 500, _JSON)
                self._exchange.feed(_encode(body))
            else:
                self._event("error", error.status_code or 400, body)
        elif not finished:
            by_us = error is None or isinstance(error, RequestTimeoutError)  # None: Ctrl-C
            self._exchange.ended_by = "client" if by_us else "upstream"
        try:
            self._folder.save(self._exchange)
        except OSError as failure:
            raise _not_written(failure) from None

    def _event(self, kind: str, status: int, payload: Mapping[str, Any]) -> None:
        if self._exchange.status is None:
            self._exchange.begin(200, _SSE)
        head = f"event:{kind}\n:HTTP_STATUS/{status}\ndata:".encode()
        self._exchange.feed(head + _encode(payload) + b"\n\n")


class Recordings:
    """The folder that a probe writes to."""

    def __init__(self, folder: Path, settings: AppSettings) -> None:
        """Check that the files can be written there; nothing is created.

        Raises:
            InvalidInputError: They cannot.
        """
        self._report = folder / "report.md"
        self._folder = RecordingFolder(folder)
        if settings.secret_biz_params:
            raise InvalidInputError(
                "--save",
                "cannot be used with secret_biz_params: recordings mask credentials by their names",
                "Leave out one of the two",
            )
        if self._report.exists():
            raise InvalidInputError("--save", "has a report already", "Choose another folder")

    def open(self) -> None:
        """Create the folder.

        Raises:
            InvalidInputError: It cannot be created.
        """
        try:
            self._folder.open()
        except OSError as failure:
            hint = N_("Choose another folder")
            raise InvalidInputError("--save", _reason(failure), hint) from None

    def begin(self, request: AppRequest, settings: AppSettings) -> CallRecording:
        """Start the recording of a call, which is to be sent now."""
        built = build_request(request, settings)
        path, headers = urlsplit(built.url).path, Headers(built.headers)
        exchange = Exchange(self._folder.next_number(), path, headers, built.body)
        return CallRecording(self._folder, exchange)

    def save_report(self, report: Mapping[str, Any]) -> None:
        """Write the report, as text and as JSON.

        Raises:
            BailianError: The file cannot be written.
        """
        text = io.StringIO()
        print_report(report, Console(file=text, width=80, color_system=None))
        lines = [line.rstrip() for line in text.getvalue().splitlines()]
        details = json.dumps(report, ensure_ascii=False, indent=1)
        blocks = ["```text", *lines, "```", "", "```json", details, "```", ""]
        try:
            with self._report.open("x", encoding="utf-8") as file:
                file.write("\n".join(blocks))
        except OSError as failure:
            raise _not_written(failure) from None


def _not_written(failure: OSError) -> BailianError:
    # Not an `InvalidInputError`, whose exit code means that nothing was sent.
    return BailianError(N_("--save {reason}").format(reason=_reason(failure)))


def _reason(failure: OSError) -> str:
    return N_("cannot be written ({reason})").format(reason=failure.strerror)


def _encode(value: Mapping[str, Any]) -> bytes:
    # A lone half of a surrogate pair stays escaped, as it was on the wire.
    return json.dumps(value).encode()
