"""The code on the page about tracing, against a stand-in for each service, with its settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.collector import Collector, collector
from support.pages import blocks_of, page
from support.scripts import ENVIRONMENT, Done, run_script

from bailian_apps.emulator import RECORDINGS, Emulator

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[1]
NODES = ["开始", "大模型_1", "大模型_2", "结束"]
LANGCHAIN = ("ChatBailianApp", [(name, []) for name in NODES])
LLAMAINDEX = (
    "BailianAppLLM.complete",
    [("BailianApp.run", [(f"node {name}", []) for name in NODES])],
)
OUTPUT = "龙井虾仁"  # of a node


def section(language: str, service: str) -> str:
    """The section of the page whose heading names a service."""
    parts = page("tracing", language).split("\n## ")
    (found,) = [part for part in parts if part.partition("\n")[0].startswith(service)]
    return found


def run(language: str, service: str, server: Collector, folder: Path, **more: str) -> Done:
    """Run a section's program with the variables that it exports, and the stand-in's address."""
    text = section(language, service)
    exported = dict(re.findall(r"^export (\w+)=(\S+)$", text, re.M))
    assert exported
    addresses = dict.fromkeys(
        ("LANGSMITH_ENDPOINT", "LANGFUSE_BASE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"), server.url
    )
    program = "\n".join(blocks_of(text, "python"))
    with Emulator(apps={"mine": RECORDINGS / "travel-workflow.jsonl"}, api_key="sk-mine") as cloud:
        variables = {
            "DASHSCOPE_API_KEY": "sk-mine",
            "BAILIAN_APP_ID": "mine",
            "DASHSCOPE_HTTP_BASE_URL": cloud.base_url,
            "LANGSMITH_DISABLE_RUN_COMPRESSION": "true",  # so that the test can read it
        }
        # Keys on the page end with an ellipsis, which no header takes.
        settings = {k: v.replace("…", "1") for k, v in exported.items()} | addresses
        done = run_script(program, folder, ENVIRONMENT | variables | settings | more)
    assert done.exit_code == 0, done.stderr
    assert not any(b"sk-mine" in request.body for request in server.requests)
    return done


@pytest.fixture(params=["en", "zh"])
def language(request: pytest.FixtureRequest) -> str:
    return request.param


def test_langsmith_gets_the_call_and_its_steps(language: str, tmp_path: Path) -> None:
    with collector() as server:
        run(language, "LangSmith", server, tmp_path)
    sent = b"".join(request.body for request in server.requests).decode()
    assert {request.path for request in server.requests} == {"/info", "/runs/multipart"}
    for name in ("ChatBailianApp", *NODES):
        assert f'"name":"{name}"' in sent
    assert OUTPUT in sent
    assert '"session_id":"conversation-1"' in sent


def test_langfuse_gets_both_frameworks(language: str, tmp_path: Path) -> None:
    with collector() as server:
        run(language, "Langfuse", server, tmp_path)
    assert {request.path for request in server.requests} == {"/api/public/otel/v1/traces"}
    assert server.tree() == [LANGCHAIN, LLAMAINDEX]
    assert set(server.values("session.id")) == {"conversation-1"}
    assert set(server.values("user.id")) == {"lin"}


def test_an_otlp_backend_gets_both_frameworks(language: str, tmp_path: Path) -> None:
    with collector() as server:
        done = run(language, "Phoenix", server, tmp_path, OTEL_EXPORTER_OTLP_HEADERS="x-api-key=k")
    assert done.stderr == ""
    assert {request.path for request in server.requests} == {"/v1/traces"}
    assert {request.headers["x-api-key"] for request in server.requests} == {"k"}
    assert server.tree() == [LANGCHAIN, LLAMAINDEX]
    assert set(server.values("session.id")) == {"conversation-1"}
    assert any(OUTPUT in (value or "") for value in server.values("output.value"))
    assert b"travel" in server.requests[0].body


@pytest.mark.parametrize("service", ["LangSmith", "Phoenix"])
def test_texts_can_be_left_out(service: str, tmp_path: Path) -> None:
    hiding = dict(re.findall(r"`(\w+_HIDE_\w+)=(true)`", page("tracing")))
    assert len(hiding) == 4
    with collector() as server:
        run("en", service, server, tmp_path, **hiding)
    sent = b"".join(request.body for request in server.requests).decode(errors="replace")
    assert "ChatBailianApp" in sent
    assert OUTPUT not in sent


def test_the_example_sends_its_spans_or_prints_them(language: str, tmp_path: Path) -> None:
    source = (ROOT / "examples/tracing.py").read_text(encoding="utf-8")
    done = run_script(source, tmp_path, ENVIRONMENT)
    shown = section(language, "# ").partition("```text\n")[2].partition("```")[0]
    assert (done.exit_code, done.stderr) == (0, "")
    assert shown.splitlines() == done.stdout.splitlines()[2:7]
    with collector() as server:
        address = {"OTEL_EXPORTER_OTLP_ENDPOINT": server.url}
        done = run_script(source, tmp_path, ENVIRONMENT | address)
    assert (done.exit_code, done.stderr) == (0, "")
    assert server.tree() == [LANGCHAIN, LLAMAINDEX]
    assert set(server.values("session.id")) == {"conversation-1"}
