"""How the recorder connects to its upstream: which certificates it trusts, and by which proxy."""

import os
import ssl
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import certifi

# The first two are those that calls have from the library `requests`.
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


def tls_context(ca_bundle: str | os.PathLike[str] | None) -> ssl.SSLContext:
    """Return the context that trusts a bundle, or else all that the environment names."""
    variables = [(name, path) for name in CA_VARIABLES if (path := os.environ.get(name))]
    trusted = [("ca_bundle", os.fspath(ca_bundle))] if ca_bundle else variables
    context: ssl.SSLContext | None = None
    for source, path in trusted or [("certifi", certifi.where())]:
        cafile, capath = (None, path) if Path(path).is_dir() else (path, None)
        try:
            if context is None:
                context = ssl.create_default_context(cafile=cafile, capath=capath)
            else:
                context.load_verify_locations(cafile, capath)
        except OSError as error:  # an SSLError is one
            is_not_pem = isinstance(error, ssl.SSLError)
            problem = "not certificates in PEM form" if is_not_pem else error.strerror
            message = f"{source}: cannot read the certificates in {path}: {problem}"
            raise OSError(message) from None
    assert context is not None  # noqa: S101  # there is always something to trust
    return context


def proxy_for(url: str) -> str | None:
    """Return the proxy from the environment for a URL."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.request.getproxies().get(parts.scheme)
