"""An app as an agent of a LlamaIndex `AgentWorkflow`: another agent hands off to it.

    pip install "bailian-apps[llamaindex,emulator]"
    python examples/llamaindex_agent_workflow.py

It prints the steps and the streamed text of the app, which agent answered, and the session of the
app. The other agent's LLM is scripted, so that no other key is needed; replace it with a real one.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: any app will do.
Otherwise it starts the emulator with a recorded travel workflow.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, ReActAgent
from llama_index.core.base.llms.types import CompletionResponse, LLMMetadata
from llama_index.core.llms import CustomLLM
from llama_index.core.memory import ChatMemoryBuffer

from bailian_apps.llamaindex import BailianAppAgent, BailianAppLLM, BailianAppStepStream

QUESTIONS = ("杭州有什么好玩的？", "第二天呢？")


class Scripted(CustomLLM):
    """Hands off whatever it is asked."""

    @property
    def metadata(self) -> LLMMetadata:
        """The defaults."""
        return LLMMetadata()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """The one line of the script."""
        arguments = '{"to_agent": "guide", "reason": "it is about a trip"}'
        return CompletionResponse(
            text=f"Thought: The guide knows.\nAction: handoff\nAction Input: {arguments}"
        )

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        """Not used: the agent below does not stream."""
        raise NotImplementedError


@contextmanager
def open_llm() -> Iterator[BailianAppLLM]:
    """An LLM for the app in the environment, or for a recorded one on an emulator."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        yield BailianAppLLM()
        return
    from bailian_apps.emulator import RECORDINGS, Emulator

    with Emulator(apps={"travel": RECORDINGS / "travel-workflow.jsonl"}) as emulator:
        yield BailianAppLLM(app_id="travel", api_key="none", base_url=emulator.base_url)


async def main() -> None:
    """Ask twice; the memory keeps the conversation, and the app's session in it."""
    with open_llm() as llm:
        desk = ReActAgent(
            name="desk", description="Talks to guests", llm=Scripted(), streaming=False
        )
        guide = BailianAppAgent(llm=llm, name="guide", description="Plans trips")
        workflow = AgentWorkflow(agents=[desk, guide], root_agent="desk")
        memory = ChatMemoryBuffer.from_defaults(llm=llm)
        for question in QUESTIONS:
            print(f"> {question}")
            handler = workflow.run(question, memory=memory)
            async for event in handler.stream_events():
                if isinstance(event, BailianAppStepStream) and event.phase == "finished":
                    step = event.step
                    if step["type"] != "End":  # which has the answer
                        print(f"  [{step['status']}] {event.current_agent_name}: {step['name']}")
                if isinstance(event, AgentStream):
                    print(event.delta, end="", flush=True)
            output = await handler
            print(f"\n  {output.current_agent_name}, session {output.raw['session_id']}")


if __name__ == "__main__":
    asyncio.run(main())
