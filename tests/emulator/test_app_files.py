"""Apps of files are read again when the files change; a broken file keeps what it had."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bailian_apps import BailianApp, BailianError
from bailian_apps.emulator import Agent, AppFiles, Emulator, Paced, Recorder, ScenarioError


def ask(cloud: Emulator, app_id: str, prompt: str = "?") -> str:
    app = BailianApp(app_id=app_id, api_key="k", base_url=cloud.base_url, max_retries=0)
    return app.invoke(prompt).text


def test_a_changed_file_answers_the_next_call(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text("text: open\n")
    with Emulator(apps=AppFiles(path)) as cloud:
        before = BailianApp(app_id="shop", api_key="k", base_url=cloud.base_url).invoke("?")
        assert before.text == "open"
        path.write_text("text: closed now\n")
        assert ask(cloud, "shop") == "closed now"
        assert before.session_id in cloud.sessions  # a reload forgets nothing
        assert len(cloud.requests) == 2


def test_a_file_with_an_error_keeps_its_app_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    path, other = tmp_path / "shop.yaml", tmp_path / "other.yaml"
    path.write_text("text: open\n")
    other.write_text("text: one\n")
    with Emulator(apps=AppFiles(tmp_path)) as cloud:
        path.write_text("text: open\npce: 1\n")
        other.write_text("text: another\n")
        assert [ask(cloud, "shop") for _ in range(3)] == ["open"] * 3
        assert ask(cloud, "other") == "another"
        (line,) = caplog.messages
        assert line.startswith(f"not reloaded: {path}:2: unknown field 'pce'; did you mean pace?")
        path.write_text("text: open again\n")
        assert ask(cloud, "shop") == "open again"


def test_files_come_and_go_in_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.yaml").write_text("text: a\n")
    with Emulator(apps=AppFiles(tmp_path)) as cloud:
        (tmp_path / "b.yaml").write_text("text: b\n")
        assert ask(cloud, "b") == "b"
        assert cloud.apps == ["a", "b"]
        (tmp_path / "c.yaml").write_text("apps: {a: {text: c}}\n")
        assert [ask(cloud, "a"), ask(cloud, "a")] == ["a", "a"]
        (line,) = [each for each in caplog.messages if each.startswith("not reloaded")]
        assert "has an app 'a' too" in line
        (tmp_path / "c.yaml").unlink()
        (tmp_path / "b.yaml").unlink()
        with pytest.raises(BailianError, match="The emulator serves a"):
            ask(cloud, "b")


def test_a_recording_that_a_scenario_names_is_watched_too(tmp_path: Path) -> None:
    recording = tmp_path / "old" / "answer.json"
    recording.parent.mkdir()
    recording.write_text('{"text": "first", "finish_reason": "stop"}')
    path = tmp_path / "shop.yaml"
    path.write_text("rules: [{recording: old/answer.json}]\npace: 1\n")
    with Emulator(apps=AppFiles(path)) as cloud:
        assert ask(cloud, "shop") == "first"
        recording.write_text('{"text": "second", "finish_reason": "stop"}')
        assert ask(cloud, "shop") == "second"


def test_an_added_or_removed_app_stays_so_after_a_reload(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(f"text: {name}\n")
    with Emulator(apps=AppFiles(tmp_path)) as cloud:
        cloud.add_app("a", Agent(text="mine"))
        cloud.remove_app("b")
        for name in ("a", "b"):
            (tmp_path / f"{name}.yaml").write_text(f"text: new {name}\n")
        assert ask(cloud, "a") == "mine"
        assert cloud.apps == ["a"]
        cloud.reset()
        assert [ask(cloud, name) for name in ("a", "b")] == ["new a", "new b"]
        with pytest.raises(KeyError, match="no app 'c' to remove; there are: a, b"):
            cloud.remove_app("c")


def test_without_reload_a_change_is_not_seen(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("text: a\n")
    with Emulator(apps=AppFiles(tmp_path, reload=False)) as cloud:
        (tmp_path / "a.yaml").write_text("text: other\n")
        assert ask(cloud, "a") == "a"


def test_a_named_file_may_have_several_apps(tmp_path: Path) -> None:
    path = tmp_path / "apps.yaml"
    path.write_text("apps:\n  a: {text: x}\n  b: {text: y, pace: 2}\n")
    assert dict(AppFiles(named={"b": path})) == {"b": Paced(Agent(text="y"), 2)}
    with pytest.raises(ScenarioError, match="has 2 apps, a, b, and none is 'c'"):
        AppFiles(named={"c": path})
    with pytest.raises(ValueError, match="matching='same' must be one of prompt, exact, nearest"):
        AppFiles(path, matching="same")  # type: ignore[arg-type]


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A folder with the recordings of some calls of one app."""
    folder = tmp_path / "recorded"
    with (
        Emulator(apps={"trip": lambda call: f"{call.prompt} in {call.biz_params}"}) as cloud,
        Recorder(folder, upstream=cloud.base_url) as proxy,
    ):
        app = BailianApp(app_id="trip", api_key="sk-mine", base_url=proxy.base_url)
        app.invoke("Dishes", biz_params={"city": "Hangzhou", "days": 1})
        app.invoke("Sights", thoughts=False)
        app.invoke("Walks", flow_stream_mode="message_format")
    return folder


