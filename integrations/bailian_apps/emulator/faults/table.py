"""All faults by their names: everything that a client of the cloud must bear with."""

import re
from collections.abc import Callable

from bailian_apps.emulator.faults.plan import Cut, Fault, Rewrite
from bailian_apps.emulator.wire.frames import (
    JSON_CONTENT_TYPE,
    STREAM_CONTENT_TYPE,
    JsonObject,
    encode_json,
    http_head,
)


def _http(status: int, body: bytes, content_type: str = JSON_CONTENT_TYPE, **headers: str) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    own = {"content-type": content_type, "content-length": str(len(body)), "connection": "close"}
    return http_head(status, {**own, **named}) + body


def _json(status: int, body: JsonObject, **headers: str) -> bytes:
    # As long as the id that will stand there, so that the length is right.
    body = {**body, "request_id": "$request_id".ljust(36)}
    return _http(status, encode_json(body), **headers).replace(
        b"$request_id".ljust(36), b"$request_id"
    )


def _refused(status: int, code: str, message: str, **headers: str) -> bytes:
    return _json(status, {"code": code, "message": message}, **headers)


def _event(data: bytes, *, event: str = "event:error", status: str = ":HTTP_STATUS/400") -> bytes:
    return f"id:$number\n{event}\n{status}\ndata:".encode() + data + b"\n\n"


def _result(data: bytes) -> bytes:
    return _event(data, event="event:result", status=":HTTP_STATUS/200")


_ERROR = (
    b'{"code":"InvalidParameter","message":"Staged by the emulator.","request_id":"$request_id"}'
)
_LATE = b'{"output":{"text":"late","finish_reason":"null"},"usage":{},"request_id":"$request_id"}'


def _padded(padding: bytes) -> Rewrite:
    """Put a field into the first event that no client knows; the answer stays the same."""

    def rewrite(event: bytes, first: bool, stop: bool) -> bytes:
        if not first:
            return event
        head, brace, end = event.rpartition(b"}")
        return head + b',"padding":"' + padding + b'"' + brace + end

    return rewrite


def _each(change: Callable[[bytes], bytes]) -> Rewrite:
    return lambda event, first, stop: change(event)


def _at_stop(change: Callable[[bytes], bytes]) -> Rewrite:
    return lambda event, first, stop: change(event) if stop else event


def _at_first(change: Callable[[bytes], bytes]) -> Rewrite:
    return lambda event, first, stop: change(event) if first else event


def _over_lines(event: bytes) -> bytes:
    """Break the JSON where JSON may be broken."""
    event = event.replace(b"data:{", b"data:{\ndata: ", 1)
    head, brace, end = event.rpartition(b"}")
    return head + b"\ndata:" + brace + end


def _with_broken_character(event: bytes) -> bytes:
    damaged, count = re.subn(rb"[\xc2-\xf4][\x80-\xbf]+", b"\xff", event, count=1)
    return damaged if count else _padded(b"\xff")(event, True, False)


