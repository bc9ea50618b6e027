"""The effect of each fault on a client, and the calls that it hits."""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from support.pages import page, rows
from support.paths import PATHS, STREAMING

from bailian_apps import (
    APIError,
    AppFailedError,
    AuthenticationError,
    BadRequestError,
    BailianApp,
    BailianError,
    BillingError,
    ConnectionLostError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    ServiceUnavailableError,
    StreamInterruptedError,
    Timeout,
    UnknownFrame,
)
from bailian_apps.emulator import Call, Emulator
from bailian_apps.emulator.faults.plan import FaultPlan, FaultSpec
from bailian_apps.emulator.faults.table import markdown_table

TEXT = "你好。"
HALF = "你好"


def agent(call: Call) -> list[dict[str, Any]]:
    texts = [(HALF, "null"), ("。", "null"), ("", "stop")]
    return [{"output": {"text": text, "finish_reason": why}} for text, why in texts]


@dataclass(frozen=True)
class Met:
    """What the caller of `BailianApp` meets."""

    error: type[BailianError] | None = None
    text: str = ""
    status: int | None = None
    unknown: int = 0


LOST = Met(ConnectionLostError)
INTERRUPTED = Met(StreamInterruptedError)
HALVED = Met(StreamInterruptedError, HALF)
FINE = Met(text=TEXT)

EXPECTED = {
    "reset_before_headers": LOST,
    "close_before_headers": LOST,
    "stall_before_headers": Met(RequestTimeoutError),
    "close_inside_headers": LOST,
    "garbage": LOST,
    "reset_after_headers": INTERRUPTED,
    "close_after_headers": INTERRUPTED,
    "stall_after_headers": Met(RequestTimeoutError),
    "reset_between_frames": HALVED,
    "close_between_frames": HALVED,
    "stall_between_frames": Met(RequestTimeoutError, HALF),
    "reset_inside_frame": HALVED,
    "close_inside_frame": HALVED,
    "stall_inside_frame": Met(RequestTimeoutError, HALF),
    "close_inside_chunk": HALVED,
    "reset_after_stop": FINE,
    "close_after_stop": FINE,
    "stall_after_stop": FINE,
    "empty_stream": INTERRUPTED,
    "only_comments": INTERRUPTED,
    "no_stop_frame": Met(StreamInterruptedError, TEXT),
    "http_400": Met(BadRequestError, status=400),
    "http_401": Met(AuthenticationError, status=401),
    "http_403": Met(PermissionDeniedError, status=403),
    "free_quota_used_up": Met(BillingError, status=403),
    "http_404": Met(NotFoundError, status=404),
    "throttled": Met(RateLimitError, status=429),
    "throttled_retry_now": Met(RateLimitError, status=429),
    "throttled_for_an_hour": Met(RateLimitError, status=429),
    "bill_overdue": Met(BillingError, status=429),
    "http_500": Met(ServerError, status=500),
    "app_failed": Met(AppFailedError, status=500),
    "http_500_model_unavailable": Met(ServiceUnavailableError, status=500),
    "http_503": Met(ServiceUnavailableError, status=503),
    "http_503_retry_now": Met(ServiceUnavailableError, status=503),
    "nested_error": Met(AuthenticationError, status=401),
    "nested_throttled": Met(RateLimitError, status=429),
    "error_with_request_id_in_camel_case": Met(BadRequestError, status=400),
    "error_with_request_id_in_header": Met(PermissionDeniedError, status=403),
    "status_in_code": Met(PermissionDeniedError),
    "gateway_error": Met(PermissionDeniedError),
    "nested_error_event": Met(BadRequestError, HALF, 400),
    "nested_error_in_result_event": Met(BadRequestError),
    "http_500_gbk": Met(ServerError, status=500),
    "http_500_cut": Met(ServerError, status=500),
    "http_502_html": Met(ServerError, status=502),
    "http_503_empty": Met(ServiceUnavailableError, status=503),
    "redirect": Met(ProtocolError, status=302),
    "redirect_to_nonsense": Met(ProtocolError, status=302),
    "http_200_html": Met(ProtocolError, status=200),
    "http_200_json_error": Met(RateLimitError),
    "http_200_json_error_and_output": Met(AuthenticationError),
    "http_200_output_null": Met(ProtocolError, status=200),
    "json_instead_of_stream": FINE,
    "json_instead_of_stream_cut": INTERRUPTED,
    "error_event": Met(BadRequestError, HALF, 400),
    "error_event_spaced": Met(BadRequestError, HALF, 400),
    "error_event_without_code": Met(ServiceUnavailableError, HALF, 503),
    "error_event_without_code_and_status": Met(APIError, HALF),
    "error_event_not_json": Met(ServerError, HALF, 500),
    "throttled_event": Met(RateLimitError, status=429),
    "error_in_result_event": Met(AppFailedError, HALF),
    "done_event": FINE,
    "done_marker": FINE,
    "frame_after_stop": Met(text=TEXT, unknown=1),
    "ended_by_length": FINE,
    "malformed_frame": Met(text=TEXT, unknown=1),
    "list_frame": Met(text=TEXT, unknown=1),
    "output_null": Met(text=TEXT, unknown=1),
    "byte_order_mark": FINE,
    "crlf": FINE,
    "cr": FINE,
    "multi_line_data": FINE,
    "no_blank_line_at_end": FINE,
    "no_line_end_at_end": FINE,
    "close_delimited": FINE,
    "gzip": FINE,
    "capital_media_type": FINE,
    "invalid_utf8": Met(text="\ufffd好。"),
    "line_separators": FINE,
    "large_frame": FINE,
}


