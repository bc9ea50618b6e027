"""A Bailian app as a tool of a LlamaIndex agent, its steps shown live.

    pip install "bailian-apps[llamaindex,emulator]"
    python examples/llamaindex_agent.py

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set it asks that app on the cloud. Without them it
starts a local stand-in that replays a recorded workflow app. The agent's own LLM is a scripted
one here, so that only the app is needed; put a real one in its place.
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
    """What the app needs to know of a trip."""

    city: str = Field(description="Where to")


class Scripted(CustomLLM):
    """Asks the tool twice, and then says what it heard."""

    @property
    def metadata(self) -> LLMMetadata:
        """Nothing special."""
        return LLMMetadata()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """The next line of the script."""
        heard = prompt.split("user: Observation: ")[1:]
        if len(heard) == len(QUESTIONS):
            answer = heard[-1].splitlines()[0]
            return CompletionResponse(text=f"Thought: I know.\nAnswer: {answer}")
        given = json.dumps({"city": "杭州", "prompt": QUESTIONS[len(heard)]}, ensure_ascii=False)
        lines = ["Thought: I need a plan.", "Action: plan_trip", f"Action Input: {given}"]
        return CompletionResponse(text="\n".join(lines))

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        """Not used: the agent below does not stream."""
        raise NotImplementedError


@contextmanager
def an_app() -> Iterator[BailianAppLLM]:
    """The app on the cloud, if the environment names one; else a recorded one."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        yield BailianAppLLM()
        return
    from bailian_apps.emulator import RECORDINGS, Emulator

    with Emulator(apps={"travel": RECORDINGS / "travel-workflow.jsonl"}) as cloud:
        yield BailianAppLLM(app_id="travel", api_key="none", base_url=cloud.base_url)


async def main() -> None:
    """Ask, and show what the app does while it does it: its two calls are one conversation."""
    with an_app() as llm:
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
