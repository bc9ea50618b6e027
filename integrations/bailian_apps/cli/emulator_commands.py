"""`bailian-apps serve` and `record`: the commands that run the emulator."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console

from bailian_apps.cli.shell import export_line, variable
from bailian_apps.cli.view import ConsoleHandler, print_note
from bailian_apps.core.endpoint import check_api_key
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.emulator import RECORDINGS, Emulator, Recorder, load_apps
from bailian_apps.emulator.apps.app import AppSource
from bailian_apps.emulator.recorder.recorder import PUBLIC_API
from bailian_apps.emulator.server.refusals import checked_hosts
from bailian_apps.inspector import render_frames
from bailian_apps.transport.environment import Environment
from bailian_apps.transport.request_builder import sdk_defaults

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104


def serve(
    sources: Sequence[Path],
    named: Sequence[str],
    out: Console,
    console: Console,
    *,
    host: str,
    allowed_hosts: Sequence[str],
    port: int,
    pace: float,
    api_key: str | None,
    strict: bool,
) -> None:
    """Run the emulator until Ctrl-C; the options are those of the command.

    The client's environment variables go to `out`, the log to `console`.
    """
    key = _key_of(api_key)
    _check_hosts(allowed_hosts)
    apps = _apps_of(sources, named) or {"travel": RECORDINGS / "travel-workflow.jsonl"}
    try:
        emulator = Emulator(
            apps=apps,
            host=host,
            port=port,
            allowed_hosts=allowed_hosts,
            pace=pace,
            api_key=key,
            strict=strict,
            render_run=render_frames,
        )
    except ValueError as error:
        raise InvalidInputError(
            "--app", f"cannot be used: {error}", "Correct it, or leave it out"
        ) from None
    _start(emulator, host, port)
    variables = {
        "DASHSCOPE_HTTP_BASE_URL": emulator.base_url,
        "DASHSCOPE_API_KEY": '"…"  # the key of --api-key' if key else "any-key",
    }
    print_note(console, f"Emulating {len(apps)} app{'s'[: len(apps) > 1]}: {', '.join(apps)}")
    _run_until_interrupted(emulator, variables, out, console, host=host)


def record(
    folder: Path,
    out: Console,
    console: Console,
    *,
    upstream: str | None,
    host: str,
    allowed_hosts: Sequence[str],
    port: int,
) -> None:
    """Run the recorder until Ctrl-C; the options and the consoles are as for `serve`."""
    _check_hosts(allowed_hosts)
    upstream = upstream or os.environ.get("DASHSCOPE_HTTP_BASE_URL") or PUBLIC_API
    try:
        proxy = Recorder(
            folder,
            upstream=upstream,
            host=host,
            port=port,
            allowed_hosts=allowed_hosts,
            render_run=render_frames,
        )
    except ValueError:
        raise InvalidInputError(
            "--upstream (or DASHSCOPE_HTTP_BASE_URL)",
            "must be an http(s) URL without user name and password",
            f"Pass a URL such as {PUBLIC_API}",
        ) from None
    except OSError as error:
        hint = "Correct the variable, or unset it"
        raise InvalidInputError("the CA bundle", f"cannot be used: {error}", hint) from None
    _start(proxy, host, port)
    if _is_same_server(proxy.base_url, upstream):
        proxy.stop()
        raise InvalidInputError(
            "--upstream", "is the recorder itself", "Unset DASHSCOPE_HTTP_BASE_URL here"
        )
    print_note(console, f"Recording {upstream} to {folder}, without API keys and user tokens.")
    variables = {"DASHSCOPE_HTTP_BASE_URL": proxy.base_url}
    _run_until_interrupted(proxy, variables, out, console, host=host)
    count = len(proxy.recordings)
    print_note(console, f"Recorded {count}. Serve with: bailian-apps serve {folder}")


def _key_of(given: str | None) -> str | None:
    """Return the key that `--api-key` is, or names the place of."""
    try:
        if given == "-":  # where the other commands find theirs
            set_key = os.environ.get("DASHSCOPE_API_KEY", "").strip()
            given = set_key or sdk_defaults().key_file.read_text("utf-8").strip()
        elif given is not None and given.startswith("@"):
            given = Path(given[1:]).read_text("utf-8").strip()
        return None if given is None else check_api_key(given)
    except (OSError, UnicodeDecodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "it is not UTF-8 text"
        hint = "Set DASHSCOPE_API_KEY for -, or pass @ and the path of a file with the key"
        problem = f"cannot be read ({reason})"
        raise InvalidInputError("--api-key", problem, hint) from None
    except InvalidInputError as error:
        hint = "Pass the key itself, - for DASHSCOPE_API_KEY, or @FILE"
        raise InvalidInputError("--api-key", error.problem, hint) from None


def _check_hosts(allowed_hosts: Sequence[str]) -> None:
    try:
        checked_hosts(allowed_hosts)
    except ValueError:
        raise InvalidInputError(
            "--allow-host",
            "must be a host name or an IP address, without a scheme, port or wildcard",
            "Write --allow-host emulator.test",
        ) from None


def _apps_of(sources: Sequence[Path], named: Sequence[str]) -> dict[str, AppSource]:
    apps: dict[str, AppSource] = {}
    for pair in named:
        app_id, equals, path = pair.partition("=")
        if not (app_id and equals and path):
            raise InvalidInputError("--app", "must be ID=FILE", "Write --app travel=travel.jsonl")
        apps[app_id] = Path(path)
    for source in sources:
        apps = {**_load(source), **apps}
    return apps


def _is_same_server(ours: str, upstream: str) -> bool:
    """Return whether both addresses lead to our server, whichever name of this machine they use."""
    here, there = urlsplit(ours), urlsplit(upstream)
    both_local = here.hostname in _LOOPBACK and there.hostname in _LOOPBACK
    return here.port == there.port and (both_local or here.hostname == there.hostname)


def _load(path: Path) -> Mapping[str, AppSource]:
    try:
        return load_apps(path)
    except ValueError as error:
        raise InvalidInputError(
            "FILE", f"cannot be used: {error}", "Correct it, or leave it out"
        ) from None


def _start(server: Emulator | Recorder, host: str, port: int) -> None:
    try:
        server.start()
    except OSError as error:
        if error.filename is not None:  # an error of the recorder's folder, not of the network
            raise InvalidInputError(
                "--out",
                f"cannot be created: {error.filename} ({error.strerror})",
                "Choose another folder",
            ) from None
        raise InvalidInputError(
            "--port",
            f"cannot be used: cannot listen on {host} port {port} ({error.strerror or error})",
            "Choose another --port (0 picks a free one), or an address of this machine",
        ) from None


def _run_until_interrupted(
    server: Emulator | Recorder,
    variables: Mapping[str, str],
    out: Console,
    console: Console,
    *,
    host: str,
) -> None:
    """Run a server until Ctrl-C or SIGTERM, and print what it logs."""
    log = logging.getLogger("bailian_apps.emulator")
    handler = ConsoleHandler(console, logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.INFO)
    if Environment().proxy_for(server.base_url):
        # The lower-case name takes precedence.
        name = "no_proxy" if os.environ.get("no_proxy") else "NO_PROXY"
        variables = {**variables, name: f'"{variable(name)},{urlsplit(server.base_url).hostname}"'}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if host not in _LOOPBACK:
            warning = f"Listening on {host}: anyone who can reach this machine can connect."
            print_note(console, warning, "yellow")
        if host in (*_LOOPBACK, *_ANY_ADDRESS):
            print_note(console, f"Page: {server.page_url}")
        print_note(console, "Set these variables where your program runs:")
        for name, value in variables.items():
            line = export_line(name, value)
            out.print(line, soft_wrap=True, markup=False, highlight=False)
        print_note(console, "Press Ctrl-C to stop.")
        threading.Event().wait()
    except KeyboardInterrupt:
        # A second signal must not interrupt the recorder while it writes.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    finally:
        server.stop()
        log.removeHandler(handler)
