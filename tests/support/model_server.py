"""A model's server on loopback: OpenAI's chat completions, and the SDK's text generation."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from typing_extensions import Self

Message = dict[str, Any]


def calls(name: str, text: str = "", **arguments: Any) -> Message:
    """A message that calls a function."""
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    call = {"id": f"call-{name}", "type": "function", "function": function}
    return {"role": "assistant", "content": text, "tool_calls": [call]}


def says(text: str) -> Message:
    """A message with text."""
    return {"role": "assistant", "content": text}


class ModelServer:
    """Answers each request with what a function makes of its messages.

    Attributes:
        bodies: The bodies of the requests.
    """

    def __init__(self, answer: Callable[[list[Message]], Message]) -> None:
        self.bodies: list[dict[str, Any]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.bodies.append(body)
                message = answer(body.get("messages") or body["input"]["messages"])
                streams = bool(body.get("stream"))
                content = _sse(message) if streams else json.dumps(_whole(self.path, message))
                self.send_response(200)
                kind = "text/event-stream" if streams else "application/json"
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content.encode())))
                self.end_headers()
                self.wfile.write(content.encode())

            def log_message(self, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def _whole(path: str, message: Message) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    if path.endswith("/generation"):
        return {"request_id": "r", "output": {"choices": [choice]}, "usage": {}}
    return {**_HEAD, "object": "chat.completion", "choices": [choice]}


def _sse(message: Message) -> str:
    deltas: list[Message] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": character} for character in message["content"]]
    for call in message.get("tool_calls", ()):
        function = call["function"]
        deltas.append(
            {"tool_calls": [{**call, "index": 0, "function": {**function, "arguments": ""}}]}
        )
        for piece in (function["arguments"][:5], function["arguments"][5:]):
            deltas.append({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    chunks = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    chunks.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    head = {**_HEAD, "object": "chat.completion.chunk"}
    lines = [json.dumps({**head, "choices": [chunk]}) for chunk in chunks]
    return "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"])


_HEAD = {"id": "1", "created": 1, "model": "m"}
