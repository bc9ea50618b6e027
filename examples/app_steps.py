"""Show what an app does while it does it: steps, tokens and answer, as typed events.

    pip install "bailian-apps[emulator]"
    python examples/app_steps.py

It prints each step as it starts and ends, the tokens of its model, the answer as it streams, and
the totals.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: any app will do;
a workflow shows its nodes, an agent its tools and searches. Otherwise it starts the emulator with a
recorded travel workflow.
"""

import os
from contextlib import nullcontext

from bailian_apps import BailianApp, RunFinished, StepFinished, StepStarted, StepUpdated, TextDelta
from bailian_apps.emulator import RECORDINGS, Emulator


def main() -> None:
    on_cloud = os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID")
    recorded = Emulator(apps={"travel": RECORDINGS / "travel-workflow.jsonl"}, pace=1)
    with nullcontext() if on_cloud else recorded as cloud:
        app = (
            BailianApp(app_id="travel", api_key="any", base_url=cloud.base_url)
            if cloud
            else BailianApp()
        )
        for event in app.stream("Recommend dishes and sights in Hangzhou"):
            match event:
                case StepStarted(step) | StepUpdated(step) if step.is_named:
                    print(f"… {step.name}")
                case StepFinished(step):
                    print(f"✓ {step.name}: {step.output}")
                    for model in step.usage.models if step.usage else ():
                        print(f"  {model.model_id}: {model.output_tokens} tokens")
                case TextDelta(text):
                    print(f"answer: {text}")
                case RunFinished(result):
                    print(f"{result.usage.total_tokens} tokens, session {result.session_id}")


if __name__ == "__main__":
    main()
