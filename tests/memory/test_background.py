"""A LangGraph graph is killed around a background run, and goes on from PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from bailian_apps.emulator import Call, Emulator

pytestmark = pytest.mark.process

EXAMPLE = Path(__file__).parents[2] / "examples/langgraph_background.py"
WAIT_S = 120

PROGRAM = """
import os, runpy, sys
from langgraph.checkpoint.postgres import PostgresSaver
from bailian_apps import BailianApp, SubmissionUnknownError, submission_mark

class App(BailianApp):
    def background_run(self, run_id):
        print("waits", flush=True)
        return super().background_run(run_id)

app = App(app_id="report", api_key="sk", base_url=os.environ["BASE_URL"])
thread = {"configurable": {"thread_id": os.environ["THREAD"]}}
with PostgresSaver.from_conn_string(os.environ["POSTGRES"]) as saver:
    saver.setup()
    graph = runpy.run_path(os.environ["EXAMPLE"])["build_graph"](app, saver)
    given = None if graph.get_state(thread).values else {"prompt": "Tea"}
    try:
        print(graph.invoke(given, thread, durability="sync")["answer"])
    except SubmissionUnknownError:
        print("unknown")
        if os.environ.get("AGAIN"):
            graph.update_state(thread, {"mark": submission_mark()}, as_node="announce")
            print(graph.invoke(None, thread, durability="sync")["answer"])
"""


@pytest.fixture
def report() -> Iterator[tuple[Emulator, threading.Event, threading.Event]]:
    """A cloud with an app that writes until it is released; and the events of both."""
    asked, released = threading.Event(), threading.Event()

    def write(call: Call) -> str:
        asked.set()
        while not call.disconnected.is_set() and not released.wait(0.01):
            pass
        return f"A report: {call.prompt}"

    with Emulator(apps={"report": write}) as cloud:
        yield cloud, asked, released
        released.set()


@pytest.fixture
def start(postgres: str, report: Any) -> Any:
    """Starts the program for one thread of the graph."""
    thread = uuid4().hex

    @contextmanager
    def start(**more: str) -> Iterator[subprocess.Popen[str]]:
        inherited = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
        given = {"BASE_URL": report[0].base_url, "POSTGRES": postgres, "THREAD": thread}
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env=inherited | given | {"EXAMPLE": str(EXAMPLE)} | more,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    return start


def submissions(cloud: Emulator) -> int:
    return [request.method for request in cloud.requests].count("POST")


def test_a_graph_killed_while_it_waits_gets_the_one_answer_of_its_one_run(
    report: Any, start: Any
) -> None:
    cloud, asked, released = report
    with start() as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "waits\n"  # so the id is stored
        first.kill()  # SIGKILL
    released.set()
    with start() as second:
        shown, _ = second.communicate(timeout=WAIT_S)
    assert shown == "waits\nA report: Tea\n"
    assert asked.is_set()
    assert submissions(cloud) == 1


def test_a_graph_killed_before_the_id_is_stored_reports_the_run_as_unknown(
    report: Any, start: Any
) -> None:
    cloud, asked, released = report
    cloud.fail("stall_before_headers")  # the run is submitted, and its id never arrives
    with start() as first:
        assert asked.wait(WAIT_S)
        first.kill()
    released.set()
    with start() as second:
        shown, _ = second.communicate(timeout=WAIT_S)
    assert shown == "unknown\n"
    assert submissions(cloud) == 1
    with start(AGAIN="1") as asked_to:
        shown, _ = asked_to.communicate(timeout=WAIT_S)
    assert shown == "unknown\nwaits\nA report: Tea\n"
    assert submissions(cloud) == 2
