"""Proxy and certificates: a client's own, or the environment's, by the rules of `requests`."""

from __future__ import annotations

import os
import ssl
import urllib.request
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import certifi
import requests  # not `requests.utils`: the SDK, in another thread, might get a half of it

from bailian_apps.core.language import N_
from bailian_apps.transport.http_answer import environment_error

_PROXY_SCHEMES: Final = frozenset({"http", "https", "socks4", "socks4a", "socks5", "socks5h"})


class Environment:
    """Where requests go out, and which certificates are trusted."""

    def __init__(self, proxy: str | None = None, ca_bundle: str | None = None) -> None:
        """Decide what is not left to the environment.

        Args:
            proxy: A proxy's URL, as `proxy_url` returns it; None for the environment's, if any.
            ca_bundle: A file or directory of certificates; None for the one that the environment
                names, or else certifi's.
        """
        self._proxy = proxy
        self._ca_bundle = ca_bundle

    def proxy_for(self, url: str) -> str | None:
        """Return the proxy to use for a URL.

        Raises:
            ConnectError: The environment names one that is not a URL.
        """
        if self._proxy is not None:
            return self._proxy
        if not urllib.request.getproxies():
            return None  # the usual case; reading `no_proxy` would take as long again
        named = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
        proxy = proxy_url(named) if named else None
        if named and proxy is None:
            raise environment_error(
                "the proxy in the environment (http_proxy, https_proxy or all_proxy) is not a URL "
                "such as http://127.0.0.1:8080"
            )
        return proxy

    def certificates(self) -> str:
        """Return the file or directory of certificates to trust.

        Raises:
            ConnectError: It does not exist.
        """
        for source, path in (
            ("ca_bundle", self._ca_bundle),
            ("REQUESTS_CA_BUNDLE", os.environ.get("REQUESTS_CA_BUNDLE")),
            ("CURL_CA_BUNDLE", os.environ.get("CURL_CA_BUNDLE")),
        ):
            if path:
                if not Path(path).exists():
                    problem = N_("{source} names certificates that do not exist, {path}").format(
                        source=source, path=path
                    )
                    raise environment_error(problem)
                return path
        return certifi.where()


def proxy_url(value: str) -> str | None:
    """Return a proxy's URL with its scheme, in lower case; None if it is not one."""
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        if parts.scheme in _PROXY_SCHEMES and parts.hostname and parts.port != 0:
            return parts.geturl()
    except ValueError:  # such as a port above 65535
        pass
    return None


def uses_tls(url: str, proxy: str | None) -> bool:
    """Whether the way to a URL has TLS: to the URL itself, or to the proxy."""
    return url.startswith("https:") or (proxy or "").startswith("https:")


def tls_context(trusted: str) -> ssl.SSLContext:
    """Return the TLS context for a file or directory of certificates to trust.

    Raises:
        ConnectError: They cannot be read.
    """
    # gevent and eventlet replace the class; an instance from before no longer works.
    return _tls_context(trusted, ssl.SSLContext)


# A file that is replaced in place is not read again.
@cache
def _tls_context(trusted: str, _made_with: type[ssl.SSLContext]) -> ssl.SSLContext:
    try:
        if Path(trusted).is_dir():
            return ssl.create_default_context(capath=trusted)
        return ssl.create_default_context(cafile=trusted)  # 20 ms
    except OSError as error:  # an SSLError is one
        problem = (
            N_("not certificates in PEM form") if isinstance(error, ssl.SSLError) else str(error)
        )
        raise environment_error(
            N_("cannot read the certificates in {trusted}: {problem}").format(
                trusted=trusted, problem=problem
            )
        ) from None
