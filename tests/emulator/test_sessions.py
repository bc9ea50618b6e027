"""Sessions are opened, continued, kept apart and forgotten as in the cloud."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bailian_apps.emulator import Call, Emulator, Turn

DELTAS = {"incremental_output": True, "has_thoughts": True}
RECORDED = "bb9fb75687104983ae47fc1f34ef36a1"


def parrot(call: Call) -> str:
    earlier = "".join(turn.user for turn in call.turns)
    return f"{earlier}|{call.prompt}"


@pytest.fixture
def agent(recordings: Path) -> Path:
    return recordings / "agent-plain-stream.sse"


def test_only_the_first_session_has_the_recorded_id(agent: Path, post: Callable[..., Any]) -> None:
    with Emulator(apps={"app": agent}) as cloud:
        first = post(cloud, stream=True, parameters=DELTAS)
        second = post(cloud, stream=True, parameters=DELTAS)
    assert {output["session_id"] for output in first.outputs} == {RECORDED}
    (fresh,) = {output["session_id"] for output in second.outputs}
    assert fresh != RECORDED
    assert first.frames[0]["request_id"] != second.frames[0]["request_id"]


def test_a_known_session_is_continued(agent: Path, post: Callable[..., Any]) -> None:
    with Emulator(apps={"app": agent}) as cloud:
        post(cloud, stream=True, prompt="一", parameters=DELTAS)
        again = post(cloud, stream=True, prompt="二", session_id=RECORDED)
        whole = post(cloud, prompt="三", session_id=RECORDED)
        sessions = cloud.sessions
    assert {output["session_id"] for output in again.outputs} == {RECORDED}
    assert whole.output["session_id"] == RECORDED
    answer = "你好！有什么可以帮助你的吗？"
    assert sessions.keys() == {RECORDED}
    assert sessions[RECORDED].app_id == "app"
    assert sessions[RECORDED].turns == [
        Turn("一", answer),
        Turn("二", answer),
        Turn("三", answer),
    ]


@pytest.mark.parametrize("mode", ["full_thoughts", "agent_format", "message_format_plus"])
def test_a_workflows_answer_is_one_turn(
    recordings: Path, post: Callable[..., Any], mode: str
) -> None:
    with Emulator(apps={"app": recordings / "workflow-two-llm-fixed-end.sse"}) as cloud:
        post(cloud, stream=True, parameters={"flow_stream_mode": mode})
        (session,) = cloud.sessions.values()
    assert session.turns == [Turn("你好", "亲,对我的介绍还满意吗")]


def test_an_app_gets_the_earlier_turns(post: Callable[..., Any]) -> None:
    with Emulator(apps={"app": parrot}) as cloud:
        first = post(cloud, prompt="一").output
        second = post(cloud, prompt="二", session_id=first["session_id"]).output
        third = post(cloud, prompt="三", session_id=first["session_id"]).output
    assert [first["text"], second["text"], third["text"]] == ["|一", "一|二", "一二|三"]


@pytest.mark.parametrize("invented", [RECORDED, "invented"])
def test_an_unknown_session_gets_a_fresh_one_under_another_id(
    agent: Path, post: Callable[..., Any], invented: str
) -> None:
    with Emulator(apps={"app": agent}) as cloud:
        output = post(cloud, session_id=invented).output
        assert output["session_id"] != invented
        assert len(cloud.sessions[output["session_id"]].turns) == 1


def test_a_session_belongs_to_one_app(post: Callable[..., Any]) -> None:
    with Emulator(apps={"app": parrot, "other": parrot}) as cloud:
        first = post(cloud, "app", prompt="一").output
        other = post(cloud, "other", prompt="二", session_id=first["session_id"]).output
    assert other["session_id"] != first["session_id"]
    assert other["text"] == "|二"


def test_messages_take_precedence_over_the_session(post: Callable[..., Any]) -> None:
    messages = [{"role": "user", "content": "问"}]
    with Emulator(apps={"app": parrot}) as cloud:
        first = post(cloud, prompt="一").output["session_id"]
        output = post(cloud, prompt=None, messages=messages, session_id=first).output
        sessions = cloud.sessions
    assert output["session_id"] != first
    assert output["text"] == "|问"
    assert sessions[first].turns == [Turn("一", "|一")]
    assert sessions[output["session_id"]].turns == [Turn("问", "|问")]


def test_one_session_can_be_forgotten(agent: Path, post: Callable[..., Any]) -> None:
    with Emulator(apps={"app": agent}) as cloud:
        post(cloud)
        kept = post(cloud).output["session_id"]
        cloud.forget(RECORDED)
        assert cloud.sessions.keys() == {kept}
        after = post(cloud, session_id=RECORDED).output["session_id"]
        assert after not in {RECORDED, kept}
        with pytest.raises(KeyError, match=f"no session '{RECORDED}' to forget; there are: {kept}"):
            cloud.forget(RECORDED)


def test_all_sessions_can_be_forgotten(agent: Path, post: Callable[..., Any]) -> None:
    with Emulator(apps={"app": agent}) as cloud:
        first = post(cloud).output["session_id"]
        cloud.forget()
        assert cloud.sessions == {}
        assert post(cloud, session_id=first).output["session_id"] != first


def test_an_incomplete_stream_adds_no_turn(post: Callable[..., Any]) -> None:
    def app(call: Call) -> list[dict[str, Any]]:
        return [{"text": "一半", "finish_reason": "null"}]

    with Emulator(apps={"app": app}) as cloud:
        (output,) = post(cloud, stream=True).outputs
        assert cloud.sessions[output["session_id"]].turns == []


def test_a_refused_request_leaves_no_session(post: Callable[..., Any]) -> None:
    def app(call: Call) -> str:
        raise ValueError("no")

    with Emulator(apps={"app": app}) as cloud:
        assert post(cloud).status == 500
        assert cloud.sessions == {}


def test_an_app_may_answer_with_another_session_id(post: Callable[..., Any]) -> None:
    with Emulator(apps={"app": lambda call: {"text": "好", "session_id": "other"}}) as cloud:
        assert post(cloud).output["session_id"] == "other"


def test_a_session_unused_for_an_hour_is_forgotten(post: Callable[..., Any]) -> None:
    with Emulator(apps={"app": parrot}) as cloud:
        first = post(cloud, prompt="一").output["session_id"]
        cloud.advance(3000)
        assert post(cloud, prompt="二", session_id=first).output["text"] == "一|二"
        cloud.advance(3000)  # an hour without a request, not an hour of life
        assert post(cloud, prompt="三", session_id=first).output["text"] == "一二|三"
        cloud.advance(3600)
        assert cloud.sessions == {}
        fresh = post(cloud, prompt="四", session_id=first).output
    assert fresh["session_id"] != first
    assert fresh["text"] == "|四"


def test_a_session_has_a_maximum_of_rounds(post: Callable[..., Any]) -> None:
    with Emulator(apps={"app": parrot}, session_max_rounds=2) as cloud:
        first = post(cloud, prompt="一").output["session_id"]
        assert post(cloud, prompt="二", session_id=first).output["session_id"] == first
        third = post(cloud, prompt="三", session_id=first).output
        assert third["session_id"] != first
        assert third["text"] == "|三"
        assert [len(session.turns) for session in cloud.sessions.values()] == [2, 1]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("how", ["invented", "expired", "full", "another app's"])
def test_an_unknown_session_may_be_an_error(
    post: Callable[..., Any], how: str, stream: bool
) -> None:
    apps = {"app": parrot, "other": parrot}
    with Emulator(
        apps=apps, unknown_session="error", session_max_rounds=1 if how == "full" else 50
    ) as cloud:
        asked = post(cloud).output["session_id"]
        if how == "expired":
            cloud.advance(3601)
        asked = "invented" if how == "invented" else asked
        app_id = "other" if how == "another app's" else "app"
        answer = post(cloud, app_id, session_id=asked, stream=stream)
    assert answer.status == 400
    assert answer.body["code"] == "InvalidParameter"
    assert f"the session {asked} does not exist, has expired" in answer.body["message"]


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_the_clock_only_runs_forward(seconds: float) -> None:
    with pytest.raises(ValueError, match=f"seconds={seconds} must be 0 or more"):
        Emulator(apps={}).advance(seconds)


@pytest.mark.parametrize(
    "rules", [{"session_ttl_s": 0}, {"session_max_rounds": 0}, {"unknown_session": "no"}]
)
def test_invalid_session_rules_are_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(rules))}="):
        Emulator(apps={}, **rules)


def test_a_reset_frees_the_recorded_ids_too(agent: Path, post: Callable[..., Any]) -> None:
    with Emulator(apps={"app": agent}) as cloud:
        first = post(cloud).content
        requests = cloud.requests
        cloud.fail("throttled")
        cloud.advance(10)
        cloud.reset()
        assert (cloud.requests, cloud.sessions, len(requests)) == ([], {}, 1)
        assert post(cloud).content == first  # the recorded ids are free again
