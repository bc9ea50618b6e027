"""The private names of other libraries that this package relies on, each with its reason.

Nobody promises these names. A test imports and uses each on the oldest and the newest versions.
"""

PRIVATE_NAMES = {
    "dashscope.app.application:Application._build_input_parameters": (
        "request_builder: divides the arguments of a call into input and parameters"
    ),
    "dashscope.api_entities.api_request_factory:_build_api_request": (
        "request_builder: makes URL, headers and body; the public `call` also sends them"
    ),
    "urllib3.connection:HTTPConnection._new_conn": (
        "sync_pool: connects in bounded time, with a socket that another thread can shut down"
    ),
    "urllib3.connection:HTTPConnection._dns_host": (
        "sync_pool: the host to look up, without brackets and trailing dot"
    ),
    "urllib3.response:HTTPResponse._fp": (
        "body: the http.client response, whose buffer shows what has arrived"
    ),
    "urllib3.response:HTTPResponse._pool": (
        "body: the connection must not return to the pool before it is released"
    ),
    "http.client:HTTPResponse.fp": "sync_pool, body: the buffered reader of the socket",
    "socket:SocketIO._sock": "body: the socket, where it was connected through a SOCKS proxy",
    "aiohttp.streams:StreamReader._buffer": (
        "async_http: what arrived before the connection was lost; `readany` raises first"
    ),
    "aiohttp.client_proto:ResponseHandler.read": (
        "async_pool: with `data_received`, shows whether the parser holds part of another answer"
    ),
    "asyncio.selector_events:_SelectorTransport._call_connection_lost": (
        "async_pool: closes the socket; `abort` leaves that to a turn of the event loop"
    ),
    "asyncio.sslproto:_SSLProtocolTransport._ssl_protocol": (
        "async_pool: with the next, the transport below TLS, which has the socket"
    ),
    "asyncio.sslproto:SSLProtocol._transport": "async_pool: see above",
}
"""Where each name is (module and, after the colon, the attribute), and what needs it."""
