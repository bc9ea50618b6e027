"""`replay`: one app of several, the picture of a run, and what differs between two."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import exit_code_of

from bailian_apps.emulator import RECORDINGS

TRAVEL = str(RECORDINGS / "travel-workflow.jsonl")

APPS = """
apps:
  lake: {agent: {text: "West Lake. It is open all day. Bring tea."}}
  temple:
    workflow:
      nodes:
        - {name: 查天气, type: API, output: sunny}
        - {name: 查票价, type: API, output: "30", fails: {message: none}}
"""
OTHER = """
agent:
  thoughts: [{tool: map, observation: here}]
  text: "West Lake. It is open until six. Bring tea."
  usage: {model_id: qwen-max, input_tokens: 9, output_tokens: 8}
"""


@pytest.fixture
def apps(tmp_path: Path) -> str:
    (tmp_path / "apps.yaml").write_text(APPS, encoding="utf-8")
    return str(tmp_path / "apps.yaml")


def test_an_app_of_several_is_chosen_by_its_id(
    apps: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(monkeypatch, "replay", apps, "--app", "lake") == 0
    assert capsys.readouterr().out == "West Lake. It is open all day. Bring tea.\n"
    assert exit_code_of(monkeypatch, "replay", apps) == 2
    assert "--app is missing: the file has several. Pass one of lake, temple" in (
        capsys.readouterr().err
    )
    assert exit_code_of(monkeypatch, "replay", TRAVEL, "--app", "temple") == 2
    assert "--app is not in the file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("app_id", "code", "holds"), [("lake", 0, "open all day"), ("temple", 11, "查天气")]
)
def test_the_picture_of_a_run_is_written_whether_it_fails_or_not(
    app_id: str,
    code: int,
    holds: str,
    apps: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    html = tmp_path / "run.html"
    assert exit_code_of(monkeypatch, "replay", apps, "--app", app_id, "--html", str(html)) == code
    assert f"Picture of the run: {html}" in capsys.readouterr().err
    assert holds in html.read_text(encoding="utf-8")


def test_two_runs_are_compared_side_by_side(
    apps: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = tmp_path / "one.yaml"
    one.write_text('agent: {text: "West Lake. It is open all day. Bring tea."}', encoding="utf-8")
    other = tmp_path / "other.yaml"
    other.write_text(OTHER, encoding="utf-8")
    assert exit_code_of(monkeypatch, "replay", str(one), str(other), "--diff") == 0
    printed = capsys.readouterr()
    head, _, answers = printed.out.partition("\n\n")
    rows = [line.split() for line in head.splitlines()]
    assert rows[0] == ["A", "one.yaml", "B", "other.yaml"]
    assert rows[1] == ["tokens", "9", "tokens", "in,", "8", "out"]
    assert ["steps", "✓", "map", "api"] in rows
    assert answers.splitlines() == [
        "  West Lake.",
        "- It is open all day.",
        "+ It is open until six.",
        "  Bring tea.",
    ]


def test_a_comparison_has_the_times_of_recordings_and_a_failure(
    apps: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(monkeypatch, "replay", TRAVEL, TRAVEL, "--diff") == 0
    time = next(line for line in capsys.readouterr().out.splitlines() if "time" in line)
    assert len(set(time.split()[1::2])) == 1
    assert float(time.split()[1]) > 1
    assert exit_code_of(monkeypatch, "replay", apps, apps, "--app", "temple", "--diff") == 0
    assert "AppFailedError" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((TRAVEL, TRAVEL), "one file; --diff compares two"),
        ((TRAVEL, "--diff"), "exactly two files"),
        ((TRAVEL, TRAVEL, "--diff", "--json"), "--diff excludes"),
    ],
)
def test_the_number_of_files_fits_what_is_asked(
    arguments: tuple[str, ...],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code_of(monkeypatch, "replay", *arguments) == 2
    assert problem in capsys.readouterr().err