FAULTS: dict[str, Fault] = {
    # ------------------------------------------------------------ before any answer
    "reset_before_headers": Fault(
        about="the connection is reset before a byte of the answer",
        place="before_headers",
        cut=Cut.RESET,
    ),
    "close_before_headers": Fault(
        about="the connection is closed before a byte of the answer",
        place="before_headers",
        cut=Cut.CLOSE,
    ),
    "stall_before_headers": Fault(
        about="no byte of the answer comes", place="before_headers", cut=Cut.STALL
    ),
    "close_inside_headers": Fault(
        about="the connection is closed in the middle of the headers",
        place="inside_headers",
        cut=Cut.CLOSE,
    ),
    "garbage": Fault(about="another protocol answers", instead=b"SSH-2.0-x\r\n\r\n"),
    # ------------------------------------------------------------ inside the answer
    "reset_after_headers": Fault(
        about="headers, then the connection is reset", place="after_headers", cut=Cut.RESET
    ),
    "close_after_headers": Fault(
        about="headers, then the connection is closed", place="after_headers", cut=Cut.CLOSE
    ),
    "stall_after_headers": Fault(
        about="headers, then nothing", place="after_headers", cut=Cut.STALL
    ),
    "reset_between_frames": Fault(about="some frames, then a reset", cut=Cut.RESET),
    "close_between_frames": Fault(
        about="some frames, then the connection is closed, without the body's end", cut=Cut.CLOSE
    ),
    "stall_between_frames": Fault(about="some frames, then nothing", cut=Cut.STALL),
    "reset_inside_frame": Fault(
        about="some frames and half of one, then a reset", place="inside_frame", cut=Cut.RESET
    ),
    "close_inside_frame": Fault(
        about="some frames and half of one, then the connection is closed",
        place="inside_frame",
        cut=Cut.CLOSE,
    ),
    "stall_inside_frame": Fault(
        about="some frames and half of one, then nothing", place="inside_frame", cut=Cut.STALL
    ),
    "close_inside_chunk": Fault(
        about="the connection is closed in the middle of a chunk of the chunked body",
        place="inside_chunk",
        cut=Cut.CLOSE,
    ),
    "reset_after_stop": Fault(
        about="a whole answer, then a reset in place of the body's end",
        place="after_stop",
        cut=Cut.RESET,
    ),
    "close_after_stop": Fault(
        about="a whole answer, then the connection is closed, without the body's end",
        place="after_stop",
        cut=Cut.CLOSE,
    ),
    "stall_after_stop": Fault(
        about="a whole answer, then nothing, not even the body's end",
        place="after_stop",
        cut=Cut.STALL,
    ),
    "empty_stream": Fault(about="a stream without a frame", rewrite=_each(lambda event: b"")),
    "only_comments": Fault(
        about="a stream with a comment for each frame", rewrite=_each(lambda event: b": hello\n\n")
    ),
    "no_stop_frame": Fault(
        about="a stream that ends in order, but without its stop frame",
        rewrite=_at_stop(lambda event: b""),
    ),
    # ------------------------------------------------------------ refusals of the cloud
    "http_400": Fault(
        about="400 InvalidParameter",
        instead=_refused(400, "InvalidParameter", "A parameter is not valid."),
    ),
    "http_401": Fault(
        about="401 InvalidApiKey",
        instead=_refused(401, "InvalidApiKey", "Invalid API-key provided."),
    ),
    "http_403": Fault(
        about="403 App.AccessDenied",
        instead=_refused(403, "App.AccessDenied", "App access denied."),
    ),
    "free_quota_used_up": Fault(
        about="403 AllocationQuota.FreeTierOnly",
        instead=_refused(403, "AllocationQuota.FreeTierOnly", "The free quota is used up."),
    ),
    "http_404": Fault(
        about="404 WorkSpaceNotFound",
        instead=_refused(404, "WorkSpaceNotFound", "The workspace is not found."),
    ),
    "throttled": Fault(
        about="429 Throttling.RateQuota",
        instead=_refused(429, "Throttling.RateQuota", "Requests rate limit exceeded."),
    ),
    "throttled_retry_now": Fault(
        about="429 Throttling.RateQuota, `Retry-After: 0`",
        instead=_refused(
            429, "Throttling.RateQuota", "Requests rate limit exceeded.", retry_after="0"
        ),
    ),
    "throttled_for_an_hour": Fault(
        about="429 Throttling, `Retry-After: 3600`",
        instead=_refused(429, "Throttling", "Requests rate limit exceeded.", retry_after="3600"),
    ),
    "bill_overdue": Fault(
        about="429 PostpaidBillOverdue",
        instead=_refused(429, "PostpaidBillOverdue", "The bill is overdue."),
    ),
    "http_500": Fault(
        about="500 InternalError",
        instead=_refused(500, "InternalError", "An internal error has occurred."),
    ),
    "app_failed": Fault(
        about="500 AppProcessFailed",
        instead=_refused(500, "AppProcessFailed", "The app failed to process the request."),
    ),
    "http_500_model_unavailable": Fault(
        about="500 with a code that belongs to 503",
        instead=_refused(500, "ModelUnavailable", "The model is not available."),
    ),
    "http_503": Fault(
        about="503 ModelUnavailable",
        instead=_refused(503, "ModelUnavailable", "The model is not available."),
    ),
    "http_503_retry_now": Fault(
        about="503 ModelUnavailable, `Retry-After: 0`",
        instead=_refused(503, "ModelUnavailable", "The model is not available.", retry_after="0"),
    ),
    # ------------------------------------------------------------ answers of something else
    "http_500_gbk": Fault(
        about="500 with a text in GBK",
        instead=_http(500, "失败".encode("gbk"), "text/plain; charset=GBK"),
    ),
    "http_500_cut": Fault(
        about="500 whose body is cut off",
        instead=http_head(500, {"content-type": JSON_CONTENT_TYPE, "content-length": "99"}) + b"{",
    ),
    "http_502_html": Fault(
        about="502 with a page of HTML", instead=_http(502, b"<html>bad</html>", "text/html")
    ),
    "http_503_empty": Fault(about="503 that claims JSON and is empty", instead=_http(503, b"")),
    "redirect": Fault(
        about="302 to another address", instead=_http(302, b"", location="http://127.0.0.1:1/")
    ),
    "redirect_to_nonsense": Fault(
        about="302 to what is no address", instead=_http(302, b"", location="http://[:")
    ),
    "http_200_html": Fault(
        about="200 with a page of HTML", instead=_http(200, b"<html>login</html>", "text/html")
    ),
    "http_200_json_error": Fault(
        about="200 with an error object", instead=_refused(200, "Throttling", "Too many requests.")
    ),
    "http_200_json_error_and_output": Fault(
        about="200 with an error object and an empty output",
        instead=_json(200, {"code": "InvalidApiKey", "message": "Invalid.", "output": {}}),
    ),
    "http_200_output_null": Fault(
        about='200 with `"output":null`', instead=_json(200, {"output": None})
    ),
    "json_instead_of_stream": Fault(about="the answer as JSON, to a streaming call", as_json=True),
    "json_instead_of_stream_cut": Fault(
        about="half of the answer as JSON, to a streaming call", as_json=True, cut=Cut.CLOSE
    ),
    # ------------------------------------------------------------ error events
    "error_event": Fault(
        about="some frames, then an error event", insert=_event(_ERROR), cut=Cut.END
    ),
    "error_event_spaced": Fault(
        about="an error event written `event: error`",
        insert=_event(_ERROR, event="event: error"),
        cut=Cut.END,
    ),
    "error_event_without_code": Fault(
        about="an error event without a code, of status 503",
        insert=_event(b'{"message":"no"}', status=":HTTP_STATUS/503"),
        cut=Cut.END,
    ),
    "error_event_without_code_and_status": Fault(
        about="an error event with neither a code nor a status",
        insert=_event(b'{"message":"no"}', status=":x"),
        cut=Cut.END,
    ),
    "error_event_not_json": Fault(
        about="an error event that is no JSON, of status 500",
        insert=_event(b"kaputt", status=":HTTP_STATUS/500"),
        cut=Cut.END,
    ),
    "throttled_event": Fault(
        about="an error event Throttling, of status 429, as the first frame",
        place="after_headers",
        insert=_event(
            b'{"code":"Throttling","message":"no","request_id":"$request_id"}',
            status=":HTTP_STATUS/429",
        ),
        cut=Cut.END,
    ),
    "error_in_result_event": Fault(
        about="an error object in a result event",
        insert=_result(_ERROR.replace(b"InvalidParameter", b"AppProcessFailed")),
        cut=Cut.END,
    ),
    # ------------------------------------------------------------ odd, but still answers
    "done_event": Fault(
        about="the stop frame as `event:done`",
        rewrite=_at_stop(lambda event: event.replace(b"event:result", b"event:done", 1)),
    ),
    "done_marker": Fault(
        about="`data:[DONE]` after the stop frame",
        rewrite=_at_stop(lambda event: event + b"data:[DONE]\n\n"),
    ),
    "frame_after_stop": Fault(
        about="a frame after the stop frame", rewrite=_at_stop(lambda event: event + _result(_LATE))
    ),
    "ended_by_length": Fault(
        about="`finish_reason` is `length`, then a reset",
        rewrite=_at_stop(
            lambda event: event.replace(b'"finish_reason":"stop"', b'"finish_reason":"length"')
        ),
        place="after_stop",
        cut=Cut.RESET,
    ),
    "malformed_frame": Fault(about="a frame that is no JSON", insert=_result(b'{"output":')),
    "list_frame": Fault(about="a frame that is a JSON list", insert=_result(b"[1]")),
    "output_null": Fault(about='a frame with `"output":null`', insert=_result(b'{"output":null}')),
    "byte_order_mark": Fault(
        about="a byte order mark before the first frame",
        rewrite=_at_first(lambda event: b"\xef\xbb\xbf" + event),
    ),
    "crlf": Fault(
        about="lines that end with CR LF",
        rewrite=_each(lambda event: event.replace(b"\n", b"\r\n")),
    ),
    "cr": Fault(
        about="lines that end with CR", rewrite=_each(lambda event: event.replace(b"\n", b"\r"))
    ),
    "multi_line_data": Fault(about="JSON over several data lines", rewrite=_each(_over_lines)),
    "no_blank_line_at_end": Fault(
        about="no blank line after the stop frame",
        rewrite=_at_stop(lambda event: event.rstrip(b"\n") + b"\n"),
    ),
    "no_line_end_at_end": Fault(
        about="no line end after the stop frame",
        rewrite=_at_stop(lambda event: event.rstrip(b"\n")),
    ),
    "close_delimited": Fault(
        about="a body that is not chunked and ends with the connection", framing="none"
    ),
    "gzip": Fault(about="a stream compressed without being asked", framing="gzip"),
    "capital_media_type": Fault(
        about="a content type in capitals",
        headers={"content-type": STREAM_CONTENT_TYPE.replace("text/event", "Text/Event")},
    ),
    "invalid_utf8": Fault(
        about="a byte that is no UTF-8, in place of the first frame's first wide character",
        rewrite=_at_first(_with_broken_character),
    ),
    "line_separators": Fault(
        about="U+2028 and U+0085 inside the first frame, in a field `padding`",
        rewrite=_padded("\u2028\x85".encode()),
    ),
    "large_frame": Fault(
        about="2 MB more in the first frame, in a field `padding`",
        rewrite=_padded("好".encode() * 700_000),
    ),
}
