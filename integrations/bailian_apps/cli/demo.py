"""`bailian-apps demo`: one app, three ways to compose it, its steps shown as they happen."""

# LlamaIndex leaves parts of its own interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.agent.workflow import ReActAgent
from llama_index.core.llms import (
    CompletionResponse,
    CompletionResponseGen,
    CustomLLM,
    LLMMetadata,
)
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.tools import FunctionTool
from rich.console import Console
from rich.markup import escape

from bailian_apps.app import BailianApp
from bailian_apps.cli.screen import LangChainSteps, Screen, llamaindex_steps
from bailian_apps.core.errors import BailianError
from bailian_apps.core.events import RunFinished, StepFinished, StepStarted, TextDelta
from bailian_apps.core.result import AppResult
from bailian_apps.core.settings import AppSettings
from bailian_apps.langchain import ChatBailianApp
from bailian_apps.llamaindex import BailianAppLLM

QUESTION = "Recommend dishes and sights in Hangzhou."
NOTES = [
    "Hangzhou lies around West Lake, two hours by train from Shanghai.",
    "Its kitchen is known for Dongpo pork and West Lake fish.",
]


def run_demo(console: Console, *, pace: float) -> None:
    """Run the whole demo.

    Args:
        console: Where to print.
        pace: How many times faster than recorded to replay; 0 does not wait.

    Raises:
        BailianError: The cloud answered with an error, or not at all.
    """
    with _settings(console, pace) as settings:
        screen = Screen(console)
        _langchain_chain(settings, screen)
        _llamaindex_query_engine(settings, screen)
        result = asyncio.run(_agent_tool(settings, screen))
        screen.summary(result)


@contextmanager
def _settings(console: Console, pace: float) -> Generator[AppSettings]:
    """The settings of the app: the cloud's, when the environment names key and app."""
    given = [name for name in ("DASHSCOPE_API_KEY", "BAILIAN_APP_ID") if os.environ.get(name)]
    if len(given) == 2:
        settings = BailianApp().settings
        console.print(f"App [bold]{escape(settings.app_id)}[/] on the cloud.")
        yield settings
        return
    from bailian_apps.emulator import RECORDINGS, Emulator

    why = f"only {given[0]} is set" if given else "no key is needed"
    console.print(
        f"A recorded travel workflow, replayed on this machine ({why}). "
        "Set DASHSCOPE_API_KEY and BAILIAN_APP_ID to run your app on the cloud.",
        soft_wrap=True,
    )
    recording = RECORDINGS / "travel-workflow.jsonl"
    with Emulator(apps={"travel": recording}, pace=pace) as cloud:
        yield AppSettings.model_validate(
            {"app_id": "travel", "api_key": "demo", "base_url": cloud.base_url}
        )


# ------------------------------------------------------------------ three ways


def _langchain_chain(settings: AppSettings, screen: Screen) -> None:
    screen.title("LangChain: prompt | model | parser, streamed")
    prompt = ChatPromptTemplate.from_messages([("human", "{question}")])
    chain = prompt | ChatBailianApp(**_fields(settings)) | StrOutputParser()
    for text in chain.stream({"question": QUESTION}, {"callbacks": [LangChainSteps(screen)]}):
        screen.token(text)
    screen.end()


def _llamaindex_query_engine(settings: AppSettings, screen: Screen) -> None:
    screen.title("LlamaIndex: a query engine over a VectorStoreIndex, streamed")
    index = VectorStoreIndex.from_documents(
        [Document(text=note) for note in NOTES], embed_model=MockEmbedding(embed_dim=8)
    )
    engine = index.as_query_engine(llm=BailianAppLLM(**_fields(settings)), streaming=True)
    with llamaindex_steps(screen):
        response: Any = engine.query(QUESTION)
        for text in response.response_gen:
            screen.token(text)
    screen.end()
    screen.note(f"answered from {len(response.source_nodes)} retrieved notes")


async def _agent_tool(settings: AppSettings, screen: Screen) -> AppResult:
    screen.title("An agent calls the app as its tool")
    app = BailianApp(settings)
    results: list[AppResult] = []
    errors: list[BailianError] = []

    async def travel_app(question: str) -> str:
        """Ask the travel app about dishes and sights of a city."""
        try:
            async for event in app.astream(question):
                if isinstance(event, StepStarted):
                    screen.step_started(event.step.name, event.step.type)
                elif isinstance(event, StepFinished):
                    screen.step_finished(event.step)
                elif isinstance(event, TextDelta):
                    screen.token(event.text)
                elif isinstance(event, RunFinished):
                    results.append(event.result)
        except BailianError as error:
            errors.append(error)  # the agent would take it for the tool's answer
            raise
        screen.end()
        return results[-1].text

    tool = FunctionTool.from_defaults(async_fn=travel_app)
    agent = ReActAgent(tools=[tool], llm=_ScriptedLLM(), streaming=False)
    screen.note("the agent's own model is scripted here; any LLM can take its place")
    # The overload that pyright picks is another one than the keyword's, which is not deprecated.
    answer = await agent.run(user_msg=QUESTION)  # pyright: ignore[reportDeprecated]
    if errors:
        raise errors[0]
    screen.note(f"the agent's answer: {answer}")
    return results[-1]


class _ScriptedLLM(CustomLLM):
    """The agent's own model: calls the tool once, then repeats what it said."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="scripted")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:
        last_words = prompt.rpartition("\nuser: ")[2]
        if last_words.startswith("Observation: "):
            said = last_words.removeprefix("Observation: ").partition("\nassistant:")[0].strip()
            return CompletionResponse(text=f"Thought: I can answer.\nAnswer: {said}")
        return CompletionResponse(
            text="Thought: I need the travel app.\nAction: travel_app\n"
            f'Action Input: {{"question": "{QUESTION}"}}'
        )

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        yield self.complete(prompt, formatted, **kwargs)


def _fields(settings: AppSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in ("app_id", "api_key", "base_url")}
