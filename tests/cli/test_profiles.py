"""Profiles, and keys in the wrong place: what is sent where, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from support.command import exit_code_of

from bailian_apps.emulator import Call, Emulator

KEY = "sk-s3cret-0123456789"


@pytest.fixture
def cloud() -> Iterator[Emulator]:
    def echo(call: Call) -> str:
        return f"{call.prompt}|{json.dumps(call.biz_params, ensure_ascii=False)}"

    with Emulator(apps={"mine": echo, "other": echo}, api_key=KEY) as running:
        yield running


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own file; the current folder is another one."""
    folder = tmp_path / "settings"
    folder.mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(typer, "get_app_dir", lambda name: str(folder))
    return folder / "bailian-apps.toml"


def test_a_profile_has_app_key_address_and_settings(
    cloud: Emulator, own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own.write_text(
        f'[prod]\napp_id = "mine"\napi_key_env = "PROD_KEY"\nbase_url = "{cloud.base_url}"\n'
        'temperature = 0.5\nbiz_params = {city = "杭州", days = 1}\n'
    )
    monkeypatch.setenv("PROD_KEY", KEY)
    monkeypatch.setenv("DASHSCOPE_API_KEY", "another")
    monkeypatch.setenv("BAILIAN_APP_ID", "other")
    code = exit_code_of(monkeypatch, "run", "Plan a day", "--profile", "prod", "--biz", "days:=2")
    assert (code, capsys.readouterr().out) == (0, 'Plan a day|{"city": "杭州", "days": 2}\n')
    assert cloud.requests[0].app_id == "mine"
    assert cloud.requests[0].parameters["temperature"] == 0.5
    monkeypatch.setenv("BAILIAN_PROFILE", "prod")
    assert exit_code_of(monkeypatch, "run", "other", "hi", "--set", "temperature=1") == 0
    assert cloud.requests[1].app_id == "other"
    assert cloud.requests[1].parameters["temperature"] == 1
    assert exit_code_of(monkeypatch, "profiles") == 0
    assert f"prod  mine  ({own})" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "names"),
    [
        (f'api_key = "{KEY}"', "api_key of profile p ({0}) is a key in a file. Write api_key_env"),
        (f'app_id = "{KEY}"', "app_id of profile p ({0}) holds an API key"),
        (f'biz_params = {{t = ["{KEY}"]}}', "biz_params of profile p ({0}) holds an API key"),
        (f'api_key_env = "{KEY}"', "api_key_env of profile p ({0}) must be the name of an"),
        ('api_key_env = "NO_SUCH"', "api_key_env of profile p ({0}) names NO_SUCH, which is not"),
        ('tempratur = "s3cret"', "tempratur of profile p ({0}) is not a setting. Did you mean"),
        ("temperature = 9", "temperature of profile p ({0}) must be less than 2"),
        ('allow_key = "yes"', "allow_key of profile p ({0}) must be true or false"),
        ('app_id = "s3cret', "{0} is not TOML. Correct it at line 2"),
        ("[q]", "--profile (or BAILIAN_PROFILE) names a profile that does not exist"),
    ],
)
def test_an_invalid_profile_is_named_and_nothing_is_sent(
    table: str,
    names: str,
    cloud: Emulator,
    own: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own.write_text(table if table == "[q]" else f"[p]\n{table}\n")
    monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", cloud.base_url)
    assert exit_code_of(monkeypatch, "run", "hi", "--profile", "p") == 2
    printed = capsys.readouterr()
    assert names.format(own) in printed.err
    assert "s3cret" not in printed.err + printed.out
    assert cloud.requests == []


def test_a_file_may_hold_a_key_where_it_says_so(
    cloud: Emulator, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.write_text(f'[p]\napp_id = "mine"\napi_key = "{KEY}"\nallow_key = true\n')
    monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", cloud.base_url)
    assert exit_code_of(monkeypatch, "run", "Say hi", "--profile", "p") == 0
    assert len(cloud.requests) == 1


@pytest.mark.parametrize("key", ["", 'api_key_env = "DASHSCOPE_API_KEY"\n'])
def test_a_file_of_the_current_folder_cannot_send_the_key_to_its_own_address(
    key: str,
    cloud: Emulator,
    own: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = f'[p]\napp_id = "mine"\nbase_url = "{cloud.base_url}"\n{key}'
    Path("bailian-apps.toml").write_text(table)
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    assert exit_code_of(monkeypatch, "run", "Say hi", "--profile", "p") == 2
    assert "base_url of profile p (bailian-apps.toml) would get your key" in capsys.readouterr().err
    assert cloud.requests == []
    # The address of a file may get a key of that file; one that the command names, any.
    named = ("--base-url", cloud.base_url + "/")
    assert exit_code_of(monkeypatch, "run", "Say hi", "--profile", "p", *named) == 0
    Path("bailian-apps.toml").write_text(
        f'[p]\napp_id = "mine"\nbase_url = "{cloud.base_url}"\napi_key = "any"\nallow_key = true\n'
    )
    assert exit_code_of(monkeypatch, "run", "Say hi", "--profile", "p") == 3
    assert len(cloud.requests) == 2  # the second with a key that is refused


def test_a_profile_of_both_files_is_refused(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (own, Path("bailian-apps.toml")):
        path.write_text('[p]\napp_id = "mine"\n')
    assert exit_code_of(monkeypatch, "run", "Say hi", "--profile", "p") == 2
    assert "names a profile of both" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ([KEY], "argument 2"),
        (["mine", KEY], "argument 3"),
        (["mine", f"Bearer {KEY}"], "argument 3"),
        (["mine", "hi", "--biz", f"token={KEY}"], "--biz"),
        (["mine", "hi", f"--biz=token={KEY}"], "--biz"),
        (["mine", "hi", "--biz", f'token:="{KEY}"'], "--biz"),
        (["mine", "hi", "--biz-json", f'{{"token": "{KEY}"}}'], "--biz-json"),
        (["mine", "hi", "--biz", f'of:={{"token": "{KEY}"}}'], "--biz"),
        (["mine", "hi", f'--biz=of:=["{KEY}"]'], "--biz"),
        (["mine", "hi", "--session", KEY], "--session"),
        (["mine", "hi", "--timeout", KEY], "--timeout"),
        (["mine", "hi", "--set", f"api_key={KEY}"], "--set"),
    ],
)
def test_a_key_in_the_wrong_place_is_neither_sent_nor_printed(
    arguments: list[str],
    field: str,
    cloud: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", cloud.base_url)
    assert exit_code_of(monkeypatch, "run", *arguments) == 2
    printed = capsys.readouterr()
    assert f"{field} is an API key" in printed.err
    assert "s3cret" not in printed.err + printed.out
    assert cloud.requests == []


def test_a_sentence_about_a_key_is_sent(
    cloud: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", cloud.base_url)
    assert exit_code_of(monkeypatch, "run", "mine", "Is sk-123 a key?") == 0
    assert capsys.readouterr().out == "Is sk-123 a key?|{}\n"
