"""Which sessions of the cloud this process has gone on in, and how far.

A session is one line of rounds. Two calls that go on from the same answer (a branch, an answer
made anew, two calls at once) would both write the next round, and each would find the other's words
in the app's memory. So whoever goes on in a session claims its next round first; who comes second
sends the whole history instead.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import TypeAlias

MAX_SESSIONS = 10_000
"""How many sessions are kept in mind; the one that was claimed longest ago goes first."""

SessionKey: TypeAlias = tuple[str | None, str, str]
"""The address of the API (emulators that replay one recording share its sessions), the app and the
session."""


class SessionClaims:
    """The newest claimed round of each session. Safe to use from any thread, and after a fork."""

    def __init__(self, *, max_sessions: int = MAX_SESSIONS) -> None:
        """Begin with no claims.

        Args:
            max_sessions: How many sessions are kept in mind.
        """
        self._rounds: OrderedDict[SessionKey, int] = OrderedDict()
        self._max_sessions = max_sessions
        self._lock = threading.RLock()  # a signal handler may make a call while one claims
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._unlock)

    def claim(self, key: SessionKey, round_: int) -> bool:
        """Claim a round of a session; False if it, or a later one, was claimed before."""
        with self._lock:
            if self._rounds.get(key, 0) >= round_:
                return False
            self._rounds[key] = round_
            self._rounds.move_to_end(key)
            if len(self._rounds) > self._max_sessions:
                self._rounds.popitem(last=False)
            return True

    def release(self, key: SessionKey, round_: int) -> None:
        """Give a claimed round back: its call certainly did not start."""
        with self._lock:
            if self._rounds.get(key) == round_:
                self._rounds[key] = round_ - 1

    def _unlock(self) -> None:
        # The thread that held the lock when the process was forked is not in the child.
        self._lock = threading.RLock()


CLAIMS = SessionClaims()
"""The claims of this process."""
