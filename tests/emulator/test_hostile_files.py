"""Files that are made to harm: each is an error with its file, soon and in little memory."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from bailian_apps.emulator import (
    Emulator,
    Recorder,
    RecordingError,
    ScenarioError,
    load_apps,
    load_recording,
)
from bailian_apps.emulator.wire.frames import MAX_NESTING

DEEP = 5000


def bomb(first: str, levels: int, alias: Callable[[int], str]) -> str:
    """An app whose texts multiply with each line."""
    lines = ["apps:", "  a:", "    rules:", f"    - &a0 {first}"]
    lines += [f"    - &a{n} {alias(n - 1)}" for n in range(1, levels)]
    return "\n".join([*lines, "  b:", f"    text: *a{levels - 1}", ""])


FILES = {
    "lists": (bomb("[a]", 9, lambda n: f"[{', '.join([f'*a{n}'] * 9)}]"), "stand for more than"),
    "mappings": (
        bomb("{k: a}", 9, lambda n: "{" + ", ".join(f"k{i}: *a{n}" for i in range(9)) + "}"),
        "stand for more than",
    ),
    "merged mappings": (
        bomb("{k: a}", 9, lambda n: f"{{<<: [{', '.join([f'*a{n}'] * 9)}]}}"),
        "stand for more than",
    ),
    "deep by aliases": (bomb("[a]", 500, lambda n: f"[*a{n}]"), "128 levels deep"),
    "itself": ("text: &a [*a]\n", "an alias stands for a value that contains it"),
    "deep lists": ("text: " + "[" * DEEP + "]" * DEEP, "128 levels deep"),
    "deep mappings": ("\n".join(" " * n + "a:" for n in range(300)), "128 levels deep"),
    "an impossible date": ("text: 2025-13-01\n", "not YAML: month"),
    "a very long number": ("pace: " + "9" * 5000, "not YAML"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_yaml_file_is_an_error_in_little_memory(name: str, tmp_path: Path) -> None:
    text, problem = FILES[name]
    path = tmp_path / "apps.yaml"
    path.write_text(text)
    load_apps_of(tmp_path, "text: ok")  # imports and caches are not counted
    tracemalloc.start()
    try:
        with pytest.raises(ScenarioError, match=problem) as caught:
            load_apps(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


def load_apps_of(folder: Path, text: str) -> dict[str, Any]:
    path = folder / "usual.yaml"
    path.write_text(text)
    return dict(load_apps(path))


def test_anchors_that_are_used_a_few_times_still_work(tmp_path: Path) -> None:
    text = """\
apps:
  a: &a
    text: &words [one, two]
    pace: 0
  b:
    <<: *a
    pace: 1
  c: {text: *words}
