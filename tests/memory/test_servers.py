"""No server outlives the tests, however they end."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

# What a client sends first, so that a session is open when the owner ends: PostgreSQL ignores the
# end of the server in a connection that has only just been accepted, for a minute.
HELLO = {
    "postgres": b"\0\0\0\x29\0\3\0\0user\0postgres\0database\0postgres\0\0",
    "redis": b"PING\r\n",
}

START = """
import sys
from support import servers
with getattr(servers, sys.argv[1])() as address:
    print(address, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("server", ["postgres", "redis"])
def test_a_server_ends_with_the_process_that_asked_for_it(
    server: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(server)  # skips where there is none
    owner = subprocess.Popen(
        [sys.executable, "-c", START, server],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        address = owner.stdout.readline()
        port = int(address.rsplit(":", 1)[1].split("/")[0])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(HELLO[server])
            assert connection.recv(1)
            owner.kill()
            connection.settimeout(120)
            while connection.recv(4096):
                pass
