"""`doctor`: what it finds, and what it never prints."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from support.command import bailian
from support.wire import WireServer

KEY = "sk-0123456789abcdef"


def findings(output: str) -> dict[str, tuple[str, str]]:
    return {
        each["name"]: (each["state"], each["detail"]) for each in json.loads(output)["findings"]
    }


def test_a_complete_setup_has_no_missing_finding(tmp_path: Path) -> None:
    with WireServer() as server:
        address = server.base_url
        given = {
            "DASHSCOPE_API_KEY": KEY,
            "BAILIAN_APP_ID": "mine",
            "DASHSCOPE_HTTP_BASE_URL": address,
            "HOME": str(tmp_path),
        }
        text, report = bailian("doctor", **given), bailian("doctor", "--json", **given)
        assert server.posts == []
    assert (text.returncode, text.stderr, report.returncode) == (0, "", 0)
    found = findings(report.stdout)
    assert found["key"] == ("ok", "found in DASHSCOPE_API_KEY")
    assert found["app"] == ("ok", "mine (BAILIAN_APP_ID)")
    assert found["address"] == ("ok", f"{address} (DASHSCOPE_HTTP_BASE_URL)")
    assert found["endpoint"][0] == "ok"
    assert {"python", "bailian-apps", "dashscope", "[cli]", "[langchain]"} <= found.keys()
    for output in (text.stdout, report.stdout):
        assert KEY[:6] not in output
        assert KEY[-4:] not in output


def test_something_missing_is_named_and_exits_with_1(tmp_path: Path) -> None:
    with WireServer() as server:
        closed = server.base_url
    done = bailian(
        "doctor", "--json", "--base-url", closed, DASHSCOPE_API_KEY="", HOME=str(tmp_path)
    )
    found = findings(done.stdout)
    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False
    assert found["key"][0] == "missing"
    assert "DASHSCOPE_API_KEY" in found["key"][1]
    assert found["app"][0] == "note"
    assert found["address"][1] == f"{closed} (--base-url)"
    assert found["endpoint"][0] == "missing"
    assert "refused" in found["endpoint"][1]


def test_the_key_file_of_the_sdk_is_found(tmp_path: Path) -> None:
    folder = tmp_path / ".dashscope"
    folder.mkdir()
    (folder / "api_key").write_text(KEY)
    with WireServer() as server:
        done = bailian(
            *("doctor", "--json", "--base-url", server.base_url),
            DASHSCOPE_API_KEY="",
            HOME=str(tmp_path),
        )
    assert findings(done.stdout)["key"] == ("ok", f"found in {folder / 'api_key'}")
    assert KEY not in done.stdout


def test_a_key_that_cannot_be_sent_is_not_shown() -> None:
    with WireServer() as server:
        done = bailian("doctor", "--base-url", server.base_url, DASHSCOPE_API_KEY="sk-钥匙abc")
    assert done.returncode == 1
    assert "abc" not in done.stdout
    assert "characters that an API key cannot have" in done.stdout


@pytest.mark.parametrize(
    ("app_id", "detail"),
    [
        (KEY, "BAILIAN_APP_ID holds an API key"),
        ("a/b", "BAILIAN_APP_ID has a character that an app id cannot have"),
    ],
)
def test_an_invalid_app_id_is_found_without_a_call(app_id: str, detail: str) -> None:
    with WireServer() as server:
        done = bailian("doctor", "--json", "--base-url", server.base_url, BAILIAN_APP_ID=app_id)
    state, found = findings(done.stdout)["app"]
    assert (done.returncode, state) == (1, "missing")
    assert found.startswith(detail)
    assert KEY not in done.stdout


def test_a_proxy_is_shown_without_its_password() -> None:
    with WireServer() as server:
        proxy = server.base_url.removesuffix("/api/v1")
        done = bailian(
            *("doctor", "--json", "--base-url", "https://cloud.invalid/api/v1"),
            HTTPS_PROXY=proxy.replace("://", "://user:pa55@"),
        )
    found = findings(done.stdout)
    assert found["proxy"] == ("note", f"{proxy}, from the environment")
    assert "the proxy; the API behind it was not checked" in found["endpoint"][1]
    assert "pa55" not in done.stdout


@pytest.mark.parametrize(
    ("finding", "variables"),
    [
        ("proxy", {"HTTPS_PROXY": "http://127.0.0.1:99999"}),
        ("endpoint", {"HTTPS_PROXY": "", "REQUESTS_CA_BUNDLE": "/nowhere/ca.pem"}),
    ],
)
def test_an_invalid_proxy_or_certificate_setting_is_found(
    finding: str, variables: dict[str, str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"https://127.0.0.1:{server.getsockname()[1]}/api/v1"
        done = bailian("doctor", "--json", "--base-url", address, NO_PROXY="", **variables)
    state, detail = findings(done.stdout)[finding]
    assert (done.returncode, state) == (1, "missing")
    assert "the proxy in the environment" in detail or "/nowhere/ca.pem" in detail


def test_a_missing_extra_is_shown_with_its_install_command() -> None:
    from bailian_apps.cli.doctor import _extra  # pyright: ignore[reportPrivateUsage]

    missing = _extra("langchain", ("no-such-package-here",))
    assert missing.state == "note"
    assert 'pip install "bailian-apps[langchain]"' in missing.detail
