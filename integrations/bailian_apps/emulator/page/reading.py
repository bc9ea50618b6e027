"""Reads an exchange for the page: its row, its texts, its frames and its steps.

What is secret is masked as in recordings: the key, what is secret by its name, and all copies.
"""

import json
import re
import shlex
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, cast

from bailian_apps.emulator.credentials import PLAYGROUND_KEY
from bailian_apps.emulator.page.exchanges import LABEL_CHARS, MAX_ANSWER_BYTES, Exchange
from bailian_apps.emulator.recorder.scrubbing import Scrubber
from bailian_apps.emulator.wire.frames import (
    EVENT_END,
    JsonObject,
    as_list,
    as_object,
    parse_json,
    to_json,
)
from bailian_apps.emulator.wire.nodes import read_node

MAX_SHOWN_CHARS = 1_000_000
"""How much of one text the page shows."""

_LINE_END = re.compile(r"\r\n|\n|\r")
_SESSION = re.compile(rb'"session_id" ?: ?"([^"\\]{1,200})"')
_CURL_HEADERS = re.compile("accept|content-type|x-dashscope-.*")


def row_of(exchange: Exchange) -> JsonObject:
    """Return what the list of the page shows of an exchange."""
    if exchange.labels is None:
        exchange.labels = _labels_of(exchange)
    prompt, biz_params = exchange.labels
    outcome = exchange.outcome
    if exchange.ended_s is None:
        state, took_ms = "running", None
    else:
        state = "done" if outcome.complete else "cut"
        took_ms = round((exchange.ended_s - exchange.started_s) * 1000, 1)
    first = exchange.pieces[:1]  # they may be dropped meanwhile
    session = _SESSION.search(first[0][1][:100_000]) if first else None
    return {
        "n": exchange.number,
        "at": round(exchange.at_s * 1000),
        "app": exchange.request.app_id,
        "prompt": prompt,
        "biz": biz_params,
        "stream": exchange.request.stream,
        "status": outcome.status,
        "event_status": outcome.event_status,
        "fault": outcome.fault,
        "session": session[1].decode(errors="replace") if session else None,
        "state": state,
        "bytes": exchange.answer_bytes,
        "ms": took_ms,
    }


def details_of(exchange: Exchange, url: str) -> JsonObject:
    """Return what the page shows of the exchange that was chosen; `url` is the app's address."""
    answer = Answer(exchange)
    return {
        **row_of(exchange),
        "headers": _headers_of(exchange),
        "request": _shown(_pretty(_body_of(exchange))),
        "response": _shown(answer.text),
        "frames": len(answer.frames),
        "is_cut": exchange.is_cut,
        "curl": curl_of(exchange, url),
    }


def request_of(exchange: Exchange) -> JsonObject:
    """Return the request as a recording has it."""
    request = exchange.request
    return {"app_id": request.app_id, "headers": _headers_of(exchange), "body": _body_of(exchange)}


def curl_of(exchange: Exchange, url: str) -> str:
    """Return the request as a command; the key is that of the environment."""
    lines = [f"curl -N {shlex.quote(url)}", '-H "Authorization: Bearer $DASHSCOPE_API_KEY"']
    for name, value in _headers_of(exchange).items():
        if _CURL_HEADERS.fullmatch(name) and value != "*/*":
            lines.append(f"-H {shlex.quote(f'{name}: {value}')}")
    lines.append(f"-d {shlex.quote(to_json(_body_of(exchange)))}")
    return " \\\n  ".join(lines)


class Answer:
    """The answer of an exchange, with its secrets masked.

    Attributes:
        text: The body as it was received: JSON with line breaks, or the events of a stream.
        frames: The JSON objects of the body, each with the milliseconds since the request arrived.
    """

    def __init__(self, exchange: Exchange) -> None:
        """Read the answer so far."""
        sent = _decompressed(list(exchange.pieces), exchange.coding)
        pieces = [((at - exchange.started_s) * 1000, each) for at, each in sent]
        scrubber = scrubber_of(exchange)
        whole = b"".join(content for _, content in pieces)
        if whole.lstrip()[:1] in (b"{", b"["):
            events = [_Event(pieces[-1][0], "", whole.decode(errors="replace"))]
        else:
            events = [_event_of(at_ms, content) for at_ms, content in _split(pieces)]
        objects = [as_object(_parsed(event.data)) for event in events]
        masked = [None if each is None else scrubber.value(each) for each in objects]
        scrubber.deltas([each for each in masked if each is not None])
        self.frames: list[tuple[float, JsonObject]] = []
        texts: list[str] = []
        for event, read, shown in zip(events, objects, masked, strict=True):
            if shown is None:
                texts.append(scrubber.text(event.text))
                continue
            self.frames.append((event.at_ms, shown))
            if event.head or len(events) > 1:
                texts.append(event.text if read == shown else event.with_data(to_json(shown)))
            else:
                texts.append(_pretty(shown))
        self.text = "".join(texts)


