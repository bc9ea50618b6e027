"""A file of this machine for an agent app: upload it, wait until it is ready, ask about it.

    pip install "bailian-apps[files]"
    python examples/session_files.py report.pdf "What does it say?"

It prints the answer. It calls an agent app in the cloud, `BAILIAN_APP_ID`, with the key in
`DASHSCOPE_API_KEY`. The upload is another API of Bailian, which takes no such key: it also needs
`ALIBABA_CLOUD_ACCESS_KEY_ID`, `ALIBABA_CLOUD_ACCESS_KEY_SECRET` and `BAILIAN_WORKSPACE_ID`.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

import requests
from alibabacloud_bailian20231229 import models
from alibabacloud_bailian20231229.client import Client
from alibabacloud_tea_openapi.models import Config

from bailian_apps import BailianApp, BailianError

FILES_API = (
    "ALIBABA_CLOUD_ACCESS_KEY_ID",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET",
    "BAILIAN_WORKSPACE_ID",
)
ENDPOINT = "https://bailian.cn-beijing.aliyuncs.com"
SESSION_FILE = "SESSION_FILE"  # a file for questions to an app; it lives for 7 days at most
WAIT_S = 120


def connect() -> Client:
    """Return the vendor's client. `BAILIAN_ENDPOINT` may name another region's address."""
    protocol, _, host = os.environ.get("BAILIAN_ENDPOINT", ENDPOINT).partition("://")
    return Client(
        Config(
            access_key_id=os.environ["ALIBABA_CLOUD_ACCESS_KEY_ID"],
            access_key_secret=os.environ["ALIBABA_CLOUD_ACCESS_KEY_SECRET"],
            endpoint=host,
            protocol=protocol,
        )
    )


def upload(client: Client, workspace: str, path: Path) -> str:
    """Upload a file; return its id, `file_session_…`."""
    content = path.read_bytes()
    lease = client.apply_file_upload_lease(
        "default",
        workspace,
        models.ApplyFileUploadLeaseRequest(
            category_type=SESSION_FILE,
            file_name=path.name,
            md_5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
            size_in_bytes=str(len(content)),
        ),
    ).body.data
    # The lease holds the headers to send with the file, and no others are allowed.
    requests.request(
        lease.param.method, lease.param.url, data=content, headers=lease.param.headers, timeout=60
    ).raise_for_status()
    added = client.add_file(
        workspace,
        models.AddFileRequest(
            category_id="default",
            category_type=SESSION_FILE,
            lease_id=lease.file_upload_lease_id,
            parser="AUTO_SELECT",
        ),
    )
    return str(added.body.data.file_id)


def wait_until_ready(client: Client, workspace: str, file_id: str) -> None:
    """Wait until questions about the file can be asked.

    Raises:
        RuntimeError: The cloud cannot read the file.
        TimeoutError: It takes too long.
    """
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        found = client.describe_file(workspace, file_id, models.DescribeFileRequest())
        status = found.body.data.status
        if status == "FILE_IS_READY":
            return
        if status.endswith(("FAILED", "DELETED", "EXPIRED")):
            raise RuntimeError(f"the cloud cannot read the file: {status}")
        time.sleep(1)
    raise TimeoutError(f"the file was not ready after {WAIT_S} seconds")


def main(name: str, question: str) -> None:
    """Upload a file and ask an app about it."""
    app = BailianApp()
    client, workspace = connect(), os.environ["BAILIAN_WORKSPACE_ID"]
    file_id = upload(client, workspace, Path(name))
    wait_until_ready(client, workspace, file_id)
    print(app.invoke(question, rag_options={"session_file_ids": [file_id]}).text)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit('Usage: python examples/session_files.py FILE "QUESTION"')
    if missing := [name for name in FILES_API if not os.environ.get(name)]:
        sys.exit(f"Not set: {', '.join(missing)}")
    try:
        main(sys.argv[1], sys.argv[2])
    except (BailianError, OSError, RuntimeError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
