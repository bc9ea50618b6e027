"""The WSGI program of servers.md, in both languages, behind a server whose client leaves."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pages import blocks_of

from bailian_apps.emulator import Call, Emulator

pytestmark = pytest.mark.process

PAGES = sorted((Path(__file__).parents[1] / "docs").glob("*/servers.md"))
WAIT_S = 60

WSGIREF = """
from wsgiref.simple_server import make_server
server = make_server("127.0.0.1", 0, application)
print(server.server_port, flush=True)
server.serve_forever()
"""
GEVENT_FIRST = "from gevent import monkey; monkey.patch_all()\n"
GEVENT = """
from gevent.pywsgi import WSGIServer
server = WSGIServer(("127.0.0.1", 0), application, log=None)
server.start()
print(server.server_port, flush=True)
server.serve_forever()
"""


class App:
    """Says a word, falls silent, and says more when it may, while its caller is there."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.left = threading.Event()

    def __call__(self, call: Call) -> Iterator[dict[str, Any]]:
        word = {"output": {"text": "word ", "finish_reason": "null"}}
        yield word
        while not self.goes_on.wait(0.01):
            if call.disconnected.is_set():
                return
        while not call.disconnected.wait(0.05):
            yield word
        self.left.set()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.parent.name)
@pytest.mark.parametrize("server", ["wsgiref", "gevent"])
def test_a_client_that_leaves_ends_the_stream_with_the_next_words(path: Path, server: str) -> None:
    [program] = blocks_of(path.read_text("utf-8"), "python")
    if server == "gevent":
        pytest.importorskip("gevent")
    start, end = ("", WSGIREF) if server == "wsgiref" else (GEVENT_FIRST, GEVENT)
    app = App()
    with (
        Emulator(apps={"app": app}) as cloud,
        subprocess.Popen(
            [sys.executable, "-c", start + program + end],
            env={
                "DASHSCOPE_API_KEY": "k",
                "BAILIAN_APP_ID": "app",
                "DASHSCOPE_HTTP_BASE_URL": cloud.base_url,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with socket.create_connection(("127.0.0.1", port), WAIT_S) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                received = b""
                while b"word" not in received:
                    received += client.recv(1000)
            app.goes_on.set()
            assert app.left.wait(WAIT_S)
        finally:
            process.kill()
