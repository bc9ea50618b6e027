"""`replay`: one app of several, the picture of a run, and what differs between two."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import exit_code_of

from bailian_apps.emulator import RECORDINGS
from bailian_apps.inspector import render, render_diff

RECORDED = [
    Path(__file__).parents[1] / "recordings" / name
    for name in (
        "agent-plain-stream.sse",
        "error-app-id-invalid-elided.sse",
        "agent-rag-citations.json",
        "workflow-timed.jsonl",
        "workflow-deep-thinking-streamed-end-head.jsonl",
    )
]
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


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name)
def test_the_picture_of_a_recording_has_its_own_times(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    html = tmp_path / "run.html"
    exit_code_of(monkeypatch, "replay", str(path), "--pace", "0", "--html", str(html))
    printed = capsys.readouterr()
    assert f"Picture of the run: {html}" in printed.err
    assert html.read_text(encoding="utf-8") == render(path)


def test_a_folder_is_drawn_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, html = str(Path(TRAVEL).parent), str(tmp_path / "runs.html")
    assert exit_code_of(monkeypatch, "replay", folder, "--html", html) == 0
    assert capsys.readouterr().out == ""
    assert "travel-workflow.jsonl" in Path(html).read_text(encoding="utf-8")
    for more in ((), ("--html", html, "--json"), ("--html", html, "--steps")):
        assert exit_code_of(monkeypatch, "replay", folder, *more) == 2
        assert "FILE is a folder. Pass only --html" in capsys.readouterr().err
    assert exit_code_of(monkeypatch, "replay", str(tmp_path), "--html", html) == 2
    assert "has no recording" in capsys.readouterr().err


def test_two_runs_are_compared_side_by_side(
    apps: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = tmp_path / "one.yaml"
    one.write_text('agent: {text: "West Lake. It is open all day. Bring tea."}', encoding="utf-8")
    other = tmp_path / "other.yaml"
    other.write_text(OTHER, encoding="utf-8")
    html = tmp_path / "diff.html"
    arguments = ("replay", str(one), str(other), "--diff", "--html", str(html))
    assert exit_code_of(monkeypatch, *arguments) == 0
    assert "until six" in html.read_text(encoding="utf-8")
    assert "<del>all day</del>" in html.read_text(encoding="utf-8")
    printed = capsys.readouterr()
    head, _, answers = printed.out.partition("\n\n")
    rows = [line.split() for line in head.splitlines()]
    assert rows[0] == ["A", "one.yaml", "B", "other.yaml"]
    assert rows[1] == ["tokens", "9", "tokens", "in,", "8", "out"]
    assert ["steps", "✓", "map", "api"] in rows
    assert answers.splitlines()[:-1] == [
        "  West Lake.",
        "- It is open all day.",
        "+ It is open until six.",
        "  Bring tea.",
    ]
    assert answers.splitlines()[-1] == f"Picture of both runs: {html}"


def test_a_comparison_has_the_times_of_recordings_and_a_failure(
    apps: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    html = str(tmp_path / "diff.html")
    assert exit_code_of(monkeypatch, "replay", TRAVEL, TRAVEL, "--diff", "--html", html) == 0
    assert Path(html).read_text(encoding="utf-8") == render_diff(TRAVEL, TRAVEL)
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
