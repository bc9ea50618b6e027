"""`bailian-apps serve` and `record`: the commands that run the emulator."""

from __future__ import annotations

import errno
import logging
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console

from bailian_apps.cli.serve_log import CallLog
from bailian_apps.cli.shell import export_line, variable
from bailian_apps.cli.view import ConsoleHandler, print_note, read_problem
from bailian_apps.core.endpoint import check_api_key
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.language import N_, _, ngettext
from bailian_apps.emulator import RECORDINGS, AppFiles, Emulator, Recorder
from bailian_apps.emulator.apps.recorded_app import Matching
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
    nearest: bool,
    record_missing: bool,
    upstream: str | None,
    mask: Sequence[str],
    reload: bool,
    verbose: bool,
) -> None:
    """Run the emulator until Ctrl-C; the options are those of the command.

    The client's environment variables go to `out`, the log to `console`.
    """
    key = _key_of(api_key)
    _check_hosts(allowed_hosts)
    recorder = _recorder_of_missing(sources, upstream, mask) if record_missing else None
    matching: Matching | None = "nearest" if nearest else "exact" if recorder else None
    apps = _apps_of(sources, named, matching, reload=reload)
    if not apps and recorder is None:
        raise InvalidInputError("FILES", "have no app", "Pass recordings, YAML files or folders")
    emulator = Emulator(
        apps=apps,
        host=host,
        port=port,
        allowed_hosts=allowed_hosts,
        pace=pace,
        api_key=key,
        strict=strict,
        render_run=render_frames,
        record_missing=recorder,
    )
    _start(emulator, host, port)
    if recorder is not None and _is_same_server(emulator.base_url, recorder.upstream):
        emulator.stop()
        raise InvalidInputError(
            "--upstream", "is the emulator itself", "Unset DASHSCOPE_HTTP_BASE_URL here"
        )
    variables = {
        "DASHSCOPE_HTTP_BASE_URL": emulator.base_url,
        "DASHSCOPE_API_KEY": f'"…"  # {_("the key of --api-key")}' if key else "any-key",
    }
    if recorder is not None and not key:  # the real API needs the caller's own
        del variables["DASHSCOPE_API_KEY"]
    text = ngettext("Emulating {count} app: ", "Emulating {count} apps: ", len(apps))
    print_note(console, text + ", ".join(apps) if apps else _("Emulating no apps"))
    if recorder is not None:
        text = _("What is not recorded goes to {url}, at your cost.")
        print_note(console, text.format(url=recorder.upstream))
    log = CallLog(console, apps, verbose=verbose)
    _run_until_interrupted(emulator, variables, out, console, host=host, log=log)


def record(
    folder: Path,
    out: Console,
    console: Console,
    *,
    upstream: str | None,
    host: str,
    allowed_hosts: Sequence[str],
    port: int,
    mask: Sequence[str],
) -> None:
    """Run the recorder until Ctrl-C; the options and the consoles are as for `serve`."""
    _check_hosts(allowed_hosts)
    options: Any = {"allowed_hosts": allowed_hosts, "mask": mask, "render_run": render_frames}
    proxy = _recorder(folder, upstream, host=host, port=port, **options)
    _start(proxy, host, port)
    if _is_same_server(proxy.base_url, proxy.upstream):
        proxy.stop()
        raise InvalidInputError(
            "--upstream", "is the recorder itself", "Unset DASHSCOPE_HTTP_BASE_URL here"
        )
    what = ", ".join((_("API keys and user tokens"), *mask))
    text = _("Recording {url} to {folder}, without {what}.")
    print_note(console, text.format(url=proxy.upstream, folder=folder, what=what))
    variables = {"DASHSCOPE_HTTP_BASE_URL": proxy.base_url}
    _run_until_interrupted(proxy, variables, out, console, host=host)
    text = _("Recorded {count}. Serve with: bailian-apps serve {folder}")
    print_note(console, text.format(count=len(proxy.recordings), folder=folder))


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
        hint = N_("Set DASHSCOPE_API_KEY for -, or pass @ and the path of a file with the key")
        problem = N_("cannot be read ({reason})").format(reason=read_problem(error))
        raise InvalidInputError("--api-key", problem, hint) from None
    except InvalidInputError as error:
        hint = N_("Pass the key itself, - for DASHSCOPE_API_KEY, or @FILE")
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


