"""What a fault does to an answer."""

import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import Enum
from typing import Literal, TypeAlias


class Cut(Enum):
    """How an answer ends early."""

    END = "the body ends in order"
    CLOSE = "the connection is closed"
    RESET = "the connection is reset"
    STALL = "nothing more is sent until the client disconnects or the emulator stops"


FaultPoint: TypeAlias = Literal[
    "before_headers",
    "inside_headers",
    "after_headers",
    "between_frames",
    "inside_frame",
    "inside_chunk",
    "after_stop",
]
COUNTED_POINTS = ("between_frames", "inside_frame", "inside_chunk")
"""The points that come after a number of frames."""

Rewrite: TypeAlias = Callable[[bytes, bool, bool], bytes]
"""Rewrites an event, given whether it is the first and whether it is the stop frame."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault; fields that are not given leave the answer as it is.

    Attributes:
        description: What the client observes.
        raw_response: Bytes that replace the whole response; the app is not called.
        as_json: Answer a streaming call with JSON.
        headers: Headers of the stream to add or replace.
        framing: How the body of the stream is framed.
        rewrite: Rewrites each event.
        point: Where `insert` and `cut` happen. In a JSON answer, between frames and inside a frame
            is the middle of the body.
        insert: An event to insert.
        cut: How the answer ends.
    """

    description: str
    _: KW_ONLY
    raw_response: bytes | None = None
    as_json: bool = False
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    framing: Literal["chunked", "gzip", "none"] = "chunked"
    rewrite: Rewrite | None = None
    point: FaultPoint = "between_frames"
    insert: bytes | None = None
    cut: Cut | None = None

    @property
    def needs_stream(self) -> bool:
        """Whether only a streaming call can meet it."""
        if self.raw_response is not None:
            return False
        return self.cut is None or bool(self.as_json or self.rewrite or self.insert)

    @property
    def counts_frames(self) -> bool:
        """Whether it happens after a number of frames."""
        happens = self.insert is not None or self.cut is not None
        replaced = self.as_json or self.raw_response is not None
        return self.point in COUNTED_POINTS and happens and not replaced

    @property
    def event_status(self) -> int | None:
        """The status of the error event that it inserts, if any."""
        match = re.search(rb":HTTP_STATUS/(\d+)", self.insert or b"")
        return int(match[1]) if match and match[1] != b"200" else None
