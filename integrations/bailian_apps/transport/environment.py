"""What the environment says of the way to the cloud, as requests reads it: proxies, certificates.

Sync, requests itself goes by the environment, and it is read here only when that failed. Async, and
where a command looks before it leaps, it is read here first. So all reach the same servers.
"""

from __future__ import annotations

import os
import ssl
import urllib.request
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import certifi
import requests.exceptions
import requests.utils

from bailian_apps.core.errors import BailianError
from bailian_apps.transport.answer import not_connected, unusable

_PROXY_SCHEMES: Final = frozenset({"http", "https", "socks4", "socks4a", "socks5", "socks5h"})


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for an address, by the rules of requests.

    Raises:
        ConnectError: What it names is no address.
    """
    if not urllib.request.getproxies():
        return None  # as mostly; to read what no proxy is for would take as long again
    proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(proxy)
        if parts.scheme.lower() in _PROXY_SCHEMES and parts.hostname and parts.port != 0:
            return proxy
    except ValueError:  # such as a port above 65535
        pass
    raise unusable(
        "the proxy that the environment names (http_proxy, https_proxy or all_proxy) is no address "
        "such as http://127.0.0.1:8080"
    )


def certificates() -> str | None:
    """The file or folder of certificates that the environment names, by the rules of requests.

    Raises:
        ConnectError: There is none of that name.
    """
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if named := os.environ.get(variable):
            if not Path(named).exists():
                raise unusable(f"{variable} names certificates that are not there, {named}")
            return named
    return None


def tls_context() -> ssl.SSLContext:
    """The certificates to trust: those that the environment names, or certifi's.

    Raises:
        ConnectError: The environment names some that are not there.
        OSError: They cannot be read.
    """
    return _tls_context(certificates() or certifi.where())


@cache
def _tls_context(trusted: str) -> ssl.SSLContext:
    if Path(trusted).is_dir():
        return ssl.create_default_context(capath=trusted)
    return ssl.create_default_context(cafile=trusted)  # 20 ms


def unreachable(url: str, error: Exception) -> BailianError:
    """The error for a request that was not sent; whatever is amiss in the environment comes first.

    Args:
        url: What was asked for.
        error: Why requests did not get there.
    """
    try:
        proxy = proxy_for(url)
        if url.startswith("https:"):
            certificates()
    except BailianError as amiss:
        return amiss
    if isinstance(error, requests.exceptions.InvalidSchema):
        return unusable("the environment names a SOCKS proxy, for which PySocks must be installed")
    return not_connected(url, error, proxy=proxy)