def _recorder(folder: Path, upstream: str | None, **options: Any) -> Recorder:
    try:
        upstream = upstream or os.environ.get("DASHSCOPE_HTTP_BASE_URL") or PUBLIC_API
        return Recorder(folder, upstream=upstream, **options)
    except ValueError:
        raise InvalidInputError(
            N_("--upstream (or DASHSCOPE_HTTP_BASE_URL)"),
            "must be an http(s) URL without user name and password",
            N_("Pass a URL such as {url}").format(url=PUBLIC_API),
        ) from None
    except OSError as error:
        hint = N_("Correct the variable, or unset it")
        raise InvalidInputError(
            N_("the CA bundle"), N_("cannot be used: {error}").format(error=error), hint
        ) from None


def _recorder_of_missing(
    sources: Sequence[Path], upstream: str | None, mask: Sequence[str]
) -> Recorder:
    folders = [path for path in sources if path.is_dir()]
    if len(folders) != 1:
        problem = N_("needs one folder to write to, not {count}").format(
            count=len(folders) or N_("none")
        )
        raise InvalidInputError("--record-missing", problem, "Pass the folder of your recordings")
    return _recorder(folders[0], upstream, mask=mask)


def _apps_of(
    sources: Sequence[Path], named: Sequence[str], matching: Matching | None, *, reload: bool
) -> AppFiles:
    files: dict[str, Path] = {}
    for pair in named:
        app_id, equals, path = pair.partition("=")
        if not (app_id and equals and path):
            raise InvalidInputError("--app", "must be ID=FILE", "Write --app travel=travel.jsonl")
        files[app_id] = Path(path)
    if not files and not sources:
        files["travel"] = RECORDINGS / "travel-workflow.jsonl"
    try:
        return AppFiles(*sources, named=files, matching=matching, reload=reload)
    except ValueError as error:
        field = "FILES" if sources else "--app"
        raise InvalidInputError(
            field, N_("cannot be used: {error}").format(error=error), "Correct it, or leave it out"
        ) from None


def _is_same_server(ours: str, upstream: str) -> bool:
    """Return whether both addresses lead to our server, whichever name of this machine they use."""
    here, there = urlsplit(ours), urlsplit(upstream)
    both_local = here.hostname in _LOOPBACK and there.hostname in _LOOPBACK
    return here.port == there.port and (both_local or here.hostname == there.hostname)


def _start(server: Emulator | Recorder, host: str, port: int) -> None:
    try:
        server.start()
    except OSError as error:
        if error.filename is not None:  # an error of the recorder's folder, not of the network
            raise InvalidInputError(
                "--out",
                N_("cannot be created: {path} ({reason})").format(
                    path=error.filename, reason=error.strerror
                ),
                "Choose another folder",
            ) from None
        reason = (error.strerror or str(error)).partition(" (while")[0]  # asyncio repeats itself
        of_port = error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EPERM)
        raise InvalidInputError(
            "--port" if of_port else "--host",
            N_("cannot be used: cannot listen on {host} port {port} ({reason})").format(
                host=host, port=port, reason=reason
            ),
            N_("Choose another --port (0 picks a free one)")
            if of_port
            else N_("Choose an address of this machine"),
        ) from None


def _run_until_interrupted(
    server: Emulator | Recorder,
    variables: Mapping[str, str],
    out: Console,
    console: Console,
    *,
    host: str,
    log: CallLog | None = None,
) -> None:
    """Run a server until Ctrl-C or SIGTERM, and print what it logs."""
    logger = logging.getLogger("bailian_apps.emulator")
    handler = log or ConsoleHandler(console, logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(handler.level)
    if Environment().proxy_for(server.base_url):
        # The lower-case name takes precedence.
        name = "no_proxy" if os.environ.get("no_proxy") else "NO_PROXY"
        variables = {**variables, name: f'"{variable(name)},{urlsplit(server.base_url).hostname}"'}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if host not in _LOOPBACK:
            warning = _(
                "Listening on {host}: anyone who can reach this machine can connect."
            ).format(host=host)
            print_note(console, warning, "yellow")
        if host in (*_LOOPBACK, *_ANY_ADDRESS):
            print_note(console, _("Page: {url}").format(url=server.page_url))
        print_note(console, _("Set these variables where your program runs:"))
        for name, value in variables.items():
            line = export_line(name, value)
            out.print(line, soft_wrap=True, markup=False, highlight=False)
        print_note(console, _("Press Ctrl-C to stop."))
        if log is not None:
            log.print_head()
        threading.Event().wait()
    except KeyboardInterrupt:
        # A second signal must not interrupt the recorder while it writes.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    finally:
        server.stop()
        logger.removeHandler(handler)