@pytest.mark.parametrize(
    ("prompt", "asked", "problem"),
    [
        ("Boats", {}, "None of the 3 recordings of the app 'trip' has this prompt; "
         "recorded are 'Dishes', 'Sights', 'Walks'."),
        ("Dishes", {"biz_params": {"city": "Suzhou", "days": 1}}, "differs in biz_params.city"),
        ("Dishes", {"biz_params": {"city": "Suzhou"}}, "in biz_params.city, biz_params.days"),
        ("Dishes", {}, "0001-trip-stream.jsonl differs in biz_params.city, biz_params.days"),
    ],
)  # fmt: skip
def test_a_miss_says_what_is_recorded_and_what_differs(
    recorded: Path, prompt: str, asked: dict[str, Any], problem: str
) -> None:
    with Emulator(apps=AppFiles(recorded)) as cloud:
        app = BailianApp(app_id="trip", api_key="k", base_url=cloud.base_url)
        with pytest.raises(BailianError) as caught:
            app.invoke(prompt, **asked)
    assert problem in str(caught.value)
    assert "--record-missing" in str(caught.value)


def test_many_and_long_prompts_are_cut_in_a_miss(tmp_path: Path) -> None:
    with (
        Emulator(apps={"trip": lambda call: "ok"}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url) as proxy,
    ):
        app = BailianApp(app_id="trip", api_key="k", base_url=proxy.base_url)
        for number in range(8):
            app.invoke(f"{number} " + "x" * 100)
    with (
        Emulator(apps=AppFiles(tmp_path)) as cloud,
        pytest.raises(BailianError, match=r"4 x{37}…' and 3 more\."),
    ):
        ask(cloud, "trip", "y")


def test_the_recording_of_a_masked_prompt_answers_it(tmp_path: Path) -> None:
    with (
        Emulator(apps={"trip": lambda call: "ok"}) as cloud,
        Recorder(tmp_path, upstream=cloud.base_url) as proxy,
    ):
        app = BailianApp(app_id="trip", api_key="k", base_url=proxy.base_url)
        app.invoke("Use t-secret-1, please", biz_params={"user_token": "t-secret-1"})
        app.invoke("Something else")
    with Emulator(apps=AppFiles(tmp_path)) as cloud:
        assert ask(cloud, "trip", "Use t-secret-1, please") == "ok"
        with pytest.raises(BailianError, match="has this prompt"):
            ask(cloud, "trip", "Use nothing")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("prompt", "biz_params", "nearest"),
    [
        ("Dishes!", {}, "0001-trip-stream.jsonl; differs: prompt, biz_params.city, biz_params.days"),
        ("Two sights", {}, "0002-trip-stream.jsonl; differs: prompt"),
        ("Sights", {}, None),
    ],
)  # fmt: skip
def test_the_nearest_recording_answers_and_the_response_says_so(
    recorded: Path,
    post: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    *,
    prompt: str,
    biz_params: dict[str, Any],
    nearest: str | None,
    stream: bool,
) -> None:
    caplog.set_level(logging.INFO)
    with Emulator(apps=AppFiles(recorded, matching="nearest")) as cloud:
        answer = post(cloud, "trip", prompt=prompt, biz_params=biz_params, stream=stream)
    assert answer.status == 200
    assert answer.headers.get("x-emulator-nearest") == nearest
    (line,) = [each for each in caplog.messages if each.startswith("trip  ")]
    assert (f"  nearest {nearest}" in line) == bool(nearest)


@pytest.fixture
def upstream(request: pytest.FixtureRequest) -> Any:
    """What stands for the real API, and counts its calls."""
    with Emulator(apps={"trip": lambda call: f"cloud: {call.prompt}"}, api_key="sk-mine") as cloud:
        yield cloud


