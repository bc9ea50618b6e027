"""A LangGraph graph whose long run survives the process: the run's id is in the state.

    pip install "bailian-apps[langchain,emulator,background]" langgraph
    python examples/langgraph_background.py

It prints the id of the submitted run, its answer from a new graph, and that nothing was submitted
twice. A real graph has a checkpointer that outlives the process, such as `PostgresSaver`.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: any app will do.
Otherwise it starts the emulator with an app that writes a report.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph

from bailian_apps import BailianApp, SubmissionUnknownError, submission_mark


class Report(TypedDict, total=False):
    """The state: plain strings, which every checkpointer stores."""

    prompt: str
    mark: str  # stored before the run is submitted
    run_id: str  # stored before the run is waited for
    answer: str


@contextmanager
def connect() -> Iterator[BailianApp]:
    """Yield the app in the cloud, or one in the emulator."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        yield BailianApp()
        return
    from bailian_apps.emulator import Emulator

    with Emulator(apps={"report": lambda call: f"A report: {call.prompt}"}) as cloud:
        yield BailianApp(app_id="report", api_key="any", base_url=cloud.base_url)


def build_graph(app: BailianApp, checkpointer: Any) -> Any:
    """Return a graph of three nodes; the state is stored between them."""

    def announce(_: Report) -> Report:
        return {"mark": submission_mark()}

    def submit(state: Report) -> Report:
        return {"run_id": app.submit(state["prompt"], mark=state["mark"]).id}

    def wait(state: Report) -> Report:
        run = app.background_run(state["run_id"])
        return {"answer": run.wait(timeout_s=3600).result().text}

    builder = StateGraph(Report)
    builder.add_sequence([announce, submit, wait])
    builder.add_edge(START, "announce")
    return builder.compile(checkpointer=checkpointer)


def main() -> None:
    """Stop after the submission, as if the process had ended, and go on with a new graph."""
    checkpointer = InMemorySaver()
    thread = {"configurable": {"thread_id": "report"}}
    with connect() as app:
        # durability="sync": each state is stored before the next node runs.
        first = build_graph(app, checkpointer)
        first.invoke(
            {"prompt": "Tea in Hangzhou"}, thread, durability="sync", interrupt_before=["wait"]
        )
        print("submitted", first.get_state(thread).values["run_id"][:5] + "…")

        again = build_graph(app, checkpointer)
        print(again.invoke(None, thread, durability="sync")["answer"])

        # A mark that was used shows that the run may exist already: it is not submitted again.
        try:
            app.submit("Tea in Hangzhou", mark=again.get_state(thread).values["mark"])
        except SubmissionUnknownError:
            print("not submitted a second time")


if __name__ == "__main__":
    main()
