"""Each private name of another library that the transport uses exists, and works as used here."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
from collections import deque
from collections.abc import Callable
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import trustme
import urllib3
import urllib3.connection
from aiohttp.client_proto import ResponseHandler
from support.wire import WAIT_S, WireServer, answer

from bailian_apps.transport.private_names import PRIVATE_NAMES

OK = answer("200 OK", b"{}")


def sdk_input() -> None:
    from dashscope import Application

    build: Any = Application._build_input_parameters  # type: ignore[attr-defined]
    assert build("hi", None, None, session_id="s", top_k=1) == (
        {"prompt": "hi", "session_id": "s"},
        {"top_k": 1},
    )


def sdk_request() -> None:
    from dashscope.api_entities import api_request_factory

    build: Any = api_request_factory._build_api_request  # type: ignore[attr-defined]
    built = build(
        model="", input={"prompt": "hi"}, task_group="apps", task="app", function="completion",
        api_key="sk-test", is_service=False, stream=True, base_address="http://host/api/v1", top_k=1,
    )  # fmt: skip
    assert built.url == "http://host/api/v1/apps/app/completion"
    assert built.headers["Authorization"] == "Bearer sk-test"
    body = {"model": "", "parameters": {"top_k": 1}, "input": {"prompt": "hi"}}
    assert built.data.to_request_object() == body


def urllib3_connect() -> None:
    with WireServer(OK) as server:
        port = int(server.base_url.split(":")[2].split("/")[0])
        with urllib3.connection.HTTPConnection("127.0.0.1", port)._new_conn() as connected:
            assert connected.getpeername() == ("127.0.0.1", port)


def urllib3_host() -> None:
    for host in ("example.com.", "[::1]"):
        connection = urllib3.connection.HTTPConnection(host, 80)
        assert connection._dns_host.strip("[]") == host.strip("[]")


def urllib3_body() -> None:
    with WireServer(OK) as server, urllib3.PoolManager() as manager:
        response = manager.request(
            "POST", server.base_url, body=b"{}", preload_content=False, decode_content=False
        )
        inner: Any = response._fp  # type: ignore[attr-defined]
        assert isinstance(inner, http.client.HTTPResponse)
        assert inner.fp.read1(10) == b"{}"
        response.close()


def urllib3_pool() -> None:
    with WireServer(OK, OK) as server, urllib3.PoolManager() as manager:
        for _ in range(2):
            response = manager.request("POST", server.base_url, body=b"{}", preload_content=False)
            assert response._pool is not None  # type: ignore[attr-defined]
            response._pool = None  # type: ignore[attr-defined]
            assert response.data == b"{}"  # with the last byte it would have returned to the pool
            response.close()
        assert server.connections == 2


def socket_of_its_reader() -> None:
    with WireServer(OK) as server:
        port = int(server.base_url.split(":")[2].split("/")[0])
        with (
            socket.create_connection(("127.0.0.1", port)) as connected,
            connected.makefile("rb") as reader,
        ):
            assert reader.raw._sock is connected  # type: ignore[attr-defined]


async def aiohttp_buffer() -> None:
    with WireServer(OK) as server:
        async with (
            aiohttp.ClientSession() as session,
            session.post(server.base_url, data=b"{}") as response,
        ):
            assert isinstance(response.content._buffer, deque)
            while not response.content.at_eof() and not response.content._buffer:
                await response.content._wait("test")  # until something has arrived
            assert b"".join(response.content._buffer) == b"{}"


async def aiohttp_read() -> None:
    protocol = ResponseHandler(asyncio.get_running_loop())
    protocol.set_response_params(read_until_eof=True)
    head, body = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"{}"
    protocol.data_received(head + body)
    with pytest.raises(StopIteration) as done:
        protocol.read().send(None)
    assert done.value.value[0].code == 200
    assert not protocol.should_close
    reading = protocol.read()
    assert reading.send(None) is not None  # it waits
    reading.close()


async def asyncio_connection_lost() -> None:
    with WireServer() as server:
        transport, _ = await asyncio.get_running_loop().create_connection(
            asyncio.Protocol, "127.0.0.1", urlsplit(server.base_url).port
        )
        transport.pause_reading()  # the loop is not to look at a closed socket
        lost: Any = transport._call_connection_lost  # type: ignore[attr-defined]
        lost(None)
        assert await asyncio.to_thread(server.all_gone.wait, WAIT_S)


async def asyncio_below_tls() -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    with WireServer(tls=context) as server:
        transport, _ = await asyncio.get_running_loop().create_connection(
            asyncio.Protocol, "127.0.0.1", urlsplit(server.base_url).port, ssl=trusting
        )
        below: Any = transport._ssl_protocol._transport  # type: ignore[attr-defined]
        assert type(below) is not type(transport)
        assert below.get_extra_info("socket") is transport.get_extra_info("socket")
        transport.abort()
        assert await asyncio.to_thread(server.all_gone.wait, WAIT_S)


USES: dict[str, Callable[[], Any]] = {
    "dashscope.app.application:Application._build_input_parameters": sdk_input,
    "dashscope.api_entities.api_request_factory:_build_api_request": sdk_request,
    "urllib3.connection:HTTPConnection._new_conn": urllib3_connect,
    "urllib3.connection:HTTPConnection._dns_host": urllib3_host,
    "urllib3.response:HTTPResponse._fp": urllib3_body,
    "urllib3.response:HTTPResponse._pool": urllib3_pool,
    "http.client:HTTPResponse.fp": urllib3_body,
    "socket:SocketIO._sock": socket_of_its_reader,
    "aiohttp.streams:StreamReader._buffer": aiohttp_buffer,
    "aiohttp.client_proto:ResponseHandler.read": aiohttp_read,
    "asyncio.selector_events:_SelectorTransport._call_connection_lost": asyncio_connection_lost,
    "asyncio.sslproto:_SSLProtocolTransport._ssl_protocol": asyncio_below_tls,
    "asyncio.sslproto:SSLProtocol._transport": asyncio_below_tls,
}


@pytest.mark.parametrize("name", PRIVATE_NAMES)
async def test_a_private_name_exists_and_works(name: str) -> None:
    import_module(name.partition(":")[0])
    done = USES[name]()
    if done is not None:
        await done


def test_every_private_name_has_a_reason_and_a_use() -> None:
    assert USES.keys() == PRIVATE_NAMES.keys()
    assert all(PRIVATE_NAMES.values())