# Only what never comes may time out: a slow machine must not.
NO_FRAME = Timeout(first_frame_s=0.25, between_frames_s=30)
NO_MORE_FRAMES = Timeout(first_frame_s=30, between_frames_s=0.25)
STALLS = {
    "stall_before_headers": NO_FRAME,
    "stall_after_headers": NO_FRAME,
    "stall_between_frames": NO_MORE_FRAMES,
    "stall_inside_frame": NO_MORE_FRAMES,
    "stall_after_stop": NO_MORE_FRAMES,
}


@pytest.fixture(scope="module")
def cloud() -> Iterator[Emulator]:
    with Emulator(apps={"app": agent, "other": agent}) as cloud:
        yield cloud


@pytest.fixture(autouse=True)
def anew(cloud: Emulator) -> None:
    cloud.reset()


def app_of(cloud: Emulator, **settings: Any) -> BailianApp:
    own = {"app_id": "app", "timeout": 30, "max_retries": 0}
    return BailianApp(api_key="sk-test", base_url=cloud.base_url, **(own | settings))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", EXPECTED)
def test_a_fault_hits_one_call_and_the_next_succeeds(cloud: Emulator, name: str, path: str) -> None:
    expected = EXPECTED[name]
    cloud.fail(name)
    outcome = PATHS[path](app_of(cloud, timeout=STALLS.get(name, 30)), "hi")
    assert type(outcome.error) is (expected.error or type(None))
    if outcome.error is None:
        assert outcome.result.text == expected.text
    else:
        assert outcome.error.status_code == expected.status
        assert (outcome.error.partial.text if outcome.error.partial else "") == expected.text
    if path in STREAMING:
        unknown = [event for event in outcome.events if isinstance(event, UnknownFrame)]
        assert len(unknown) == expected.unknown
    assert [request.fault for request in cloud.requests] == [name]
    assert PATHS[path](app_of(cloud), "hi").text == TEXT
    assert [request.fault for request in cloud.requests] == [name, None]


def test_every_fault_is_tested_and_documented(cloud: Emulator) -> None:
    assert markdown_table() in page("emulator-faults"), (
        "update the page with: python -m bailian_apps.emulator.faults"
    )
    assert EXPECTED.keys() == cloud.faults.keys()


def test_the_chinese_table_has_the_same_faults() -> None:
    """And of each the same codes, numbers and fields, as far as its description names them."""
    facts = re.compile(r"`[^`]+`|\b\d{3}\b|[A-Z]\w+(?:\.\w+)?", re.ASCII)
    english = rows(markdown_table())[1:]
    chinese = rows(page("emulator-faults", "zh").split("\n## ")[1])[1:]
    assert [row[0] for row in chinese] == [row[0] for row in english]
    for (name, meaning), (_, translated) in zip(english, chinese, strict=True):
        assert set(facts.findall(meaning)) <= set(facts.findall(translated)), name
        assert re.search("[\u4e00-\u9fff]", translated) or translated == meaning, name


