"""Test doubles of HTTP clients: whether one can see a call, and what it means if it refuses one.

A test suite that replaces `requests` or httpx, or the SDK, believes that no call leaves the
machine. Calls of this package use neither; only background runs use httpx. They would reach the
cloud unseen, and cost money; so they are refused, except in the local network, or where the test
wants them. Nothing here imports a double.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, Final
from urllib.parse import urlsplit

import urllib3

from bailian_apps.core.errors import ConnectError
from bailian_apps.core.language import N_
from bailian_apps.transport.http_answer import environment_error

# What a request of the SDK, of `requests` or of httpx passes through: functions, and classes with
# all their methods. With one of them replaced, such a request may not be sent.
_SENDERS: Final = {
    "dashscope": ("Application",),
    "dashscope.app.application": ("Application", "_build_api_request"),
    "dashscope.client.base_api": ("BaseApi",),
    "dashscope.api_entities.http_request": ("HttpRequest", "_get_shared_sync_session"),
    "requests": ("Session", "post", "request"),
    "requests.api": ("request",),
    "requests.adapters": ("HTTPAdapter",),
    "urllib3": ("PoolManager", "HTTPConnectionPool"),
    "urllib3.util.connection": ("create_connection",),
    "httpx": ("Client", "AsyncClient", "HTTPTransport", "AsyncHTTPTransport", "post", "request"),
    "httpcore": ("ConnectionPool", "AsyncConnectionPool"),
    "aiohttp": ("ClientSession",),
}
# What calls of this package pass through themselves, by the library that sends them.
_SEEING: Final = {
    "urllib3": ("urllib3.PoolManager.urlopen", "urllib3.HTTPConnectionPool.urlopen"),
    "aiohttp": ("aiohttp.ClientSession.post", "aiohttp.ClientSession._request"),
    "httpx": (
        "httpx.Client.send",
        "httpx.Client._transport_for_url",
        "httpx.HTTPTransport.handle_request",
        "httpcore.ConnectionPool.handle_request",
    ),
    "httpx, async": (
        "httpx.AsyncClient.send",
        "httpx.AsyncClient._transport_for_url",
        "httpx.AsyncHTTPTransport.handle_async_request",
        "httpcore.AsyncConnectionPool.handle_async_request",
    ),
}
_LIBRARIES: Final = frozenset(module.partition(".")[0] for module in _SENDERS)
_STDLIB: Final = Path(os.__file__).parent
_DOUBLES: Final = ("unittest.mock", "responses", "requests_mock", "respx", "pytest_httpx")
# Whose errors mean that a test forbids the call.
_REFUSE: Final = ("pytest_socket", "vcr")
_LIVE: Final = "BAILIAN_LIVE"

# The methods of a class when none was replaced, so that not every call looks at each of them.
_unreplaced: dict[tuple[type, bool], tuple[Any, ...]] = {}


def refuse_unseen_call(url: str, *, sender: str) -> None:
    """Refuse a call that leaves the local network while a double is active that cannot see it.

    Args:
        url: Where it goes.
        sender: What sends it, a key of `_SEEING`. A double of that may see the call, as
            aioresponses sees an async one.

    Raises:
        ConnectError: It is refused; nothing was sent.
    """
    host = urlsplit(url).hostname or ""
    if _is_local(host) or is_cassette_active() or os.environ.get(_LIVE) == "1":
        return
    replaced = dict(_replaced())
    if replaced and not any(name in replaced for name in _SEEING[sender]):
        name, double = next(iter(replaced.items()))
        raise environment_error(
            N_(
                "a test has replaced {name} ({double}), which this call does not use: it "
                "would have reached {host}; use the emulator (bailian_apps.emulator) or "
                "vcrpy, or set the environment variable {live}=1 where a test is to send "
                "it"
            ).format(name=name, double=double, host=host, live=_LIVE)
        )


def is_cassette_active() -> bool:
    """Whether vcrpy has replaced urllib3's connections."""
    return hasattr(urllib3.HTTPConnectionPool.ConnectionCls, "cassette")


def without_cassette(connection_class: Any) -> Any:
    """Return urllib3's own class, where vcrpy may have replaced it before this import."""
    return getattr(connection_class, "_baseclass", connection_class)


def refusal(error: Exception) -> ConnectError | None:
    """Return the error for one with which a double forbids a call; None for any other error."""
    kind = type(error)
    if kind.__module__.partition(".")[0] not in _REFUSE:
        return None
    first_line = str(error).partition("\n")[0].rstrip(".")  # the next may quote the request
    return environment_error(
        N_("a test forbids this call: {type}: {first_line}").format(
            type=kind.__name__, first_line=first_line
        )
    )


def _replaced() -> Iterator[tuple[str, str]]:
    """Find what doubles have replaced: the whole name of each, and the double."""
    in_pytest = "PYTEST_CURRENT_TEST" in os.environ
    if not in_pytest and not any(double in sys.modules for double in _DOUBLES):
        return
    for module, names in _SENDERS.items():
        if module not in sys.modules:
            continue
        for name in names:
            sender: Any = getattr(sys.modules[module], name, None)
            if double := _double(sender, in_pytest=in_pytest):
                yield f"{module}.{name}", double
            elif isinstance(sender, type):
                parts = tuple(vars(sender).values())
                if _unreplaced.get((sender, in_pytest)) == parts:
                    continue
                doubles = [_double(each, in_pytest=in_pytest) for each in parts]
                for part, double in zip(tuple(vars(sender)), doubles, strict=False):
                    if double is not None:
                        yield f"{module}.{name}.{part}", double
                if not any(doubles):
                    _unreplaced[sender, in_pytest] = parts


def _double(found: Any, *, in_pytest: bool) -> str | None:
    """Return which double something is, if it is one.

    A function of no library is a test's own, under pytest. Libraries such as requests-cache replace
    functions, too; and tracers, which wrap them, keep their `__module__`.
    """
    if type(found) is FunctionType:
        found = vars(found).get("mock", found)  # of a mock with a spec
    origin = getattr(found, "__module__", None)
    if type(origin) is not str:
        return None
    library = origin.partition(".")[0]
    if origin in _DOUBLES or library in _DOUBLES:
        return origin if origin in _DOUBLES else library
    if in_pytest and callable(found) and library not in _LIBRARIES and _is_own(origin):
        return origin
    return None


def _is_own(module: str) -> bool:
    """Whether a module is neither installed nor Python's own."""
    path = getattr(sys.modules.get(module), "__file__", None)
    if path is None or Path(path).is_relative_to(_STDLIB):
        return False
    return not {"site-packages", "dist-packages"} & set(Path(path).parts)


def _is_local(host: str) -> bool:
    """Whether it is this machine or in its network, as a container is that runs an emulator.

    A link-local address is not: in a cloud it is that of the metadata service.
    """
    try:
        address = ipaddress.ip_address(host)
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_private and not address.is_link_local
    except ValueError:
        name = host.rstrip(".")
        return "." not in name or name.endswith((".localhost", ".internal"))
