"""`recordings ls` and `init`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import bailian, environment, exit_code_of

from bailian_apps import BailianApp, BailianError
from bailian_apps.emulator import Agent, Emulator, ErrorAnswer, Node, Recorder, Workflow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    apps = {
        "trip": Workflow(nodes=[Node(name="answer", output="ok")]),
        "busy": ErrorAnswer(code="Throttling", status=429),
        "slow": Agent(text=["a", "b"]),
    }
    with (
        Emulator(apps=apps) as cloud,
        Recorder(tmp_path / "out", upstream=cloud.base_url) as proxy,
    ):
        trip = BailianApp(app_id="trip", api_key="k", base_url=proxy.base_url, max_retries=0)
        trip.invoke("杭州 " + "and more " * 20, flow_stream_mode="message_format")
        for app_id in ("busy", "slow"):
            if app_id == "slow":
                cloud.fail("close_between_frames")
            with pytest.raises(BailianError):
                trip.invoke("hi", app_id=app_id)
    return tmp_path / "out"


def test_a_folder_of_recordings_is_listed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(monkeypatch, "recordings", "ls", str(folder)) == 0
    head, trip, busy, slow = capsys.readouterr().out.splitlines()
    assert head.split() == ["file", "app", "mode", "status", "steps", "size", "prompt"]
    assert trip.split()[:5] == ["0001-trip-stream.jsonl", "trip", "message_format", "200", "1"]
    assert trip.endswith("and more and more …")
    assert busy.split()[:5] == ["0002-busy-429.jsonl", "busy", "-", "429", "0"]
    assert slow.split()[1:6] == ["slow", "-", "200", "cut", "0"]
    assert len({line.index(" kB") for line in (trip, busy, slow)}) == 1


def test_the_list_as_json_has_all_of_a_prompt_and_unreadable_files_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.jsonl").write_text("{\n")
    assert exit_code_of(monkeypatch, "recordings", "ls", str(folder), "--json") == 1
    shown = capsys.readouterr()
    trip, busy, slow = map(json.loads, shown.out.splitlines())
    assert trip == {
        "file": "0001-trip-stream.jsonl",
        "app_id": "trip",
        "prompt": "杭州 " + "and more " * 20,
        "mode": "message_format",
        "status": 200,
        "steps": 1,
        "bytes": (folder / "0001-trip-stream.jsonl").stat().st_size,
        "cut": False,
    }
    assert (busy["status"], slow["cut"]) == (429, True)
    assert "broken.jsonl:1: not JSON" in shown.err


def test_an_empty_folder_has_no_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(monkeypatch, "recordings", "ls", str(tmp_path)) == 0
    assert "No recordings in" in capsys.readouterr().err


@pytest.mark.process
def test_what_init_writes_passes_and_is_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "project"
    done = bailian("init", str(folder))
    assert done.returncode == 0
    assert f"python -m pytest {folder / 'test_apps.py'}" in done.stderr
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(folder / "test_apps.py")],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "3 passed" in tests.stdout
    (folder / "apps.yaml").unlink()
    (folder / "test_apps.py").write_text("mine")
    again = bailian("init", str(folder))
    assert again.returncode == 2
    assert "FOLDER has test_apps.py already; nothing was written" in again.stderr
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["test_apps.py"]
    assert (folder / "test_apps.py").read_text() == "mine"
