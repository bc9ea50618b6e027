"""Describe the app that your test needs: a workflow with two branches, and an answer that fails.

    pip install "bailian-apps[emulator]" pytest
    python -m pytest examples/scenario_test.py

It prints "ok" where it is run as a script. It never calls the cloud.
"""

from bailian_apps import BailianApp, BailianError
from bailian_apps.emulator import Emulator, ErrorAnswer, Node, Rule, Rules, When, Workflow


def plan_trip(app: BailianApp, city: str) -> str:
    """The code under test: asks an app for a plan, and says which of its steps failed."""
    try:
        return app.invoke("Plan a day", biz_params={"city": city}).text
    except BailianError as error:
        steps = error.partial.steps if error.partial else ()
        return "no plan: " + ", ".join(step.name for step in steps if step.failed)


TRIP = Workflow(
    nodes=[
        Node(name="dishes", after=[], output="Vinegar fish"),
        Node(name="sights", type="Retrieval", after=[], output="West Lake"),
        Node(name="End", type="End", output="{biz_params.city}: {nodes.sights}, {nodes.dishes}"),
    ]
)
BROKEN = Workflow(
    nodes=[Node(name="sights", type="Retrieval", fails=ErrorAnswer(code="RetrievalFailed"))]
)
PLANNER = Rules(
    rules=[Rule(when=When(biz_params={"city": "Atlantis"}), workflow=BROKEN), Rule(workflow=TRIP)]
)


def test_plan() -> None:
    with Emulator(apps={"planner": PLANNER}) as cloud:
        app = BailianApp(app_id="planner", api_key="any", base_url=cloud.base_url)
        assert plan_trip(app, "Hangzhou") == "Hangzhou: West Lake, Vinegar fish"
        assert plan_trip(app, "Atlantis") == "no plan: sights"


if __name__ == "__main__":
    test_plan()
    print("ok")
