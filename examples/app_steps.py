"""Call an app and show what it does as it happens.

With DASHSCOPE_API_KEY and BAILIAN_APP_ID set it runs on the cloud, else on a recorded run.
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