def test_what_is_not_recorded_is_passed_on_once_and_then_replayed(
    tmp_path: Path, upstream: Emulator
) -> None:
    files = AppFiles(tmp_path, matching="exact")
    recorder = Recorder(tmp_path, upstream=upstream.base_url)
    with Emulator(apps=files, record_missing=recorder) as local:
        app = BailianApp(app_id="trip", api_key="sk-mine", base_url=local.base_url)
        for prompt in ("one", "two", "one", "two"):
            assert app.invoke(prompt).text == f"cloud: {prompt}"
        assert len(upstream.requests) == 2
        assert [path.name for path in recorder.recordings] == [
            "0001-trip-stream.jsonl",
            "0002-trip-stream.jsonl",
        ]
        app.invoke("one", temperature=0.5)  # another request, by its settings
        app.invoke("one", messages=None, biz_params={"city": "Suzhou"})
        assert len(upstream.requests) == 4
    assert b"sk-mine" not in b"".join(path.read_bytes() for path in recorder.recordings)
    with Emulator(apps=AppFiles(tmp_path)) as alone:
        assert ask(alone, "trip", "two") == "cloud: two"


def test_only_complete_answers_are_recorded(tmp_path: Path, upstream: Emulator) -> None:
    recorder = Recorder(tmp_path, upstream=upstream.base_url)
    with Emulator(apps=AppFiles(tmp_path), record_missing=recorder) as local:
        app = BailianApp(app_id="trip", api_key="sk-mine", base_url=local.base_url, max_retries=0)
        for fault in ("throttled", "throttled_event", "close_between_frames"):
            upstream.fail(fault)
            with pytest.raises(BailianError):
                app.invoke("one")
        with pytest.raises(BailianError, match="InvalidApiKey"):
            app.invoke("one", api_key="sk-wrong")
        with pytest.raises(BailianError, match="AppId"):
            app.invoke("one", app_id="nobody")
        assert os.listdir(tmp_path) == []  # noqa: PTH208
        assert app.invoke("one").text == "cloud: one"
    assert len(recorder.recordings) == 1


def test_scenarios_faults_and_sessions_of_the_emulator_are_not_passed_on(
    tmp_path: Path, upstream: Emulator
) -> None:
    recorder = Recorder(tmp_path, upstream=upstream.base_url)
    (tmp_path / "shop.yaml").write_text("rules: [{when: {prompt: tea}, text: here}]\n")
    with Emulator(apps=AppFiles(tmp_path), record_missing=recorder) as local:
        app = BailianApp(app_id="shop", api_key="sk-mine", base_url=local.base_url, max_retries=0)
        session = app.invoke("tea").session_id
        with pytest.raises(BailianError, match="None of the 1 rules"):
            app.invoke("cake")
        local.fail("throttled")
        with pytest.raises(BailianError, match="Throttling"):
            app.invoke("one", app_id="trip")
        with pytest.raises(BailianError, match="AppId"):
            app.invoke("one", app_id="trip", session_id=session)
        with pytest.raises(BailianError):
            BailianApp(app_id="trip", api_key="sk-mine", base_url=local.base_url).invoke(
                "x", extra_body={"input": {"prompt": ""}}
            )
    assert upstream.requests == []


def test_a_call_is_passed_on_below_the_path_of_the_upstream(
    tmp_path: Path, post: Callable[..., Any]
) -> None:
    """And to no other path: the caller's key is the upstream's only."""
    with (
        Emulator(apps={"trip": lambda call: "ok"}) as cloud,
        Recorder(tmp_path / "seen", upstream=cloud.base_url.replace("/api/v1", "/gateway")) as seen,
        Emulator(
            apps=AppFiles(tmp_path),
            record_missing=Recorder(tmp_path, upstream=seen.base_url),
        ) as local,
    ):
        assert post(local, "trip").status == 404
        assert "POST /gateway/apps/trip/completion" in post(local, "trip").body["message"]


@pytest.mark.parametrize("key", [None, "sk-mine"])
def test_the_playground_passes_calls_on_only_with_a_key(
    tmp_path: Path, upstream: Emulator, post: Callable[..., Any], key: str | None
) -> None:
    recorder = Recorder(tmp_path, upstream=upstream.base_url)
    files = AppFiles(tmp_path, matching="exact")
    with Emulator(apps=files, record_missing=recorder, api_key=key) as local:
        answer = post(local, path="/__emulator__/page/apps/trip/completion")
    assert (answer.status, len(upstream.requests)) == ((200, 1) if key else (400, 0))