def test_a_json_answer_is_cut_too(cloud: Emulator, post: Callable[..., Any]) -> None:
    whole = post(cloud).content
    cloud.fail("reset_before_headers")
    with pytest.raises(ConnectionError):
        post(cloud)
    for name in ("close_after_headers", "close_between_frames", "close_inside_frame"):
        cloud.fail(name)
        with pytest.raises(http.client.IncompleteRead) as caught:
            post(cloud)
        half = 0 if name == "close_after_headers" else len(whole) // 2
        assert len(caught.value.partial) == half
        assert caught.value.expected == len(whole) - half


@pytest.mark.parametrize("after", [0, 1, 2, 3, 9])
def test_a_fault_comes_after_the_given_number_of_frames(
    cloud: Emulator, post: Callable[..., Any], after: int
) -> None:
    cloud.fail("error_event", after_frames=after)
    answer = post(cloud, stream=True)
    assert answer.events == ["result"] * min(after, 3) + ["error"]
    ids = [line for line in answer.content.decode().split("\n") if line.startswith("id:")]
    assert ids == [f"id:{number + 1}" for number in range(len(ids))]
    assert answer.frames[-1]["request_id"]


@pytest.mark.parametrize("path", PATHS)
def test_a_reset_loses_no_frame_before_it(cloud: Emulator, path: str) -> None:
    large = "好" * 400_000
    frames = [{"output": {"text": large, "finish_reason": "null"}} for _ in range(3)]
    stop = {"output": {"text": "", "finish_reason": "stop"}}
    cloud.add_app("large", lambda call: [*frames, stop])
    app = app_of(cloud, app_id="large")
    for _ in range(3):
        cloud.fail("reset_between_frames", after_frames=3)
        outcome = PATHS[path](app, "hi")
        assert type(outcome.error) is StreamInterruptedError
        assert len(outcome.error.partial.text) == 3 * len(large)
        cloud.fail("reset_after_stop")
        assert len(PATHS[path](app, "hi").result.text) == 3 * len(large)


def test_a_refusal_does_not_call_the_app(cloud: Emulator, post: Callable[..., Any]) -> None:
    cloud.fail("http_503_retry_now")
    answer = post(cloud)
    assert answer.status == 503
    assert answer.headers["retry-after"] == "0"
    assert re.fullmatch("[0-9a-f-]{36}", answer.body["request_id"])
    assert cloud.sessions == {}


def test_a_fault_that_needs_a_stream_waits_for_one(
    cloud: Emulator, post: Callable[..., Any]
) -> None:
    cloud.fail("malformed_frame")
    post(cloud)
    with pytest.raises(ValueError, match="Expecting value"):
        _ = post(cloud, stream=True).frames
    assert [request.fault for request in cloud.requests] == [None, "malformed_frame"]


def hits(cloud: Emulator, post: Callable[..., Any], calls: int, app_id: str = "app") -> str:
    """One letter for each call: `.` when it went well, else its fault's first."""
    for _ in range(calls):
        post(cloud, app_id)
    return "".join((request.fault or ".")[0] for request in cloud.requests)


def test_the_nth_call_is_hit(cloud: Emulator, post: Callable[..., Any]) -> None:
    cloud.fail("throttled", nth=3)
    assert hits(cloud, post, 5) == "..t.."


def test_several_calls_in_a_row_are_hit(cloud: Emulator, post: Callable[..., Any]) -> None:
    cloud.fail("throttled", nth=2, times=2)
    assert hits(cloud, post, 5) == ".tt.."


def test_faults_are_injected_one_after_the_other(cloud: Emulator, post: Callable[..., Any]) -> None:
    cloud.fail("throttled")
    cloud.fail("http_500")
    cloud.fail("app_failed", nth=2)
    assert hits(cloud, post, 4) == "tha."


def test_a_seed_makes_the_share_repeatable(cloud: Emulator, post: Callable[..., Any]) -> None:
    seen: list[str] = []
    for seed in (1, 1, 2):
        cloud.reset()
        cloud.fail("http_503", share=0.25, seed=seed, app_id="app")
        post(cloud, "other")  # is not counted
        seen.append(hits(cloud, post, 40)[1:])
    assert seen[0] == seen[1] != seen[2]
    cloud.clear_faults()
    assert hits(cloud, post, 20)[41:] == "." * 20