@dataclass(frozen=True, slots=True)
class _Event:
    """One event of a stream; of any other body, all of it.

    Attributes:
        at_ms: When it was complete.
        head: What is before the first line of data.
        data: The data.
        end: What follows.
    """

    at_ms: float
    head: str
    data: str
    end: str = ""
    raw: str | None = None

    @property
    def text(self) -> str:
        """The event as it was received."""
        return self.head + self.data + self.end if self.raw is None else self.raw

    def with_data(self, data: str) -> str:
        """Return the event with other data."""
        return self.head + data + self.end


def _decompressed(pieces: list[tuple[float, bytes]], coding: str) -> list[tuple[float, bytes]]:
    """Return the pieces of a body as they were before they were compressed."""
    if not coding or not pieces:
        return pieces
    size = sum(len(content) for _, content in pieces)
    unread = [(pieces[-1][0], f"({coding}, {size} bytes)".encode())]
    if coding not in ("gzip", "x-gzip", "deflate"):
        return unread
    decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # the format by its first bytes
    left, read = MAX_ANSWER_BYTES, list[tuple[float, bytes]]()
    try:
        for at, content in pieces:
            plain = decompressor.decompress(content, left)
            left -= len(plain)
            read.append((at, plain))
            if left <= 0 or decompressor.eof:
                break
    except zlib.error:
        return read or unread
    return read


def _split(pieces: list[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """Yield the events of a stream, each with the time at which its end had arrived."""
    whole = b"".join(content for _, content in pieces)
    arrived = list(accumulate(len(content) for _, content in pieces))
    ends = [end.end() for end in EVENT_END.finditer(whole)]
    if whole and whole[ends[-1] if ends else 0 :]:
        ends.append(len(whole))
    for start, end in pairwise([0, *ends]):
        yield pieces[bisect_left(arrived, end)][0], whole[start:end]


def _event_of(at_ms: float, content: bytes) -> _Event:
    text = content.decode(errors="replace")
    lines = _LINE_END.split(text.lstrip("\ufeff"))
    data = "\n".join(line[5:] for line in lines if line.startswith("data:"))
    head, _, _ = text.partition("data:")
    return _Event(at_ms, f"{head}data:" if data else head, data, "\n\n", raw=text)


def _parsed(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return None


def scrubber_of(*exchanges: Exchange) -> Scrubber:
    """Return what masks the secrets of exchanges."""
    scrubber = Scrubber(exchanges[0].store.mask if exchanges else ())
    for exchange in exchanges:
        if exchange.key != PLAYGROUND_KEY:  # which is a word that prompts may have
            scrubber.learn(exchange.key)
        scrubber.learn_tokens(exchange.request.body)
    return scrubber


def _body_of(exchange: Exchange) -> JsonObject:
    return cast("JsonObject", scrubber_of(exchange).value(exchange.request.redacted_body))


def _headers_of(exchange: Exchange) -> dict[str, str]:
    return cast("dict[str, str]", scrubber_of(exchange).value(exchange.request.headers))


def _labels_of(exchange: Exchange) -> tuple[str, str]:
    request, scrubber = exchange.request, scrubber_of(exchange)
    text = scrubber.text(request.prompt)
    prompt = next((line for line in text.splitlines() if line.strip()), "")
    biz_params = scrubber.value(request.biz_params)
    return prompt[:LABEL_CHARS], to_json(biz_params)[:LABEL_CHARS] if biz_params else ""


def _pretty(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _shown(text: str) -> JsonObject:
    return {"text": text[:MAX_SHOWN_CHARS], "left_out": max(0, len(text) - MAX_SHOWN_CHARS)}


def steps_of(frames: list[tuple[float, JsonObject]]) -> list[JsonObject]:
    """Return the steps that frames list, for an emulator without a renderer."""
    steps: dict[object, JsonObject] = {}
    for at_ms, frame in frames:
        output = as_object(frame.get("output")) or {}
        for index, thought in enumerate(as_list(output.get("thoughts"))):
            _note(steps, at_ms, index, as_object(thought) or {})
        message = as_object(output.get("workflow_message"))
        if message:
            names = {key: f"node{key[5:].title()}" for key in message if key.startswith("node_")}
            _note_node(steps, at_ms, {names.get(k, k): v for k, v in message.items()})
    return list(steps.values())


def _note(
    steps: dict[object, JsonObject], at_ms: float, index: int, thought: Mapping[str, Any]
) -> None:
    node = read_node(thought)
    if node is not None:
        _note_node(steps, at_ms, node)
        return
    name = thought.get("action_name") or thought.get("action") or thought.get("action_type") or ""
    step = steps.setdefault((index, name), {"from_ms": at_ms})
    step |= {"name": str(name), "kind": str(thought.get("action_type") or ""), "state": ""}
    step["to_ms"] = at_ms


def _note_node(steps: dict[object, JsonObject], at_ms: float, node: Mapping[str, Any]) -> None:
    step = steps.setdefault(str(node.get("nodeId")), {"from_ms": at_ms})
    if step.get("state") in (None, "executing"):
        step["to_ms"] = at_ms
    step["name"] = str(node.get("nodeName") or node.get("nodeId"))
    step["kind"] = str(node.get("nodeType") or "")
    step["state"] = str(cast("object", node.get("nodeStatus")) or "")
