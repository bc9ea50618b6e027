"""An app as a Runnable with a typed result: streamed, and in a chain.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud; otherwise it
starts the emulator with a recorded travel workflow.
Run it with: python examples/langchain_runnable.py
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from langchain_core.runnables import RunnablePassthrough

from bailian_apps.langchain import BailianAppRunnable


def connect(stack: ExitStack) -> BailianAppRunnable:
    """Return the app in the cloud, or the recorded one in the emulator."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        return BailianAppRunnable()
    from bailian_apps.emulator import RECORDINGS, Emulator

    cloud = stack.enter_context(Emulator(apps={"travel": RECORDINGS / "travel-workflow.jsonl"}))
    return BailianAppRunnable(app_id="travel", api_key="any", base_url=cloud.base_url)


def main() -> None:
    """Stream a result, then use the app in a chain."""
    with ExitStack() as stack:
        app = connect(stack)
        for result in app.stream("杭州有什么好吃的？"):
            running = [step.name for step in result.steps if step.status == "executing"]
            print(f"{len(result.steps)} steps, running: {', '.join(running) or '-'}; {result.text}")

        chain = RunnablePassthrough.assign(plan=app) | (
            lambda state: f"{state['city']}: {state['plan'].text}"
        )
        print(chain.invoke({"prompt": "有什么好玩的？", "city": "杭州"}))


if __name__ == "__main__":
    main()