@pytest.mark.parametrize("share", [0.02, 0.25, 0.9])
def test_the_share_is_the_fraction_of_calls_hit(share: float) -> None:
    plan, calls = FaultPlan(), 10_000
    plan.add(FaultSpec(name="http_503", share=share, seed=1))
    hit = [plan.take("app", stream=False) is not None for _ in range(calls)]
    deviation = (calls * share * (1 - share)) ** 0.5
    assert abs(sum(hit) - calls * share) < 4 * deviation
    halves = sum(hit[: calls // 2]), sum(hit[calls // 2 :])
    assert abs(halves[0] - halves[1]) < 6 * deviation  # all along, not in a row


def test_a_share_ends_after_the_given_times(cloud: Emulator, post: Callable[..., Any]) -> None:
    cloud.fail("http_503", share=1, times=2)
    assert hits(cloud, post, 4) == "hh.."


def test_only_calls_of_the_given_app_are_hit(cloud: Emulator, post: Callable[..., Any]) -> None:
    cloud.fail("throttled", app_id="other", nth=2)
    assert hits(cloud, post, 2) == ".."
    assert hits(cloud, post, 3, "other") == "...t."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"fault": "trottled"},
            "no fault 'trottled'; did you mean throttled? The faults are: reset_",
        ),
        ({"fault": "xyz"}, "no fault 'xyz'. The faults are: reset_before_headers, close_"),
        ({"nth": 0}, "nth: Input should be greater than or equal to 1"),
        ({"nth": "2"}, "nth: Input should be a valid integer"),
        ({"times": 1.5}, "times: Input should be a valid integer"),
        ({"times": 0}, "times: Input should be greater than or equal to 1"),
        ({"share": 0.0}, "share: Input should be greater than 0"),
        ({"share": 1.5}, "share: Input should be less than or equal to 1"),
        ({"share": 0.5, "nth": 2}, "share and nth cannot be combined"),
        ({"seed": 1}, "seed needs share"),
        ({"after_frames": 1}, "after_frames: 'throttled' does not happen after a frame"),
        (
            {"fault": "error_event", "after_frames": -1},
            "after_frames: Input should be greater than or equal to 0",
        ),
    ],
)
def test_invalid_fault_arguments_are_refused(
    cloud: Emulator, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        cloud.fail(**({"fault": "throttled"} | arguments))


@pytest.mark.parametrize(
    "name", ["stall_before_headers", "stall_after_headers", "stall_between_frames"]
)
def test_a_stall_ends_when_the_client_disconnects(
    cloud: Emulator, open_stream: Callable[..., Any], name: str
) -> None:
    if name == "stall_before_headers":
        cloud.fail(name)
        assert (
            type(PATHS["stream"](app_of(cloud, timeout=NO_FRAME), "hi").error)
            is RequestTimeoutError
        )
    else:
        cloud.fail(name)
        with open_stream(cloud) as response:
            assert response.status == 200
            assert not cloud.requests[0].disconnected.is_set()
    assert cloud.requests[0].disconnected.wait(60)


def test_a_stall_ends_with_the_emulator(open_stream: Callable[..., Any]) -> None:
    with Emulator(apps={"app": agent}) as cloud:
        cloud.fail("stall_after_headers")
        opened = open_stream(cloud)
        response = opened.__enter__()
    assert cloud.requests[0].disconnected.is_set()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        response.read()
    opened.__exit__(None, None, None)


def test_a_cut_answer_closes_its_app(cloud: Emulator, open_stream: Callable[..., Any]) -> None:
    closed = threading.Event()

    def app(call: Call) -> Iterator[dict[str, Any]]:
        try:
            yield {"output": {"text": "甲", "finish_reason": "null"}}
            call.disconnected.wait(60)
        finally:
            closed.set()

    cloud.add_app("endless", app)
    cloud.fail("reset_between_frames", after_frames=0)
    with open_stream(cloud, "endless") as response, pytest.raises(ConnectionError):
        response.read()
    assert closed.wait(60)
