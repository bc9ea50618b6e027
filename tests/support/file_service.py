"""The part of the vendor's API `bailian-2023-12-29` that uploads a file, on loopback.

It has the four calls that an upload takes, with the paths, methods and fields of the vendor's
client, and refuses what the cloud refuses: another order, another size, other headers.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

WORKSPACE = "llm-workspace"
ACCESS_KEY_ID = "LTAI-mine"
FILE_ID = "file_session_1"
LEASE_ID = "lease-1"
LEASE_HEADERS = {"X-bailian-extra": "MTAwNTQyNjQ5NTE2OTE3OA==", "Content-Type": ""}


@dataclass
class FileService:
    """The service.

    Attributes:
        statuses: What DescribeFile answers, one after the other; the last again and again.
        calls: The calls that were received, in their order.
        content: The file that was uploaded.
    """

    statuses: list[str] = field(default_factory=lambda: ["PARSING", "FILE_IS_READY"])
    calls: list[str] = field(default_factory=list)
    content: bytes = b""
    endpoint: str = ""
    lease: dict[str, str] = field(default_factory=dict)

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> dict[str, Any] | None:
        """Return the `Data` of a call; None if the service refuses it."""
        fields = {name: values[0] for name, values in parse_qs(body.decode("latin")).items()}
        if (method, path) == ("PUT", f"/upload/{LEASE_ID}"):
            self.calls.append("PUT")
            self.content = body
            sent = {name: headers.get(name) for name in LEASE_HEADERS}
            right = hashlib.md5(body, usedforsecurity=False).hexdigest() == self.lease["Md5"]
            return {} if right and sent == LEASE_HEADERS else None
        self.calls.append(headers["x-acs-action"])
        signature = headers.get("Authorization", "")
        if f"Credential={ACCESS_KEY_ID}" not in signature or "Signature=" not in signature:
            return None
        if (method, path) == ("POST", f"/{WORKSPACE}/datacenter/category/default"):
            self.lease = fields
            url = f"{self.endpoint}/upload/{LEASE_ID}"
            param = {"Method": "PUT", "Url": url, "Headers": LEASE_HEADERS}
            return self._of_session(
                {"FileUploadLeaseId": LEASE_ID, "Type": "HTTP", "Param": param}, fields
            )
        if (method, path) == ("PUT", f"/{WORKSPACE}/datacenter/file"):
            uploaded = fields.get("LeaseId") == LEASE_ID and str(
                len(self.content)
            ) == self.lease.get("SizeInBytes")
            return self._of_session({"FileId": FILE_ID}, fields) if uploaded else None
        if (method, path) == ("GET", f"/{WORKSPACE}/datacenter/file/{FILE_ID}/"):
            status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
            return {"FileId": FILE_ID, "Status": status, "FileName": self.lease["FileName"]}
        return None

    def _of_session(self, data: dict[str, Any], fields: dict[str, str]) -> dict[str, Any] | None:
        return data if fields.get("CategoryType") == "SESSION_FILE" else None


@contextmanager
def file_service(**fields: Any) -> Iterator[FileService]:
    """Run the service; its `endpoint` is an address on loopback."""
    service = FileService(**fields)

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            data = service.answer(self.command, self.path, self.headers, body)
            answer = {"Code": "InvalidParameter", "Message": "refused"} if data is None else {
                "Code": "Success", "Success": True, "Status": "200", "Data": data
            }  # fmt: skip
            content = json.dumps(answer | {"RequestId": "r-1"}).encode()
            self.send_response(400 if data is None else 200)
            self.send_header("Content-Type", "application/json;charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = handle_any

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
