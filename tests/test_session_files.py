"""The example that uploads a file for an app, with the vendor's client and a service on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.file_service import ACCESS_KEY_ID, FILE_ID, WORKSPACE, FileService, file_service

from bailian_apps.emulator import Emulator

pytest.importorskip("alibabacloud_bailian20231229")
pytestmark = pytest.mark.process

EXAMPLE = Path(__file__).parents[1] / "examples" / "session_files.py"
CONTENT = "西湖在杭州。\n".encode()


def run(
    service: FileService, cloud: Emulator, folder: Path, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run the example on a file, as its docstring says."""
    (folder / "report.txt").write_bytes(CONTENT)
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, EXAMPLE, "report.txt", "西湖在哪里？"],
        env=environment
        | {
            "PYTHONUTF8": "1",
            "ALIBABA_CLOUD_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "secret",
            "BAILIAN_WORKSPACE_ID": WORKSPACE,
            "BAILIAN_ENDPOINT": service.endpoint,
            "BAILIAN_APP_ID": "app",
            "DASHSCOPE_API_KEY": "sk-mine",
            "DASHSCOPE_HTTP_BASE_URL": cloud.base_url,
        }
        | more,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_file_is_uploaded_and_named_in_the_question(tmp_path: Path) -> None:
    with file_service() as service, Emulator(apps={"app": lambda call: "杭州"}) as cloud:
        done = run(service, cloud, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "杭州\n", "")
    assert service.content == CONTENT
    assert service.calls == [
        "ApplyFileUploadLease", "PUT", "AddFile", "DescribeFile", "DescribeFile"
    ]  # fmt: skip
    [request] = cloud.requests
    assert request.prompt == "西湖在哪里？"
    assert request.parameters["rag_options"] == {"session_file_ids": [FILE_ID]}


def test_a_file_that_the_cloud_cannot_read_is_not_asked_about(tmp_path: Path) -> None:
    with (
        file_service(statuses=["PARSE_FAILED"]) as service,
        Emulator(apps={"app": lambda call: "杭州"}) as cloud,
    ):
        done = run(service, cloud, tmp_path)
    assert done.returncode == 1
    assert done.stderr == "RuntimeError: the cloud cannot read the file: PARSE_FAILED\n"
    assert cloud.requests == []


@pytest.mark.parametrize("missing", ["BAILIAN_WORKSPACE_ID", "BAILIAN_APP_ID"])
def test_nothing_is_uploaded_without_a_variable(missing: str, tmp_path: Path) -> None:
    with file_service() as service, Emulator(apps={"app": lambda call: "杭州"}) as cloud:
        done = run(service, cloud, tmp_path, **{missing: ""})
    assert (done.returncode, done.stdout, service.calls) == (1, "", [])
    assert len(done.stderr.splitlines()) == 1
