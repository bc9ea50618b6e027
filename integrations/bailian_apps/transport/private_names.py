"""The private names of other libraries that this package relies on, each with its reason.

Nobody promises these names. A test imports and uses each one on the oldest and the newest supported
versions; where a name is missing there, it fails with the reason below.
"""

from __future__ import annotations

from typing import NamedTuple


class PrivateName(NamedTuple):
    """A private name of another library.

    Attributes:
        library: The distribution that has it.
        path: Where it is: module, and after the colon the attribute.
        reason: What needs it, and why no public name serves.
    """

    library: str
    path: str
    reason: str


PRIVATE_NAMES = (
    PrivateName(
        "dashscope",
        "dashscope.app.application:Application._build_input_parameters",
        "request_builder: the SDK divides the arguments of a call into input and parameters",
    ),
    PrivateName(
        "dashscope",
        "dashscope.api_entities.api_request_factory:_build_api_request",
        "request_builder: the SDK makes URL, headers and body; its public `call` also sends them",
    ),
    PrivateName(
        "urllib3",
        "urllib3.connection:HTTPConnection._new_conn",
        "sync_http: connecting in bounded time, with a socket that another thread can shut down",
    ),
    PrivateName(
        "urllib3",
        "urllib3.connection:HTTPConnection._dns_host",
        "sync_http: the host to look up, without the brackets of IPv6 and the trailing dot",
    ),
    PrivateName(
        "urllib3",
        "urllib3.response:HTTPResponse._fp",
        "body: leads to the http.client response, whose buffer shows what has arrived",
    ),
    PrivateName(
        "urllib3",
        "urllib3.response:HTTPResponse._pool",
        "body: the connection must not return to the pool before this package releases it",
    ),
    PrivateName(
        "http.client",
        "http.client:HTTPResponse.fp",
        "sync_http, body: the buffered reader of the socket; the attribute is not documented",
    ),
    PrivateName(
        "aiohttp",
        "aiohttp.streams:StreamReader._buffer",
        "async_http: what arrived before the connection was lost; `readany` raises first",
    ),
)
