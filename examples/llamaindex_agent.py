"""An app as a tool of a LlamaIndex agent: its steps as they happen, in one session.

    pip install "bailian-apps[llamaindex,emulator]"
    python examples/llamaindex_agent.py

It prints the two questions that the agent asks the app, the steps of the app, and the agent's
answer. The agent's LLM is scripted, so that no other key is needed; replace it with a real one.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: any app will do.
Otherwise it starts the emulator with a recorded travel workflow.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_index.core.agent.workflow import ReActAgent, ToolCall
from llama_index.core.base.llms.types import CompletionResponse, LLMMetadata
from llama_index.core.llms import CustomLLM
from pydantic import BaseModel, Field

from bailian_apps.llamaindex import BailianAppLLM, BailianAppStepStream, bailian_app_tool

QUESTIONS = ("杭州有什么好玩的？", "第二天呢？")


class Trip(BaseModel):
    """The arguments of the app."""

    city: str = Field(description="The destination")


class Scripted(CustomLLM):
    """Calls the tool twice, then answers with its last output."""

    @property
    def metadata(self) -> LLMMetadata:
        """The defaults."""
        return LLMMetadata()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """The next line of the script."""
        observations = prompt.split("user: Observation: ")[1:]
        if len(observations) == len(QUESTIONS):
            answer = observations[-1].splitlines()[0]
            return CompletionResponse(text=f"Thought: I know.\nAnswer: {answer}")
        question = QUESTIONS[len(observations)]
        arguments = json.dumps({"city": "杭州", "prompt": question}, ensure_ascii=False)
        lines = ["Thought: I need a plan.", "Action: plan_trip", f"Action Input: {arguments}"]
        return CompletionResponse(text="\n".join(lines))

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
    """Run the agent and print the steps of the app; its two calls form one conversation."""
    with open_llm() as llm:
        tool = bailian_app_tool(
            llm=llm, name="plan_trip", description="Plans a trip to a city", params=Trip
        )
        agent = ReActAgent(tools=[tool], llm=Scripted(), streaming=False)
        handler = agent.run("我想去杭州")
        async for event in handler.stream_events():
            if isinstance(event, ToolCall):
                print(f"> {event.tool_kwargs['prompt']}")
            if isinstance(event, BailianAppStepStream) and event.phase == "finished":
                print(f"  [{event.step['status']}] {event.tool_name}: {event.step['name']}")
        print(await handler)


if __name__ == "__main__":
    asyncio.run(main())