"""
    assert list(load_apps_of(tmp_path, text)) == ["a", "b", "c"]


@pytest.mark.parametrize("value", ["[" * DEEP + "]" * DEEP, "NaN", "1e999", "9" * 5000])
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.json", '{{"output":{{"text":"a","x":{value}}}}}'),
        ("a.jsonl", '{{"offset_ms":0,"data":{{"output":{{"text":"a","x":{value}}}}}}}'),
        ("a.sse", 'id:1\ndata:{{"output":{{"text":"a","x":{value}}}}}\n\n'),
    ],
)
def test_a_recording_that_could_not_be_replayed_is_refused(
    name: str, form: str, value: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(form.format(value=value))
    line = 2 if name == "a.sse" else 1
    with pytest.raises(RecordingError, match=f"{name}:{line}: cannot be read"):
        load_recording(path)
    with pytest.raises(ScenarioError, match=f"{name}:{line}: cannot be read"):
        load_apps_of(tmp_path, f"recording: {name}")


@pytest.mark.parametrize("name", ["a.jsonl", "a.yaml"])
@pytest.mark.parametrize("kind", ["pipe", "device", "dangling link"])
def test_what_is_no_regular_file_is_refused_unread(kind: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.symlink_to(tmp_path / "gone")
    with pytest.raises((RecordingError, ScenarioError), match="cannot be read as UTF-8 text"):
        load_apps(path)


@pytest.mark.parametrize("name", ["../out.json", "{out}", "in/../../out.json", "sub/../../in.json"])
def test_a_path_in_a_file_stays_in_its_folder_or_the_trusted_root(
    name: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    out.write_text('{"output":{"text":"private"}}')
    folder = tmp_path / "in"
    folder.mkdir()
    inner = folder / "inner.json"
    inner.write_text(out.read_text())
    (tmp_path / "in.json").write_text(out.read_text())
    (tmp_path / "elsewhere" / "deeper").mkdir(parents=True)
    (folder / "sub").symlink_to(tmp_path / "elsewhere" / "deeper")
    for reference in ("inner.json", "./inner.json", "sub/../inner.json", "../in/inner.json", inner):
        assert load_apps_of(folder, f"recording: {reference}")
    with pytest.raises(ScenarioError, match=r"leads out of the folder .* load_apps\(…, root=…\)"):
        load_apps_of(folder, f"recording: {name.format(out=out)}")
    for named in (folder / "usual.yaml", folder):
        assert "usual" in load_apps(named, root=tmp_path)
        with pytest.raises(ScenarioError, match="leads out of the folder"):
            load_apps(named, root=tmp_path / "elsewhere")


def test_links_that_build_tools_put_into_a_folder_are_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, folder = tmp_path / "store", tmp_path / "in"
    (store / "more").mkdir(parents=True)
    (folder / "links").mkdir(parents=True)
    (store / "1").write_text('{"output":{"text":"hi"}}')
    (store / "2").write_text("apps:\n  one: {recording: a.json}\n  two: {recording: links/b.json}")
    (store / "more" / "c.json").write_text((store / "1").read_text())
    (folder / "a.json").symlink_to(store / "1")
    (folder / "links" / "b.json").symlink_to(store / "1")
    (folder / "apps.yaml").symlink_to(store / "2")
    assert list(load_apps(folder)) == ["a", "one", "two"]
    assert list(load_apps(folder / "apps.yaml")) == ["one", "two"]
    (folder / "other.yaml").write_text("recording: more/c.json")
    (folder / "more").symlink_to(store / "more")  # a folder as a link
    assert "other" in load_apps(folder)
    monkeypatch.chdir(folder)
    assert list(load_apps("apps.yaml")) == ["one", "two"]
    assert list(load_apps("links/../apps.yaml")) == ["one", "two"]


def test_a_recorded_header_of_a_wrong_type_is_left_out(tmp_path: Path) -> None:
    head = {"request": {"app_id": "a"}, "response": {"status": 200, "headers": {"content-type": 5}}}
    data = {"output": {"text": "hi", "finish_reason": "stop"}}
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, [head, {"offset_ms": 0, "data": data}])))
    assert load_recording(path).response_headers == {}
    with Emulator(apps={"a": path}):
        pass


def test_the_deepest_request_that_is_relayed_can_be_replayed(tmp_path: Path) -> None:
    levels = MAX_NESTING - 3  # inside the body, its `input` and `biz_params`
    deep = json.loads("[" * levels + "]" * levels)
    data = {
        "output": {"text": "hi", "finish_reason": "stop", "x": json.loads("[" * 126 + "]" * 126)}
    }
    with (
        Emulator(apps={"a": lambda call: data}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url) as proxy,
    ):
        app = requests.Session()
        app.trust_env = False
        body = {"input": {"prompt": "hi", "biz_params": {"a": deep}}}
        headers = {"Authorization": "Bearer k"}
        url = f"{proxy.base_url}/apps/a/completion"
        assert app.post(url, json=body, headers=headers, timeout=60).status_code == 200
        body["input"]["biz_params"] = {"a": [deep]}
        assert app.post(url, json=body, headers=headers, timeout=60).status_code == 400
    recording = load_recording(proxy.recordings[0])
    assert recording.request is not None
    assert recording.request.biz_params == {"a": deep}
    assert recording.frames[0].output["x"] == data["output"]["x"]
