"""The newest exchanges of a server, for its page.

Usually nobody looks. So an exchange keeps references to bytes that were made anyway; `reading`
makes everything else of them, when the page asks. Nothing here knows of HTTP.
"""

import sys
import time
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from bailian_apps.emulator.models import ReceivedRequest
from bailian_apps.emulator.server.local_server import Outcome

KEPT_EXCHANGES = 10_000
KEPT_BYTES = 64 * 1024 * 1024
"""The bodies of all kept requests and answers together."""

MAX_ANSWER_BYTES = KEPT_BYTES // 4
"""How much of one answer is kept, also of a compressed one."""

LABEL_CHARS = 300
"""The longest prompt and the longest `biz_params` in the list."""

_OVERHEAD = 128
"""What Python needs for each piece of an answer beside its bytes, about."""


@dataclass(eq=False, slots=True, kw_only=True)
class Exchange:
    """A request and its answer so far.

    Attributes:
        number: Its number, counted from 1.
        request: The request.
        outcome: What became of it, completed by the server.
        at_s: When the request had arrived, in seconds since 1970.
        started_s: The same on the monotonic clock.
        pieces: The body of the answer as it was sent: each piece with its time on that clock.
        ended_s: When the answer had ended on that clock; None while it runs.
        kept_bytes: What it counts in the store.
        key: The key of the request, which the answer may repeat.
        coding: How the body of the answer is compressed, if it is.
        answer_bytes: The length of the body of the answer, also of what is not kept.
        bytes_left: How many more bytes of the answer may be kept.
        is_cut: Whether the answer is too long, so that only its start is kept.
        version: The version of the store that changed it last.
        labels: What `reading` made of the request for the list; None before somebody looked.
    """

    number: int
    request: ReceivedRequest
    outcome: Outcome
    store: "Exchanges"
    at_s: float
    started_s: float
    kept_bytes: int
    key: str = field(default="", repr=False)
    coding: str = ""
    answer_bytes: int = 0
    bytes_left: int = field(default_factory=lambda: MAX_ANSWER_BYTES)
    pieces: list[tuple[float, bytes]] = field(default_factory=list[tuple[float, bytes]])
    ended_s: float | None = None
    is_cut: bool = False
    version: int = 0
    labels: tuple[str, str] | None = None

    def add(self, content: bytes) -> None:
        """Keep a piece of the answer, which was sent now."""
        self.answer_bytes += len(content)
        if self.is_cut:
            return
        kept = content[: max(0, self.bytes_left)]
        self.is_cut = len(kept) < len(content)
        self.pieces.append((time.monotonic(), kept))
        size = len(kept) + _OVERHEAD
        self.bytes_left -= size
        self.kept_bytes += size
        self.store.grow(size)

    def end(self) -> None:
        """Note that the answer has ended."""
        self.ended_s = time.monotonic()
        if self.store.get(self.number) is self:
            size = sys.getsizeof(self.outcome.error)
            self.kept_bytes += size
            self.store.grow(size)
        self.store.finish(self)


class Exchanges:
    """The newest exchanges of one server; used by the server's thread.

    Attributes:
        id: Differs from that of every other store, so that a page can tell them apart.
        version: How many changes there were.
        dropped: How many exchanges are kept no longer.
        mask: Names whose values are secret too.
    """

    def __init__(self, mask: Iterable[str] = ()) -> None:
        """Create an empty store."""
        self.mask = tuple(mask)
        self.id = uuid.uuid4().hex[:8]
        self.version = 0
        self.dropped = 0
        self._last_number = 0
        self._kept_bytes = 0
        self._by_number: dict[int, Exchange] = {}
        self._running: dict[int, Exchange] = {}
        self._by_change: dict[int, Exchange] = {}  # the one that changed last is the last one

    @property
    def kept_bytes(self) -> int:
        """The bytes of all kept exchanges, about."""
        return self._kept_bytes

    def __len__(self) -> int:
        """Return how many exchanges are kept."""
        return len(self._by_number)

    def begin(self, request: ReceivedRequest, outcome: Outcome, key: str = "") -> Exchange:
        """Keep a request that has arrived now; the oldest ones go where there are too many."""
        self._last_number += 1
        exchange = Exchange(
            number=self._last_number,
            request=request,
            outcome=outcome,
            store=self,
            at_s=time.time(),
            started_s=time.monotonic(),
            kept_bytes=request.size + sys.getsizeof(key) + _labels_size(request) + _OVERHEAD,
            key=key,
        )
        self._by_number[exchange.number] = self._running[exchange.number] = exchange
        self.touch(exchange)
        self.grow(exchange.kept_bytes)
        return exchange

    def touch(self, exchange: Exchange) -> None:
        """Give a change of a kept exchange its version."""
        if exchange.number in self._by_number:
            self.version += 1
            exchange.version = self.version
            self._by_change.pop(exchange.number, None)
            self._by_change[exchange.number] = exchange

    def finish(self, exchange: Exchange) -> None:
        """Note that an exchange has ended."""
        self._running.pop(exchange.number, None)
        self.touch(exchange)

    def grow(self, size: int) -> None:
        """Count bytes that were kept, and drop the oldest exchanges if there are too many."""
        self._kept_bytes += size
        while len(self._by_number) > 1 and (
            self._kept_bytes > KEPT_BYTES or len(self._by_number) > KEPT_EXCHANGES
        ):
            self._drop(next(iter(self._by_number.values())))

    def get(self, number: int) -> Exchange | None:
        """Return a kept exchange, or None."""
        return self._by_number.get(number)

    @property
    def first_number(self) -> int:
        """The number of the oldest kept exchange, or the next number if there is none."""
        return next(iter(self._by_number), self._last_number + 1)

    def since(self, version: int) -> list[Exchange]:
        """Return the exchanges that changed after a version, the last change last."""
        changed: list[Exchange] = []
        for exchange in reversed(self._by_change.values()):
            if exchange.version <= version:
                break
            changed.append(exchange)
        return changed[::-1]

    def of_sessions(self, ids: Collection[str]) -> dict[str, list[Exchange]]:
        """Return the exchanges of sessions, by the ids of these."""
        found: dict[str, list[Exchange]] = {each: [] for each in ids}
        for exchange in self._by_number.values():
            if (session_id := exchange.outcome.session_id) in found:
                found[session_id].append(exchange)
        return found

    def running(self) -> list[Exchange]:
        """Return the exchanges whose answer has not ended."""
        return list(self._running.values())

    def clear(self) -> None:
        """Drop all exchanges; those that run are kept no longer either."""
        for exchange in list(self._by_number.values()):
            self._drop(exchange)
        self.dropped = 0

    def _drop(self, exchange: Exchange) -> None:
        del self._by_number[exchange.number]
        self._by_change.pop(exchange.number, None)
        self._running.pop(exchange.number, None)
        self._kept_bytes -= exchange.kept_bytes
        self.dropped += 1
        exchange.is_cut = True  # so that nothing is added to it
        exchange.pieces.clear()


def _labels_size(request: ReceivedRequest) -> int:
    """Return how many bytes the labels of a request take at most; they are made later."""
    return 4 * min(2 * LABEL_CHARS, request.body_bytes)  # a character takes up to four
