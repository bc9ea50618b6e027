"""Commands run as a user's shell would start them: with Ctrl-C enabled, and with time to start."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _sigint_is_not_ignored() -> Iterator[None]:
    """Enable SIGINT, which a background job's processes ignore and pass on to their children."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
