"""Draw a run: a page with its waterfall, and an image for a README.

    pip install "bailian-apps[emulator]"
    python examples/see_a_run.py [FOLDER]

It prints when each step started and ended, and the path of the page; it writes run.html and run.svg
into FOLDER, by default this one.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: any app will do;
a workflow has the most to show. Otherwise it starts the emulator with a recorded travel workflow.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bailian_apps import BailianApp


def connect(stack: ExitStack) -> dict[str, Any]:
    """Return the settings of the app in the cloud, or of one in the emulator."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        return {}
    from bailian_apps.emulator import RECORDINGS, Emulator

    recorded = RECORDINGS / "travel-workflow.jsonl"
    cloud = stack.enter_context(Emulator(apps={"travel": recorded}, pace=1))
    return {"app_id": "travel", "api_key": "any", "base_url": cloud.base_url}


def main(folder: Path) -> None:
    with ExitStack() as stack:
        result = BailianApp(**connect(stack)).invoke("Recommend dishes and sights in Hangzhou")
    result.to_html(folder / "run.html", title="Hangzhou")
    result.to_svg(folder / "run.svg")
    print(f"{len(result.steps)} steps in {result.elapsed_ms:.0f} ms:")
    for step in result.steps:
        print(f"  {step.name}: {step.started_ms:.0f} to {step.ended_ms:.0f} ms")
    print(f"open {folder / 'run.html'} in a browser")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
