"""An app whose answer is JSON, as an object: growing in LangChain, and as a LlamaIndex response.

    pip install "bailian-apps[langchain,llamaindex,emulator]"
    python examples/typed_output.py

It prints the object as it grows, and the whole one; or which fields of the answer do not fit.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: it has to answer
with the JSON of `Trip`. Otherwise it starts the emulator with a workflow whose End node has such an
object.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from pydantic import BaseModel

from bailian_apps import InvalidOutputError
from bailian_apps.langchain import BailianAppRunnable
from bailian_apps.llamaindex import BailianAppQueryEngine


class Trip(BaseModel):
    """What the app's End node puts into its answer."""

    city: str
    days: int = 1
    sights: list[str] = []


def connect(stack: ExitStack) -> dict[str, Any]:
    """Return the settings of the app in the cloud, or of one in the emulator."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        return {}
    from bailian_apps.emulator import Emulator, Node, Workflow

    answer = '{"city": "Hangzhou", "days": 2, "sights": ["West Lake", "Lingyin Temple"]}'
    planner = Workflow(
        nodes=[
            Node(name="plan", output=answer, chunk_ms=20),
            Node(name="end", type="End", mirrors="plan"),
        ]
    )
    cloud = stack.enter_context(Emulator(apps={"planner": planner}, pace=1))
    return {"app_id": "planner", "api_key": "any", "base_url": cloud.base_url}


def main() -> None:
    """Ask in both frameworks; show an answer that does not fit."""
    with ExitStack() as stack:
        settings = connect(stack)
        try:
            for trip in BailianAppRunnable(**settings, output_schema=Trip).stream("Plan a trip"):
                print(f"LangChain: {trip.city}: {', '.join(trip.sights)}")

            engine = BailianAppQueryEngine.from_defaults(**settings, output_schema=Trip)
            response = engine.query("Plan a trip")
            print(f"LlamaIndex: {response.response!r}")
        except InvalidOutputError as error:  # the app ran: it is not asked again
            print(error)
            print("It answered:", error.partial and error.partial.text)


if __name__ == "__main__":
    main()
