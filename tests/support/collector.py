"""What stands for the services that receive traces: LangSmith, Langfuse, and OTLP over HTTP."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

Tree = list[tuple[str, "Tree"]]


class Received(NamedTuple):
    """A request that a tracer sent."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Collector:
    """A server that accepts everything."""

    url: str
    requests: list[Received] = field(default_factory=list[Received])

    def spans(self) -> list[Any]:
        """The spans of all OTLP requests, in the order in which they began."""
        otlp = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
        exports = [
            otlp.ExportTraceServiceRequest.FromString(request.body)
            for request in self.requests
            if request.path.endswith("/v1/traces")
        ]
        spans = [
            span
            for export in exports
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        return sorted(spans, key=lambda span: span.start_time_unix_nano)

    def tree(self, parent: bytes = b"") -> Tree:
        """The names of the spans below a parent, each with those below it."""
        return [
            (span.name, self.tree(span.span_id))
            for span in self.spans()
            if span.parent_span_id == parent
        ]

    def values(self, key: str) -> list[str | None]:
        """The value that each span has for an attribute."""
        return [
            next((each.value.string_value for each in span.attributes if each.key == key), None)
            for span in self.spans()
        ]


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            found.requests.append(Received(self.path, dict(self.headers), body))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST
        do_PATCH = do_POST

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
