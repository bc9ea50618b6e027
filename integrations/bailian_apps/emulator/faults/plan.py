"""Faults by name: what can go wrong between an app and its client, and which call it hits."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import Literal, TypeAlias

from bailian_apps.emulator.server.validation import nearest


class Cut(Enum):
    """How a connection ends."""

    END = "the body ends in order"
    CLOSE = "the connection is closed in order"
    RESET = "the connection is reset"
    STALL = "nothing comes any more, until the client hangs up or the emulator stops"


Place: TypeAlias = Literal[
    "before_headers",
    "inside_headers",
    "after_headers",
    "between_frames",
    "inside_frame",
    "inside_chunk",
    "after_stop",
]
COUNTED_PLACES = ("between_frames", "inside_frame", "inside_chunk")

Rewrite: TypeAlias = Callable[[bytes, bool, bool], bytes]
"""Makes an event of an event, knowing whether it is the first, and whether it is the stop frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to go wrong; what it does not name goes as it should.

    Attributes:
        about: What a client meets.
        instead: Bytes in place of the whole answer; the app is not asked.
        as_json: Answer a streaming call with JSON.
        headers: Headers of the stream to add or to replace.
        framing: How the stream's body is framed.
        rewrite: What becomes of each event.
        place: Where in the answer the next two happen; of a JSON answer, between frames and inside
            one is in the middle of its body.
        insert: An event that is put there.
        cut: How the answer ends there.
    """

    about: str
    instead: bytes | None = None
    as_json: bool = False
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    framing: Literal["chunked", "gzip", "none"] = "chunked"
    rewrite: Rewrite | None = None
    place: Place = "between_frames"
    insert: bytes | None = None
    cut: Cut | None = None

    @property
    def needs_stream(self) -> bool:
        """Whether only a streaming call can meet it."""
        if self.instead is not None:
            return False
        return self.cut is None or bool(self.as_json or self.rewrite or self.insert)

    @property
    def counts_frames(self) -> bool:
        """Whether its place is after a number of frames."""
        happens = self.insert is not None or self.cut is not None
        return self.place in COUNTED_PLACES and happens and not self.as_json


@dataclass(frozen=True, slots=True)
class Staged:
    """A fault that hits a call."""

    name: str
    fault: Fault
    after_frames: int


@dataclass(slots=True)
class _Plan:
    staged: Staged
    app_id: str | None
    nth: int
    share: float | None
    random: Random
    left: float
    seen: int = 0

    def wants(self, app_id: str, *, stream: bool) -> bool:
        """Count a call, and say whether it is one to hit."""
        if self.app_id not in (None, app_id) or (self.staged.fault.needs_stream and not stream):
            return False
        self.seen += 1
        if self.left <= 0:
            return False
        if self.share is not None:
            return self.random.random() < self.share
        return self.seen >= self.nth


class FaultPlan:
    """Which calls are to be hit by which fault; asked by the server's and the test's thread."""

    def __init__(self, faults: Mapping[str, Fault]) -> None:
        """Begin without a fault.

        Args:
            faults: All that can be staged, by their names.
        """
        self._faults = faults
        self._plans: list[_Plan] = []
        self._lock = threading.Lock()

    def add(
        self,
        name: str,
        *,
        nth: int = 1,
        times: int | None = None,
        share: float | None = None,
        seed: int | None = None,
        app_id: str | None = None,
        after_frames: int | None = None,
    ) -> None:
        """Stage a fault; see `Emulator.fail`.

        Raises:
            ValueError: There is no such fault, or an argument cannot mean anything.
        """
        fault = self._faults.get(name)
        if fault is None:
            hint = nearest(str(name), self._faults) or "."
            raise ValueError(f"no fault {name!r}{hint} There are: {', '.join(self._faults)}")
        counts: dict[str, object] = {"nth": nth, "times": times, "after_frames": after_frames}
        for argument, value in counts.items():
            if not isinstance(value, int | None):
                raise ValueError(f"{argument} is a {type(value).__name__}; give an int")
        if nth < 1 or (times is not None and times < 1):
            raise ValueError(f"nth={nth} and times={times} count calls; give 1 or more")
        if share is not None and (nth != 1 or not 0 < share <= 1):
            raise ValueError(f"share={share} must be above 0, at most 1, and without nth")
        if seed is not None and share is None:
            raise ValueError(f"seed={seed} chooses calls of a share; give share= too")
        if after_frames is not None and not (fault.counts_frames and after_frames >= 0):
            raise ValueError(
                f"after_frames={after_frames} must be 0 or more, and {name!r} happen between frames"
            )
        staged = Staged(name, fault, 1 if after_frames is None else after_frames)
        left = times or (1 if share is None else float("inf"))
        with self._lock:
            self._plans.append(_Plan(staged, app_id, nth, share, Random(seed), left))  # noqa: S311

    def clear(self) -> None:
        """Stage nothing any more."""
        with self._lock:
            self._plans.clear()

    def take(self, app_id: str, *, stream: bool) -> Staged | None:
        """Return what is to hit this call; where several are, the one staged first."""
        if not self._plans:
            return None
        with self._lock:
            wanting = [plan for plan in self._plans if plan.wants(app_id, stream=stream)]
            if not wanting:
                return None
            wanting[0].left -= 1
            return wanting[0].staged
