"""All faults by their names. A new fault is one row of `FAULTS`.

docs/en/emulator-faults.md has this table too; `python -m bailian_apps.emulator.faults` prints it.
"""

import re
from collections.abc import Callable

from bailian_apps.emulator.faults.fault import Cut, Fault, FaultPoint, Rewrite
from bailian_apps.emulator.wire.frames import (
    JSON_CONTENT_TYPE,
    STREAM_CONTENT_TYPE,
    JsonObject,
    encode_json,
    http_head,
)


def _http(status: int, body: bytes, content_type: str = JSON_CONTENT_TYPE, **headers: str) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    length = len(body.replace(b"$request_id", bytes(36)))
    own = {"content-type": content_type, "content-length": str(length), "connection": "close"}
    return http_head(status, {**own, **named}) + body


def _json(status: int, body: JsonObject, *, id_name: str = "request_id", **headers: str) -> bytes:
    return _http(status, encode_json({**body, id_name: "$request_id"}), **headers)


def _refusal(
    status: int, code: str, message: str, *, retry_after: str = "", description: str = ""
) -> Fault:
    headers = {"retry_after": retry_after} if retry_after else {}
    what = f"{status} {code}" + (f", `Retry-After: {retry_after}`" if retry_after else "")
    content = _json(status, {"code": code, "message": message}, **headers)
    return Fault(description or what, raw_response=content)


def _event(data: bytes, *, event: str = "event:result", status: str = ":HTTP_STATUS/200") -> bytes:
    return f"id:$number\n{event}\n{status}\ndata:".encode() + data + b"\n\n"


def _last_event(
    description: str,
    data: bytes,
    *,
    event: str = "event:error",
    status: str = ":HTTP_STATUS/400",
    point: FaultPoint = "between_frames",
) -> Fault:
    inserted = _event(data, event=event, status=status)
    return Fault(description, insert=inserted, cut=Cut.END, point=point)


_THROTTLED = "Requests rate limit exceeded."
_NOT_AUTHORISED = "The workspace is not authorised."
_UNAVAILABLE = "The model is not available."
_ERROR = (
    b'{"code":"InvalidParameter","message":"Injected by the emulator.","request_id":"$request_id"}'
)
_NESTED_ERROR = (
    b'{"error":{"code":"invalid_parameter_error","message":"Injected by the emulator."},'
    b'"requestId":"$request_id"}'
)
_LATE = b'{"output":{"text":"late","finish_reason":"null"},"usage":{},"request_id":"$request_id"}'


def _with_padding(event: bytes, padding: bytes) -> bytes:
    """Add an unknown field; the answer stays the same."""
    head, brace, end = event.rpartition(b"}")
    return head + b',"padding":"' + padding + b'"' + brace + end


def _each(change: Callable[[bytes], bytes]) -> Rewrite:
    return lambda event, first, stop: change(event)


def _at_stop(change: Callable[[bytes], bytes]) -> Rewrite:
    return lambda event, first, stop: change(event) if stop else event


def _at_first(change: Callable[[bytes], bytes]) -> Rewrite:
    return lambda event, first, stop: change(event) if first else event


def _over_lines(event: bytes) -> bytes:
    """Split the JSON into several lines where JSON allows it."""
    event = event.replace(b"data:{", b"data:{\ndata: ", 1)
    head, brace, end = event.rpartition(b"}")
    return head + b"\ndata:" + brace + end


def _with_broken_character(event: bytes) -> bytes:
    damaged, count = re.subn(rb"[\xc2-\xf4][\x80-\xbf]+", b"\xff", event, count=1)
    return damaged if count else _with_padding(event, b"\xff")


_SENT: dict[FaultPoint, str] = {
    "before_headers": "the request is read",
    "after_headers": "headers",
    "between_frames": "some frames",
    "inside_frame": "some frames and half of one",
    "after_stop": "a whole answer without the end of its body",
}
_CUTS = {
    "reset": (Cut.RESET, "the connection is reset"),
    "close": (Cut.CLOSE, "the connection is closed"),
    "stall": (Cut.STALL, "silence"),
}

