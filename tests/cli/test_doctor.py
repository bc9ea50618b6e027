"""`doctor`: what it finds, and what it never prints."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from support.command import bailian, exit_code_of
from support.wire import Do, WireServer

from bailian_apps.cli import doctor
from bailian_apps.emulator import Emulator
from bailian_apps.transport.request_builder import load_sdk

KEY = "sk-0123456789abcdef"


def findings(output: str) -> dict[str, tuple[str, str]]:
    return {
        each["name"]: (each["state"], each["detail"]) for each in json.loads(output)["findings"]
    }


def test_a_complete_setup_has_no_missing_finding(tmp_path: Path) -> None:
    with Emulator(apps={}, api_key=KEY) as cloud:
        address = cloud.base_url
        given = {
            "DASHSCOPE_API_KEY": KEY,
            "BAILIAN_APP_ID": "mine",
            "DASHSCOPE_HTTP_BASE_URL": address,
            "HOME": str(tmp_path),
        }
        text, report = bailian("doctor", **given), bailian("doctor", "--json", **given)
        assert {request.app_id for request in cloud.requests} == {"0" * 32}
    assert (text.returncode, text.stderr, report.returncode) == (0, "", 0)
    found = findings(report.stdout)
    assert found["key"] == ("ok", "found in DASHSCOPE_API_KEY")
    assert found["app"] == ("ok", "mine (BAILIAN_APP_ID)")
    assert found["address"] == ("ok", f"{address} (DASHSCOPE_HTTP_BASE_URL)")
    assert found["endpoint"][0] == "ok"
    assert found["key at address"] == ("ok", f"not refused at {address}")
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
    with WireServer([Do.RESET]) as server:
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
    with WireServer([Do.RESET]) as server:
        done = bailian("doctor", "--json", "--base-url", server.base_url, BAILIAN_APP_ID=app_id)
    state, found = findings(done.stdout)["app"]
    assert (done.returncode, state) == (1, "missing")
    assert found.startswith(detail)
    assert KEY not in done.stdout


def test_a_proxy_is_shown_without_its_password() -> None:
    with Emulator(apps={}) as server:
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


def test_a_refused_key_is_found_with_the_regions_to_try(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    with Emulator(apps={}, api_key="sk-another") as cloud:
        address = cloud.base_url
        assert exit_code_of(monkeypatch, "doctor", "--json", "--base-url", address) == 1
    output = capsys.readouterr().out
    state, detail = findings(output)["key at address"]
    assert state == "missing"
    assert detail.startswith(f"refused at {address} (InvalidApiKey). A key belongs to one")
    assert "beijing, singapore, virginia, hongkong" in detail
    assert KEY not in output


def test_all_regions_are_asked_only_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    with (
        Emulator(apps={}, api_key="sk-another") as beijing,
        Emulator(apps={}, api_key=KEY) as singapore,
    ):
        addresses = {
            "beijing": beijing.base_url,
            "singapore": singapore.base_url,
            "virginia": "http://127.0.0.1:9/api/v1",
            "cn-beijing": "http://{workspace_id}.invalid/api/v1",
        }
        monkeypatch.setattr(doctor, "REGIONS", addresses)
        arguments = ("doctor", "--json", "--base-url", beijing.base_url)
        exit_code_of(monkeypatch, *arguments)
        assert singapore.requests == []
        capsys.readouterr()
        assert exit_code_of(monkeypatch, *arguments, "--all-regions") == 1
    found = findings(capsys.readouterr().out)
    assert found["region beijing"][1].startswith(f"the key is refused at {addresses['beijing']}")
    assert found["region singapore"] == (
        "ok",
        f"the key is not refused at {addresses['singapore']}; pass --base-url singapore",
    )
    assert found["region virginia"][1].startswith("not known at http://127.0.0.1:9")
    assert "region cn-beijing" not in found


def test_a_server_that_does_not_answer_leaves_the_key_unknown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    with WireServer([Do.RESET]) as server:
        exit_code_of(monkeypatch, "doctor", "--json", "--base-url", server.base_url)
    state, detail = findings(capsys.readouterr().out)["key at address"]
    assert (state, detail.partition(":")[0]) == ("note", "not known")


def test_a_call_and_doctor_agree_about_a_blank_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".dashscope").mkdir()
    (tmp_path / ".dashscope" / "api_key").write_text(KEY)
    with Emulator(apps={"mine": lambda call: "hello"}, api_key=KEY) as cloud:
        variables = {"DASHSCOPE_API_KEY": "", "HOME": str(tmp_path)}
        checked = bailian("doctor", "--json", "--base-url", cloud.base_url, **variables)
        called = bailian("run", "mine", "hi", "--base-url", cloud.base_url, **variables)
    assert findings(checked.stdout)["key at address"][0] == "ok"
    assert (called.returncode, called.stdout, called.stderr) == (0, "hello\n", "")


def address_of(*arguments: str, **given: str) -> tuple[str, str]:
    """The address that `doctor` finds. It connects to a proxy only, where nothing listens."""
    with WireServer() as server:
        closed = server.base_url
    settings = {"HTTPS_PROXY": closed, "NO_PROXY": "", "DASHSCOPE_API_KEY": KEY, **given}
    return findings(bailian("doctor", "--json", *arguments, **settings).stdout)["address"]


def test_an_address_with_a_workspace_is_the_one_that_a_call_uses() -> None:
    region = ("--base-url", "eu-central-1")
    address = "https://llm-1.eu-central-1.maas.aliyuncs.com/api/v1 (--base-url)"
    assert address_of(*region, "--workspace", "llm-1") == ("ok", address)
    if "workspace" in load_sdk().options:  # an older SDK does not read the variable
        assert address_of(*region, DASHSCOPE_WORKSPACE_ID="llm-1") == ("ok", address)
    state, detail = address_of(*region)
    assert (state, detail[-36:]) == ("missing", " needs a workspace; pass --workspace")
    state, detail = address_of(*region, "--workspace", "a b")
    assert (state, detail[:23]) == ("missing", "--workspace has a chara")
