"""Looks up the addresses of a host, in bounded time.

The system's own look-up cannot be interrupted, so it runs in a thread. Calls that look up one host
at once share it: a name server that does not answer holds up one thread for each host, until the
system gives up. There is no limit of threads: with one, hosts whose server answers would wait for
those whose server does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import threading
from concurrent.futures import Future, InvalidStateError, wait
from typing import Any, Final, TypeAlias

from aiohttp.abc import AbstractResolver, ResolveResult
from typing_extensions import override

AddressInfo: TypeAlias = "tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]"
"""One address, as `socket.getaddrinfo` returns it."""

_Lookup: TypeAlias = "Future[list[AddressInfo]]"

_NUMERIC: Final = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV

# By process, too: a forked child has no copy of the threads.
_running: dict[tuple[int, str, int], _Lookup] = {}


def look_up(host: str, port: int, limit_s: float) -> list[AddressInfo]:
    """Return the addresses of a host.

    Args:
        host: A name, or an address, which needs no look-up.
        port: The port that the addresses name.
        limit_s: How long to wait, in seconds.

    Raises:
        TimeoutError: It took too long.
        OSError: There are none.
    """
    if _is_address(host):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    lookup = _start(host, port)
    if not lookup.done():
        wait([lookup], limit_s)
        if not lookup.done():
            raise TimeoutError
    return lookup.result()


class Resolver(AbstractResolver):
    """Looks names up for aiohttp, which asks for no address of an address.

    The default executor of an event loop would look up after whatever else it has to do, and
    `asyncio.run` would wait for a look-up that its call has given up.
    """

    @override
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def wake_up(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(lambda: over.done() or over.set_result(None))

        lookup = _start(host, port)
        lookup.add_done_callback(wake_up)
        await over
        return [
            ResolveResult(
                hostname=host,
                # With the zone of a link-local address; numeric, so nobody is asked.
                host=socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]
                if len(address) > 2 and address[3]
                else address[0],
                port=address[1],
                family=found,
                proto=protocol,
                flags=_NUMERIC,
            )
            for found, _, protocol, _, address in lookup.result()
            if family in (found, socket.AF_UNSPEC)
        ]

    @override
    async def close(self) -> None:
        """Do nothing: a look-up ends by itself."""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _start(host: str, port: int) -> _Lookup:
    """Return the running look-up of a host; start one if there is none."""
    key = (os.getpid(), host, port)
    new: _Lookup = Future()
    lookup = _running.setdefault(key, new)
    if lookup is new:
        thread = threading.Thread(
            target=_resolve, args=(key, new), name=f"look up {host}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # there are too many threads, or the interpreter is shutting down
            _resolve(key, new)
        except BaseException:  # an interrupt: perhaps no thread ends this look-up
            _end(key, new, OSError("the look-up was interrupted"))
            raise
    return lookup


def _resolve(key: tuple[int, str, int], lookup: _Lookup) -> None:
    _, host, port = key
    try:
        found: Any = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except Exception as error:  # every call that waits for it raises it
        _end(key, lookup, error)
    else:
        _end(key, lookup, found)


def _end(
    key: tuple[int, str, int], lookup: _Lookup, outcome: list[AddressInfo] | Exception
) -> None:
    """End a look-up; where starting its thread was interrupted, the thread may end it, too."""
    _running.pop(key, None)
    with contextlib.suppress(InvalidStateError):
        if isinstance(outcome, Exception):
            lookup.set_exception(outcome)
        else:
            lookup.set_result(outcome)
