"""Ask a workflow that says a part of its answer in an Output node (流程输出), before its End node.

    pip install "bailian-apps[emulator]"
    python examples/output_nodes.py

It prints the answer with the Output node's text, and without it, and what each node said.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: a workflow with
an Output node. Otherwise it starts the emulator with such a workflow.
"""

import os
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from bailian_apps import BailianApp, TextDelta
from bailian_apps.emulator import Call, Emulator


def workflow(call: Call) -> Iterator[dict[str, Any]]:
    """Frames as the cloud sends them with `flow_stream_mode="message_format"`."""
    for node_type, words in (("Output", "One moment … "), ("End", "It is sunny in Hangzhou.")):
        message = {
            "node_id": f"{node_type}_1",
            "node_type": node_type,
            "node_status": "success",
            "node_is_completed": True,
            "message": {"role": "assistant", "content": words},
        }
        yield {"output": {"workflow_message": message, "finish_reason": "null"}}
    yield {"output": {"text": "It is sunny in Hangzhou.", "finish_reason": "stop"}}


def main() -> None:
    on_cloud = os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID")
    with nullcontext() if on_cloud else Emulator(apps={"weather": workflow}) as cloud:
        app = (
            BailianApp(app_id="weather", api_key="any", base_url=cloud.base_url)
            if cloud
            else BailianApp()
        )
        question = "How is the weather in Hangzhou?"
        for event in app.stream(question, flow_stream_mode="message_format"):
            if isinstance(event, TextDelta):
                print(event.text, end="", flush=True)
        print()

        result = app.invoke(question, flow_stream_mode="message_format", output_nodes="steps")
        print("without Output nodes:", result.text)
        for step in result.steps:
            print(f"- {step.type}: {step.output}")


if __name__ == "__main__":
    main()
