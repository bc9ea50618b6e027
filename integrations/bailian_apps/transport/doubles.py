"""Test doubles of HTTP clients: whether one can see a call, and what it means if it refuses one.

A test suite that replaces `requests` or httpx, or the SDK, believes that no call leaves the
machine. Calls of this package use neither. They would reach the cloud unseen, and cost money; so
they are refused, except in the local network. Nothing here imports a double.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import urlsplit

import urllib3

from bailian_apps.core.errors import ConnectError
from bailian_apps.transport.http_answer import environment_error

# Where each double replaces a function of its own: the double's module, and the function.
_REPLACED: Final = (
    ("responses", "requests.adapters", "HTTPAdapter.send"),
    ("requests_mock", "requests", "Session.send"),
    ("requests_mock", "requests", "Session.get_adapter"),
    ("respx", "httpcore", "ConnectionPool.handle_request"),
    ("respx", "httpx", "Client._transport_for_url"),
    ("pytest_httpx", "httpx", "HTTPTransport.handle_request"),
    ("unittest", "dashscope", "Application.call"),
    ("unittest", "dashscope.api_entities.http_request", "HttpRequest.call"),
    ("unittest", "requests.adapters", "HTTPAdapter.send"),
    ("unittest", "requests", "Session.send"),
    ("unittest", "requests", "Session.request"),
    ("unittest", "requests", "Session.post"),
)
# Whose errors mean that a test forbids the call.
_REFUSE: Final = ("pytest_socket", "vcr")


def refuse_unseen_call(url: str, *, sender: object = None) -> None:
    """Refuse a call that leaves the local network while a double is active that cannot see it.

    Args:
        url: Where it goes.
        sender: The function that sends it. If that is a mock, as in aioresponses, it is seen.

    Raises:
        ConnectError: It is refused; nothing was sent.
    """
    if is_cassette_active() or hasattr(sender, "mock"):
        return
    for double, module, name in _REPLACED:
        if module in sys.modules and _is_active(double, module, name):
            host = urlsplit(url).hostname or ""
            if not _is_local(host):
                raise environment_error(
                    f"a test has replaced {module}.{name} ({double}), which calls of this package "
                    f"do not use: this one would have reached {host}; use the emulator "
                    "(bailian_apps.emulator) or vcrpy"
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
    return environment_error(f"a test forbids this call: {kind.__name__}: {first_line}")


def _is_active(double: str, module: str, name: str) -> bool:
    """Whether a double has replaced a function. Tracers, which wrap it, keep its `__module__`."""
    if double not in sys.modules:
        return False
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part, None)
    found = getattr(found, "mock", found)  # of a function that a mock with a spec has made
    origin = str(getattr(found, "__module__", ""))
    if origin.partition(".")[0] == double:
        return True
    if double != "unittest" or (test := os.environ.get("PYTEST_CURRENT_TEST")) is None:
        return False
    if module == "dashscope":
        return origin.partition(".")[0] != module
    # Libraries such as requests-cache replace functions of `requests` too: only a test's own count.
    return origin.rpartition(".")[2] in ("conftest", PurePath(test.partition("::")[0]).stem)


def _is_local(host: str) -> bool:
    """Whether it is this machine or in its network, as a container is that runs an emulator.

    A link-local address is not: in a cloud it is that of the metadata service.
    """
    try:
        address = ipaddress.ip_address(host)
        return address.is_private and not address.is_link_local
    except ValueError:
        name = host.rstrip(".")
        return "." not in name or name.endswith((".localhost", ".internal"))
