"""`bailian-apps doctor`: checks what a call needs, without running an app."""

from __future__ import annotations

import json
import os
import platform
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal
from urllib.parse import urlsplit

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from bailian_apps.app import BailianApp
from bailian_apps.cli.view import error_message, print_note
from bailian_apps.core.endpoint import REGIONS, check_api_key
from bailian_apps.core.errors import (
    APIError,
    AuthenticationError,
    BailianError,
    ConnectError,
    InvalidInputError,
)
from bailian_apps.core.language import N_, _, translated, use_english
from bailian_apps.terminal import strip_controls, wrap_words
from bailian_apps.transport.environment import Environment, tls_context
from bailian_apps.transport.request_builder import load_sdk, sdk_defaults

_EXTRAS = {
    "background": ("openai",),
    "batch": ("rich",),
    "cli": ("rich", "typer"),
    "emulator": ("starlette", "uvicorn"),
    "files": ("alibabacloud-bailian20231229",),
    "langchain": ("langchain-core",),
    "llamaindex": ("llama-index-core",),
    "ray": ("ray",),
}
_CONNECT_S = 5.0
_NO_APP = "0" * 32
"""The id of no app: the cloud checks the key of a call before it looks for the app."""
_APP, _KEY, _KEY_AT = N_("app"), N_("key"), N_("key at address")
_ADDRESS, _PROXY, _ENDPOINT = N_("address"), N_("proxy"), N_("endpoint")
_MARKS = {"ok": ("✓", "green"), "note": ("·", "yellow"), "missing": ("✗", "red")}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        name: What was checked.
        state: `"ok"`; `"note"`, a hint; or `"missing"`: a call would fail.
        detail: What was found. It never contains the key, or any part of it.
    """

    name: str
    state: Literal["ok", "note", "missing"]
    detail: str


def doctor(
    console: Console,
    *,
    base_url: str | None,
    workspace: str | None,
    as_json: bool,
    all_regions: bool = False,
) -> bool:
    """Run all checks and print their findings; return whether nothing is missing.

    Args:
        console: Where to print the findings as text.
        base_url: The API's base URL, instead of the configured one.
        workspace: The workspace, which is part of the URL in some regions.
        as_json: Whether to print one JSON object to standard output instead.
        all_regions: Whether to send the key to the addresses of all regions.
    """
    if as_json:
        use_english()
    extras = [_extra(extra, packages) for extra, packages in _EXTRAS.items()]
    key = _key()
    address = _address(base_url, workspace)
    findings = [*_versions(), *extras, key, _app_id(), address]
    url = address.detail.partition(" ")[0]
    if address.state == "ok":
        findings += _endpoint(url)
    if key.state == findings[-1].state == "ok":
        findings.append(_key_at(url, workspace))
    if key.state == "ok" and all_regions:
        findings += [_key_in(name, each, workspace) for name, each in _shared_addresses().items()]
    good = all(finding.state != "missing" for finding in findings)
    if as_json:
        report = {"ok": good, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(report, ensure_ascii=False))  # noqa: T201
        return good
    _print(findings, console)
    if not good:
        print_note(console, _("A call would fail here. Correct what is marked with ✗."), "red")
    return good


def _print(findings: Sequence[Finding], console: Console) -> None:
    """Print the findings, in a terminal each wrapped between words, below where it began."""
    width = max(cell_len(translated(finding.name)) for finding in findings)
    for finding in findings:
        mark, style = _MARKS[finding.state]
        name = set_cell_size(translated(finding.name), width)
        detail = strip_controls(finding.detail)
        if console.is_terminal:
            lines = wrap_words(detail, max(console.width - width - 4, 20)).split("\n")
            detail = f"\n{' ' * (width + 4)}".join(lines)
        console.print(Text.assemble((mark, style), f" {name}  {detail}"), soft_wrap=True)


def _versions() -> list[Finding]:
    return [
        Finding("python", "ok", f"{platform.python_version()}, {platform.system()}"),
        *(Finding(name, "ok", version(name)) for name in ("bailian-apps", "dashscope")),
    ]


def _extra(extra: str, packages: tuple[str, ...]) -> Finding:
    try:
        found = ", ".join(f"{name} {version(name)}" for name in packages)
    except PackageNotFoundError:
        return Finding(
            f"[{extra}]",
            "note",
            _('not installed: pip install "bailian-apps[{extra}]"').format(extra=extra),
        )
    return Finding(f"[{extra}]", "ok", found)


def _key() -> Finding:
    if os.environ.get("DASHSCOPE_API_KEY", "").strip():
        return _checked_key(os.environ["DASHSCOPE_API_KEY"].strip(), "DASHSCOPE_API_KEY")
    path = sdk_defaults().key_file
    try:
        key = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        detail = _("not found; set DASHSCOPE_API_KEY, or store the key in {path}")
        return Finding(_KEY, "missing", detail.format(path=path))
    except (OSError, UnicodeDecodeError) as error:
        detail = _("{path} cannot be read ({reason})")
        return Finding(_KEY, "missing", detail.format(path=path, reason=type(error).__name__))
    return _checked_key(key, str(path))


def _checked_key(key: str, where: str) -> Finding:
    try:
        check_api_key(key)
    except InvalidInputError as error:
        field = _("the key in {where}").format(where=where)
        return Finding(_KEY, "missing", error_message(error, field=field))
    return Finding(_KEY, "ok", _("found in {where}").format(where=where))


def _key_at(url: str, workspace: str | None) -> Finding:
    refusal = _refusal(url, workspace)
    if refusal is None:
        return Finding(_KEY_AT, "ok", _("not refused at {url}").format(url=url))
    if isinstance(refusal, AuthenticationError):
        names = ", ".join(_shared_addresses())
        detail = _(
            "refused at {url} ({code}). A key belongs to one region: pass --base-url with one of "
            "{names}, or --all-regions to try the key at each"
        ).format(url=url, code=refusal.code or "HTTP 401", names=names)
        return Finding(_KEY_AT, "missing", detail)
    return Finding(_KEY_AT, "note", _("not known: {error}").format(error=error_message(refusal)))


def _key_in(region: str, url: str, workspace: str | None) -> Finding:
    refusal = _refusal(url, workspace)
    if refusal is None:
        detail = _("the key is not refused at {url}; pass --base-url {region}")
        detail = detail.format(url=url, region=region)
    elif isinstance(refusal, AuthenticationError):
        detail = _("the key is refused at {url} ({code})")
        detail = detail.format(url=url, code=refusal.code or "HTTP 401")
    else:
        detail = _("not known at {url}: {error}").format(url=url, error=error_message(refusal))
    return Finding(
        N_("region {name}").format(name=region), "ok" if refusal is None else "note", detail
    )


def _shared_addresses() -> dict[str, str]:
    """The addresses that need no workspace, by region."""
    return {name: url for name, url in REGIONS.items() if "{workspace_id}" not in url}


def _refusal(url: str, workspace: str | None) -> BailianError | None:
    """Call an app that does not exist; return the error if it is not about the app.

    Nothing runs, so this costs nothing. HTTP 400 or 404, or an error that names the app's id, means
    that the key passed. After any other error, that is not known.
    """
    try:
        app = BailianApp(
            app_id=_NO_APP, base_url=url, workspace=workspace, timeout=_CONNECT_S, max_retries=0
        )
        app.invoke("-")
    except APIError as error:
        passed = error.status_code in (400, 404) or "AppId" in error.message
        return None if passed else error
    except BailianError as error:
        return error
    return None


def _app_id() -> Finding:
    app_id = os.environ.get("BAILIAN_APP_ID")
    if not app_id:
        detail = _("BAILIAN_APP_ID is not set; pass the app id to each command")
        return Finding(_APP, "note", detail)
    if app_id.startswith("sk-"):
        detail = _("BAILIAN_APP_ID holds an API key; set it to an app id")
        return Finding(_APP, "missing", detail)
    try:
        BailianApp(app_id=app_id, api_key="any", base_url=None)
    except InvalidInputError as error:
        return Finding(_APP, "missing", error_message(error, field="BAILIAN_APP_ID"))
    return Finding(_APP, "ok", f"{app_id} (BAILIAN_APP_ID)")


def _address(base_url: str | None, workspace: str | None) -> Finding:
    try:
        # Any app id will do: only the URL is used.
        url = base_url or os.environ.get("DASHSCOPE_HTTP_BASE_URL") or None
        named = BailianApp(app_id="app", api_key="any", base_url=url, workspace=workspace)
    except InvalidInputError as error:
        return Finding(_ADDRESS, "missing", error_message(error))
    if named.settings.base_url:
        rule = "--base-url" if base_url else "DASHSCOPE_HTTP_BASE_URL"
        address = named.settings.base_url
    else:
        region = os.environ.get("DASHSCOPE_API_REGION")
        rule = f"DASHSCOPE_API_REGION={region}" if region else _("the SDK's default")
        address = sdk_defaults().base_url
    if "{workspace_id}" in address:
        if not workspace and "workspace" in load_sdk().options:  # a version that fills it in
            workspace = os.environ.get("DASHSCOPE_WORKSPACE_ID")
        if not workspace:
            detail = _("{address} needs a workspace; pass --workspace").format(address=address)
            return Finding(_ADDRESS, "missing", detail)
        address = address.replace("{workspace_id}", workspace)
    return Finding(_ADDRESS, "ok", address + _(" ({facts})").format(facts=rule))


def _endpoint(url: str) -> list[Finding]:
    """Connect, with a TLS handshake; no request is sent, so this costs nothing."""
    environment = Environment()
    try:
        proxy = environment.proxy_for(url)
    except ConnectError as error:
        return [Finding(_PROXY, "missing", error_message(error))]
    findings: list[Finding] = []
    target = urlsplit(url)
    if proxy:
        target = urlsplit(proxy)
        where = f"{target.scheme}://{target.hostname}" + (f":{target.port}" if target.port else "")
        detail = _("{proxy}, from the environment").format(proxy=where)
        findings.append(Finding(_PROXY, "note", detail))
    port = target.port or {"https": 443}.get(target.scheme, 80)
    host = target.hostname or ""
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_S) as connection:
            if target.scheme == "https":
                tls = tls_context(environment.certificates())
                with tls.wrap_socket(connection, server_hostname=host) as secured:
                    how = _("TCP and {tls}").format(tls=secured.version())
            else:
                how = "TCP"
    except ConnectError as error:
        return [*findings, Finding(_ENDPOINT, "missing", error_message(error))]
    except OSError as error:  # an SSLError is one
        problem = getattr(error, "verify_message", "") or error.strerror or str(error)
        return [*findings, Finding(_ENDPOINT, "missing", f"{host}:{port}: {problem}")]
    detail = _("{host}:{port} answers, {how}")
    if proxy:
        detail = _("{host}:{port} answers, {how} (the proxy; the API behind it was not checked)")
    detail = detail.format(host=host, port=port, how=how)
    return [*findings, Finding(_ENDPOINT, "ok", detail)]
