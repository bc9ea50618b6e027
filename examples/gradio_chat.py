"""A chat page with Gradio: the answer as it streams, the app's steps, and one session per chat.

    pip install "bailian-apps[langchain,emulator]" gradio
    python examples/gradio_chat.py

It prints the address of the page; open it in a browser.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: any app will do.
Otherwise it starts the emulator with a recorded travel workflow.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # Gradio asks no server of its own

import gradio as gr
from langchain_core.messages import AIMessageChunk, BaseMessage, HumanMessage

from bailian_apps import BailianError
from bailian_apps.langchain import ChatBailianApp

Shown = list[dict[str, Any]]  # messages as Gradio shows them
Turns = list[list[BaseMessage]]  # the question and the answer of each turn; empty if it failed


def connect(stack: ExitStack) -> ChatBailianApp:
    """Return the app in the cloud, or the recorded one in the emulator."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        return ChatBailianApp()
    from bailian_apps.emulator import RECORDINGS, Emulator

    recorded = Emulator(apps={"travel": RECORDINGS / "travel-workflow.jsonl"}, pace=1)
    cloud = stack.enter_context(recorded)
    return ChatBailianApp(app_id="travel", api_key="any", base_url=cloud.base_url)


def render(steps: Sequence[Mapping[str, Any]], text: str, *, running: bool) -> Shown:
    """The steps in a box that can be opened, and the answer below it."""
    lines = [f"- {step['name']}: {step.get('output') or step['status']}" for step in steps]
    box = {"title": f"Steps ({len(steps)})", "status": "pending" if running else "done"}
    shown = [{"role": "assistant", "content": "\n".join(lines), "metadata": box}] if steps else []
    return [*shown, {"role": "assistant", "content": text}] if text else shown


def build(model: ChatBailianApp) -> gr.ChatInterface:
    """Make the page for an app."""

    async def reply(
        question: str, history: Shown, turns: Turns
    ) -> AsyncIterator[tuple[Shown, Turns]]:
        # The page may have taken turns back (Undo, Retry, Clear), or stopped one.
        kept = sum(message["role"] == "user" for message in history)
        turns = turns[:kept] + [[]] * (kept - len(turns))
        asked = HumanMessage(question)
        messages = [message for turn in turns for message in turn]
        steps: list[Any] = []
        answer: AIMessageChunk | None = None
        try:
            async for chunk in model.astream([*messages, asked]):
                answer = chunk if answer is None else answer + chunk
                steps += chunk.additional_kwargs.get("steps", [])
                yield render(steps, answer.text, running=True), turns
        except BailianError as error:
            failed = {"role": "assistant", "content": f"⚠️ {error}"}
            text = answer.text if answer else ""
            yield [*render(steps, text, running=False), failed], [*turns, []]
            return
        if answer is not None:
            yield render(steps, answer.text, running=False), [*turns, [asked, answer]]

    turns = gr.State([])  # on the server; only what is shown goes to the browser
    return gr.ChatInterface(
        reply,
        title="Travel guide",
        chatbot=gr.Chatbot(buttons=["copy", "copy_all"]),  # "share" would send it to Hugging Face
        additional_inputs=[turns],
        additional_inputs_accordion=gr.Accordion(visible=False),
        additional_outputs=[turns],
        concurrency_limit=100,  # Gradio's default is one answer at a time, for all users
        api_visibility="private",
    )


def main() -> None:
    """Serve the page until Ctrl-C."""
    with ExitStack() as stack:
        build(connect(stack)).launch(server_name="127.0.0.1", share=False)


if __name__ == "__main__":
    main()
