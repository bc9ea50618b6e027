"""`bailian-apps serve`, `record` and `replay`: the commands of the local cloud."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from typing_extensions import override

from bailian_apps.app import BailianApp
from bailian_apps.cli.run import run
from bailian_apps.cli.view import note
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.emulator import RECORDINGS, Emulator, Recorder, load_apps, load_recording
from bailian_apps.emulator.apps import AppSource
from bailian_apps.emulator.recorder import PUBLIC_API
from bailian_apps.emulator.recordings import Recording
from bailian_apps.transport.environment import Environment

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(
    sources: Sequence[Path],
    named: Sequence[str],
    out: Console,
    console: Console,
    *,
    host: str,
    port: int,
    pace: float,
    api_key: str | None,
) -> None:
    """Be a cloud until Ctrl-C.

    Args:
        sources: Files and folders of apps; without any, the recording that the package brings.
        named: Further apps, as `id=path`.
        out: Where a client's settings go.
        console: Where the log goes.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        pace: How many times faster than recorded to answer; 0 does not wait.
        api_key: The only key to let in; None lets in any.

    Raises:
        InvalidInputError: A file is no app, or the address cannot be listened on.
    """
    apps = _apps_of(sources, named) or {"travel": RECORDINGS / "travel-workflow.jsonl"}
    try:
        cloud = Emulator(apps=apps, host=host, port=port, pace=pace, api_key=api_key)
    except ValueError as error:
        raise InvalidInputError("--app", str(error), "Mend or leave out that file") from None
    _start(cloud, host, port)
    key = "the key of --api-key" if api_key else "any-key"
    variables = {
        "DASHSCOPE_HTTP_BASE_URL": cloud.base_url,
        "DASHSCOPE_API_KEY": f'"…"  # {key}' if api_key else key,
    }
    note(console, f"A local cloud with {len(apps)} app{'s'[: len(apps) > 1]}: {', '.join(apps)}")
    _run_until_told(cloud, variables, out, console, host=host)


def record(
    folder: Path, out: Console, console: Console, *, upstream: str | None, host: str, port: int
) -> None:
    """Record what passes through, until Ctrl-C.

    Args:
        folder: Where the recordings go.
        out: Where a client's settings go.
        console: Where the log goes.
        upstream: The real API's address; else `DASHSCOPE_HTTP_BASE_URL`, else the public one.
        host: The address to listen on.
        port: The port; 0 takes a free one.

    Raises:
        InvalidInputError: `upstream` is no API address, or the address cannot be listened on.
    """
    upstream = upstream or os.environ.get("DASHSCOPE_HTTP_BASE_URL") or PUBLIC_API
    try:
        proxy = Recorder(folder, upstream=upstream, host=host, port=port)
    except ValueError:
        raise InvalidInputError(
            "--upstream (or DASHSCOPE_HTTP_BASE_URL)",
            "is no API address, or has a user name or password in it",
            f"Pass one like {PUBLIC_API}",
        ) from None
    _start(proxy, host, port)
    if proxy.base_url.rstrip("/") == upstream.rstrip("/"):
        proxy.stop()
        raise InvalidInputError(
            "--upstream", "is the recorder itself", "Unset DASHSCOPE_HTTP_BASE_URL here"
        )
    note(console, f"Recording {upstream} into {folder}, without keys and user tokens.")
    variables = {"DASHSCOPE_HTTP_BASE_URL": proxy.base_url}
    _run_until_told(proxy, variables, out, console, host=host)
    note(console, f"{len(proxy.recordings)} recorded. Use them: bailian-apps serve {folder}")


def replay(path: Path, console: Console, *, pace: float, output: str, steps: bool) -> None:
    """Show a recording as a run.

    Args:
        path: The recording, or the YAML file of one app.
        console: Where the steps go.
        pace: How many times faster than recorded; 0 does not wait.
        output: What standard output gets, as for `run`.
        steps: Whether the steps are shown.

    Raises:
        InvalidInputError: It cannot be read.
        BailianError: It is the recording of a failure.
    """
    try:
        source = (
            load_recording(path) if path.suffix.startswith(".js") or path.suffix == ".sse" else path
        )
        cloud = Emulator(apps={"replay": source}, pace=pace)
    except (ValueError, TypeError) as error:
        raise InvalidInputError("FILE", str(error), "Pass a recording or a YAML file") from None
    prompt, mode = "replay", None
    if isinstance(source, Recording):
        mode = _mode_of(source)
        if source.request is not None and source.request.prompt not in ("", "-"):
            prompt = source.request.prompt
    with cloud:
        app = BailianApp(
            app_id="replay",
            api_key="replay",
            base_url=cloud.base_url,
            flow_stream_mode=mode,
            max_retries=0,
        )
        run(app, prompt, console, session_id=None, output=output, steps=steps)


def _mode_of(recording: Recording) -> str | None:
    """The `flow_stream_mode` that was recorded: it can be told in no other."""
    if recording.request is not None:
        return recording.request.parameters.get("flow_stream_mode")
    types = {
        message.get("node_type")
        for frame in recording.frames
        if (message := frame.output.get("workflow_message"))
    }
    if not types:
        return None
    return "message_format" if types == {"End"} else "message_format_plus"


def _apps_of(sources: Sequence[Path], named: Sequence[str]) -> dict[str, AppSource]:
    apps: dict[str, AppSource] = {}
    for pair in named:
        app_id, equals, path = pair.partition("=")
        if not (app_id and equals and path):
            raise InvalidInputError("--app", "is no id=path", "Write --app travel=travel.jsonl")
        apps[app_id] = Path(path)
    for source in sources:
        apps = {**_load(source), **apps}
    return apps


def _load(path: Path) -> Mapping[str, AppSource]:
    try:
        return load_apps(path)
    except ValueError as error:
        raise InvalidInputError("FILE", str(error), "Mend or leave out that file") from None


def _start(server: Emulator | Recorder, host: str, port: int) -> None:
    try:
        server.start()
    except OSError as error:
        if error.filename is not None:  # a network has none: it is the recorder's folder
            raise InvalidInputError(
                "--out",
                f"{error.filename} cannot be made ({error.strerror})",
                "Choose another folder",
            ) from None
        raise InvalidInputError(
            "--host, --port",
            f"cannot listen on {host} port {port} ({error.strerror or error})",
            "Choose another --port (0 takes a free one), or an address of this machine",
        ) from None


def _run_until_told(
    server: Emulator | Recorder,
    variables: Mapping[str, str],
    out: Console,
    console: Console,
    *,
    host: str,
) -> None:
    """Run a server until Ctrl-C or SIGTERM, and say what it does."""
    log = logging.getLogger("bailian_apps.emulator")
    handler = _Log(console)
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.INFO)
    if Environment().proxy_for(server.base_url):
        name = "no_proxy" if os.environ.get("no_proxy") else "NO_PROXY"  # the first one counts
        variables = {**variables, name: f'"${name},{urlsplit(server.base_url).hostname}"'}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if host not in _LOOPBACK:
            warning = f"Listening on {host}: everybody who can reach this machine can use it."
            note(console, warning, "yellow")
        note(console, "In the terminal of your program:")
        for name, value in variables.items():
            out.print(f"export {name}={value}", soft_wrap=True, markup=False, highlight=False)
        note(console, "Ctrl-C ends it.")
        threading.Event().wait()
    except KeyboardInterrupt:
        # Once is enough: a second one would leave a recording unwritten.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    finally:
        server.stop()
        log.removeHandler(handler)


class _Log(logging.Handler):
    """Prints what a server logs: a line for each call."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))

    @override
    def emit(self, record: logging.LogRecord) -> None:
        note(self._console, self.format(record), "" if record.levelno == logging.INFO else "yellow")