FAULTS: dict[str, Fault] = {
    **{
        f"{name}_{point}": Fault(f"{sent}, then {how}", point=point, cut=cut)
        for point, sent in _SENT.items()
        for name, (cut, how) in _CUTS.items()
    },
    "close_inside_headers": Fault(
        "part of the headers, then the connection is closed", point="inside_headers", cut=Cut.CLOSE
    ),
    "close_inside_chunk": Fault(
        "some frames and half of a chunk of the chunked body, then the connection is closed",
        point="inside_chunk",
        cut=Cut.CLOSE,
    ),
    "garbage": Fault("a response of another protocol", raw_response=b"SSH-2.0-x\r\n\r\n"),
    "empty_stream": Fault("a stream without frames", rewrite=_each(lambda event: b"")),
    "only_comments": Fault(
        "a stream with a comment for each frame", rewrite=_each(lambda event: b": hello\n\n")
    ),
    "no_stop_frame": Fault(
        "a stream that ends in order but without its stop frame",
        rewrite=_at_stop(lambda event: b""),
    ),
    # ------------------------------------------------------------ refusals of the cloud
    "http_400": _refusal(400, "InvalidParameter", "A parameter is not valid."),
    "http_401": _refusal(401, "InvalidApiKey", "Invalid API-key provided."),
    "http_403": _refusal(403, "App.AccessDenied", "App access denied."),
    "free_quota_used_up": _refusal(
        403, "AllocationQuota.FreeTierOnly", "The free quota is used up."
    ),
    "http_404": _refusal(404, "WorkSpaceNotFound", "The workspace is not found."),
    "throttled": _refusal(429, "Throttling.RateQuota", _THROTTLED),
    "throttled_retry_now": _refusal(429, "Throttling.RateQuota", _THROTTLED, retry_after="0"),
    "throttled_for_an_hour": _refusal(429, "Throttling", _THROTTLED, retry_after="3600"),
    "bill_overdue": _refusal(429, "PostpaidBillOverdue", "The bill is overdue."),
    "http_500": _refusal(500, "InternalError", "An internal error has occurred."),
    "app_failed": _refusal(500, "AppProcessFailed", "The app failed to process the request."),
    "http_500_model_unavailable": _refusal(
        500, "ModelUnavailable", _UNAVAILABLE, description="500 with a code that belongs to 503"
    ),
    "http_503": _refusal(503, "ModelUnavailable", _UNAVAILABLE),
    "http_503_retry_now": _refusal(503, "ModelUnavailable", _UNAVAILABLE, retry_after="0"),
    # ------------------------------------------------------------ errors in other shapes
    "nested_error": Fault(
        "401 with the error under `error`, and `request_id` beside it",
        raw_response=_json(401, {"error": {"code": "InvalidApiKey", "message": "Incorrect key."}}),
    ),
    "nested_throttled": Fault(
        "429 `limit_requests` with the error under `error`, `Retry-After: 0` and `requestId`",
        raw_response=_json(
            429,
            {"error": {"code": "limit_requests", "message": _THROTTLED, "type": "requests"}},
            id_name="requestId",
            retry_after="0",
        ),
    ),
    "error_with_request_id_in_camel_case": Fault(
        "400 with `requestId` instead of `request_id`",
        raw_response=_json(
            400, {"code": "InvalidParameter", "message": "Not valid."}, id_name="requestId"
        ),
    ),
    "error_with_request_id_in_header": Fault(
        "403 with the id of the request only in the header `x-request-id`",
        raw_response=_http(
            403,
            encode_json({"code": "App.AccessDenied", "message": "App access denied."}),
            x_request_id="$request_id",
        ),
    ),
    "status_in_code": Fault(
        "200 with an error object whose code has a status in front",
        raw_response=_json(
            200, {"code": "200-BailianGateway.Workspace.NotAuthorised", "message": _NOT_AUTHORISED}
        ),
    ),
    "gateway_error": Fault(
        "200 with an error of the console's gateway under `data`",
        raw_response=_json(
            200,
            {
                "code": "200",
                "successResponse": True,
                "data": {
                    "success": False,
                    "httpStatus": 200,
                    "errorCode": "BailianGateway.Workspace.NotAuthorised",
                    "errorMsg": _NOT_AUTHORISED,
                },
            },
            id_name="requestId",
        ),
    ),
    "nested_error_event": _last_event(
        "some frames, then an error event with the error under `error`", _NESTED_ERROR
    ),
    "nested_error_in_result_event": _last_event(
        "an error object under `error` in a result event, as the first frame",
        _NESTED_ERROR,
        event="event:result",
        status=":HTTP_STATUS/200",
        point="after_headers",
    ),
    # ------------------------------------------------------------ answers of a proxy or gateway
    "http_500_gbk": Fault(
        "500 with a text in GBK",
        raw_response=_http(500, "失败".encode("gbk"), "text/plain; charset=GBK"),
    ),
    "http_500_cut": Fault(
        "500 with a truncated body",
        raw_response=http_head(500, {"content-type": JSON_CONTENT_TYPE, "content-length": "99"})
        + b"{",
        cut=Cut.CLOSE,
    ),
    "http_502_html": Fault(
        "502 with a page of HTML", raw_response=_http(502, b"<html>bad</html>", "text/html")
    ),
    "http_503_empty": Fault("503 with an empty body of type JSON", raw_response=_http(503, b"")),
    "redirect": Fault(
        "302 to another address", raw_response=_http(302, b"", location="http://127.0.0.1:1/")
    ),
    "redirect_to_nonsense": Fault(
        "302 to an invalid address", raw_response=_http(302, b"", location="http://[:")
    ),
    "http_200_html": Fault(
        "200 with a page of HTML", raw_response=_http(200, b"<html>login</html>", "text/html")
    ),
    "http_200_json_error": _refusal(
        200, "Throttling", "Too many requests.", description="200 with an error object"
    ),
    "http_200_json_error_and_output": Fault(
        "200 with an error object and an empty output",
        raw_response=_json(200, {"code": "InvalidApiKey", "message": "Invalid.", "output": {}}),
    ),
    "http_200_output_null": Fault(
        '200 with `"output":null`', raw_response=_json(200, {"output": None})
    ),
    "json_instead_of_stream": Fault("the answer as JSON, to a streaming call", as_json=True),
    "json_instead_of_stream_cut": Fault(
        "half of the answer as JSON, to a streaming call", as_json=True, cut=Cut.CLOSE
    ),
    # ------------------------------------------------------------ error events
    "error_event": _last_event("some frames, then an error event", _ERROR),
    "error_event_spaced": _last_event(
        "an error event written `event: error`", _ERROR, event="event: error"
    ),
    "error_event_without_code": _last_event(
        "an error event without a code, of status 503",
        b'{"message":"no"}',
        status=":HTTP_STATUS/503",
    ),
    "error_event_without_code_and_status": _last_event(
        "an error event with neither a code nor a status", b'{"message":"no"}', status=":x"
    ),
    "error_event_not_json": _last_event(
        "an error event that is not JSON, of status 500", b"kaputt", status=":HTTP_STATUS/500"
    ),
    "throttled_event": _last_event(
        "an error event Throttling, of status 429, as the first frame",
        b'{"code":"Throttling","message":"no","request_id":"$request_id"}',
        status=":HTTP_STATUS/429",
        point="after_headers",
    ),
    "error_in_result_event": _last_event(
        "an error object in a result event",
        _ERROR.replace(b"InvalidParameter", b"AppProcessFailed"),
        event="event:result",
        status=":HTTP_STATUS/200",
    ),
    # ------------------------------------------------------------ unusual but complete answers
    "done_event": Fault(
        "the stop frame as `event:done`",
        rewrite=_at_stop(lambda event: event.replace(b"event:result", b"event:done", 1)),
    ),
    "done_marker": Fault(
        "`data:[DONE]` after the stop frame",
        rewrite=_at_stop(lambda event: event + b"data:[DONE]\n\n"),
    ),
    "frame_after_stop": Fault(
        "a frame after the stop frame", rewrite=_at_stop(lambda event: event + _event(_LATE))
    ),
    "ended_by_length": Fault(
        "`finish_reason` is `length`, then a reset",
        rewrite=_at_stop(
            lambda event: event.replace(b'"finish_reason":"stop"', b'"finish_reason":"length"')
        ),
        point="after_stop",
        cut=Cut.RESET,
    ),
    "malformed_frame": Fault("a frame that is not JSON", insert=_event(b'{"output":')),
    "list_frame": Fault("a frame that is a JSON list", insert=_event(b"[1]")),
    "output_null": Fault('a frame with `"output":null`', insert=_event(b'{"output":null}')),
    "byte_order_mark": Fault(
        "a byte order mark before the first frame",
        rewrite=_at_first(lambda event: b"\xef\xbb\xbf" + event),
    ),
    "crlf": Fault(
        "lines that end with CR LF", rewrite=_each(lambda event: event.replace(b"\n", b"\r\n"))
    ),
    "cr": Fault("lines that end with CR", rewrite=_each(lambda event: event.replace(b"\n", b"\r"))),
    "multi_line_data": Fault("JSON split over several data lines", rewrite=_each(_over_lines)),
    "no_blank_line_at_end": Fault(
        "no blank line after the stop frame",
        rewrite=_at_stop(lambda event: event.rstrip(b"\n") + b"\n"),
    ),
    "no_line_end_at_end": Fault(
        "no line end after the stop frame", rewrite=_at_stop(lambda event: event.rstrip(b"\n"))
    ),
    "close_delimited": Fault(
        "a body that is not chunked and ends with the connection", framing="none"
    ),
    "gzip": Fault("a compressed stream that was not requested", framing="gzip"),
    "capital_media_type": Fault(
        "a content type in capitals",
        headers={"content-type": STREAM_CONTENT_TYPE.replace("text/event", "Text/Event")},
    ),
    "invalid_utf8": Fault(
        "a byte that is not UTF-8 instead of the first frame's first wide character",
        rewrite=_at_first(_with_broken_character),
    ),
    "line_separators": Fault(
        "U+2028 and U+0085 inside the first frame, in a field `padding`",
        rewrite=_at_first(lambda event: _with_padding(event, "\u2028\x85".encode())),
    ),
    "large_frame": Fault(
        "2 MB more in the first frame, in a field `padding`",
        rewrite=_at_first(lambda event: _with_padding(event, "好".encode() * 700_000)),
    ),
}


def markdown_table() -> str:
    """Return the table of docs/en/emulator-faults.md."""
    rows = [f"| `{name}` | {fault.description} |" for name, fault in FAULTS.items()]
    return "\n".join(["| name | what the client observes |", "|---|---|", *rows])
