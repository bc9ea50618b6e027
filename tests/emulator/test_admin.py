"""The admin endpoints of the emulator."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from bailian_apps.emulator import Call, Emulator
from bailian_apps.emulator.server.endpoint import asgi_app


def parrot(call: Call) -> str:
    return f"{len(call.turns)}|{call.prompt}"


@pytest.fixture
def cloud() -> Iterator[Emulator]:
    with Emulator(apps={"app": parrot}) as cloud:
        yield cloud


@pytest.fixture
def admin(cloud: Emulator) -> Iterator[httpx.Client]:
    base = cloud.base_url.removesuffix("/api/v1") + "/__emulator__"
    with httpx.Client(base_url=base, trust_env=False) as client:
        yield client


def test_requests_are_shown_without_secrets(
    cloud: Emulator, admin: httpx.Client, post: Callable[..., Any]
) -> None:
    tokens = {"tool": {"user_token": "t-secret"}}
    mcp = {"mcp-1": {"Authorization": "Bearer t-secret", "size": 3}}
    biz_params = {"city": "杭州", "user_defined_params": mcp, "user_defined_tokens": tokens}
    post(cloud, key="sk-secret", biz_params=biz_params)
    shown = admin.get("/requests")
    (request,) = shown.json()["requests"]
    assert "secret" not in shown.text + repr(cloud.requests)
    assert request["headers"]["authorization"] == "Bearer ***"
    assert request["body"]["input"] == {
        "prompt": "你好",
        "biz_params": {
            "city": "杭州",
            "user_defined_params": {"mcp-1": {"Authorization": "***", "size": 3}},
            "user_defined_tokens": "***",
        },
    }
    assert (request["app_id"], request["stream"], request["fault"]) == ("app", False, None)
    assert cloud.requests[0].biz_params == biz_params  # a test may look at what was sent
    assert admin.delete("/requests").status_code == 200
    assert cloud.requests == []


def test_sessions_are_shown_and_forgotten(
    cloud: Emulator, admin: httpx.Client, post: Callable[..., Any]
) -> None:
    ids = [post(cloud).output["session_id"] for _ in range(3)]
    turns = [{"user": "你好", "answer": "0|你好"}]
    shown = [{"id": each, "app_id": "app", "turns": turns} for each in ids]
    assert admin.get("/sessions").json() == {"sessions": shown}
    assert admin.delete("/sessions", params={"session_id": ids[0]}).status_code == 200
    assert list(cloud.sessions) == ids[1:]
    again = admin.delete("/sessions", params={"session_id": ids[0]})
    assert (again.status_code, again.json()["code"]) == (400, "InvalidParameter")
    assert "no session" in again.json()["message"]
    admin.delete("/sessions")
    assert cloud.sessions == {}


def test_the_clock_can_be_advanced(
    cloud: Emulator, admin: httpx.Client, post: Callable[..., Any]
) -> None:
    post(cloud)
    assert admin.post("/clock", json={"advance_s": 3601}).status_code == 200
    assert cloud.sessions == {}


def test_faults_can_be_injected_and_removed(
    cloud: Emulator, admin: httpx.Client, post: Callable[..., Any]
) -> None:
    assert admin.get("/faults").json() == {"faults": cloud.faults}
    assert admin.post("/faults", json={"name": "throttled", "times": 2}).status_code == 200
    assert post(cloud).status == 429
    admin.delete("/faults")
    assert post(cloud).status == 200
    assert admin.get("/requests").json()["requests"][0]["fault"] == "throttled"


def test_a_reset_removes_all_state(
    cloud: Emulator, admin: httpx.Client, post: Callable[..., Any]
) -> None:
    cloud.fail("throttled", nth=2)
    post(cloud)
    assert admin.post("/reset").status_code == 200
    assert (cloud.requests, cloud.sessions) == ([], {})
    assert [post(cloud).status for _ in range(2)] == [200, 200]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/faults", {"name": "trottled"}, "did you mean throttled?"),
        ("/faults", {"name": "throttled", "nth": "many"}, "nth: Input should be a valid integer"),
        ("/faults", {"name": "throttled", "often": 1}, "often: Extra inputs are not permitted"),
        ("/faults", {}, "name: Field required"),
        ("/faults", [1], "must be a JSON object"),
        ("/clock", {"advance_s": -1}, "must be 0 or more"),
    ],
)
def test_invalid_arguments_are_refused_by_name(
    admin: httpx.Client, path: str, body: Any, message: str
) -> None:
    answer = admin.post(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidParameter")
    assert message in answer.json()["message"]


def test_apps_can_be_added_changed_and_removed(
    cloud: Emulator, admin: httpx.Client, post: Callable[..., Any]
) -> None:
    assert admin.put("/apps/shop", content="text: 'Sold: {prompt}'").status_code == 200
    assert post(cloud, "shop", prompt="tea").output["text"] == "Sold: tea"
    assert (
        admin.put("/apps/shop", json={"agent": {"text": "\U0001f375 {prompt}"}}).status_code == 200
    )
    assert post(cloud, "shop", prompt="tea").output["text"] == "\U0001f375 tea"
    listed = [{"id": "app", "kind": "function"}, {"id": "shop", "kind": "agent"}]
    assert admin.get("/apps").json() == {"apps": listed}
    assert cloud.apps == ["app", "shop"]
    for app_id in ("app", "shop"):
        assert admin.delete(f"/apps/{app_id}").status_code == 200
    assert "The emulator serves no app." in post(cloud, "shop").body["message"]
    again = admin.delete("/apps/shop")
    assert (again.status_code, again.json()["code"]) == (400, "InvalidParameter")
    assert "no app 'shop' to remove" in again.json()["message"]
    admin.post("/reset")
    assert cloud.apps == ["app"]


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ("agent:\n  txt: x\n", "line 2: agent: unknown field 'txt'; did you mean text?"),
        ('{"agent": {"text": 5}}', "agent.text: must be a string"),
        ("text: [", "line 1: not YAML"),
        ("", "must be a mapping with the fields of one app"),
        ("- text: x", "must be a mapping with the fields of one app"),
        (f"recording: {__file__}", "only a file may name a recording"),
        ("rules: [{recording: a.sse}]", "only a file may name a recording"),
        ("text: " + "[" * 500, "nested more than 128 levels deep"),
    ],
)
def test_a_scenario_with_an_error_is_refused_and_changes_nothing(
    cloud: Emulator, admin: httpx.Client, post: Callable[..., Any], scenario: str, message: str
) -> None:
    answer = admin.put("/apps/app", content=scenario)
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidParameter")
    assert message in answer.json()["message"]
    assert post(cloud).output["text"] == "0|你好"


PAGES = [
    {"origin": "http://localhost:5173", "sec-fetch-site": "cross-site", "host": "evil.example"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"host": "evil.example:8000"},  # its name was made to lead here
    {"host": "127.0.0.1.evil.example"},
    {"host": "[::"},
]


@pytest.mark.parametrize(("method", "path"), [("PUT", "/apps/shop"), ("POST", "/clock")])
def test_a_body_that_is_no_text_is_refused(admin: httpx.Client, method: str, path: str) -> None:
    answer = admin.request(method, path, content=b"\xff\xfe")
    assert (answer.status_code, answer.json()["message"]) == (400, "the body is not UTF-8")


@pytest.mark.parametrize("headers", PAGES, ids=str)
def test_a_web_page_can_neither_read_nor_change_anything(
    cloud: Emulator, admin: httpx.Client, post: Callable[..., Any], headers: dict[str, str]
) -> None:
    post(cloud)
    for method, path in [
        ("GET", "/requests"),
        ("DELETE", "/requests"),
        ("POST", "/reset"),
        ("PUT", "/apps/app"),
        ("DELETE", "/apps/app"),
    ]:
        answer = admin.request(method, path, headers=headers)
        assert answer.status_code in (400, 403)
        assert "你好" not in answer.text
    assert len(cloud.requests) == 1
    assert cloud.apps == ["app"]


@pytest.mark.parametrize("host", ["localhost", "localhost:80", "127.0.0.1", "[::1]", "[::1]:80"])
def test_requests_from_this_machine_are_allowed(admin: httpx.Client, host: str) -> None:
    assert admin.get("/requests", headers={"host": host}).status_code == 200


def test_any_host_name_is_allowed_beyond_loopback() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    cloud = Emulator(apps={})
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/__emulator__/sessions",
        "query_string": b"",
        "headers": [(b"host", b"emulator:8790")],
        "server": ("172.17.0.2", 8790),
    }
    asyncio.run(asgi_app(cloud._cloud)(scope, receive, send))
    assert sent[0]["status"] == 200
