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

from langchain_core.callbacks import BaseCallbackHandler
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
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.event_handlers import BaseEventHandler
from rich.console import Console
from rich.markup import escape
from rich.rule import Rule
from typing_extensions import override

from bailian_apps.app import BailianApp
from bailian_apps.cli.view import RunView, print_note
from bailian_apps.core.errors import BailianError
from bailian_apps.core.events import RunFinished
from bailian_apps.core.result import AppResult, Step
from bailian_apps.core.settings import AppSettings
from bailian_apps.langchain import ChatBailianApp
from bailian_apps.langchain.blocks import STEP_TYPE
from bailian_apps.langchain.printer import step_of_event
from bailian_apps.llamaindex import BailianAppLLM, BailianAppStepEvent
from bailian_apps.terminal import format_tokens, step_tree

QUESTION = "Recommend dishes and sights in Hangzhou."
NOTES = [
    "Hangzhou lies around West Lake, two hours by train from Shanghai.",
    "Its kitchen is known for Dongpo pork and West Lake fish.",
]
_LABEL = "answer: "


def run_demo(console: Console, *, pace: float) -> None:
    """Run the whole demo; `console` writes to standard output, as the answers do."""
    with _settings(console, pace) as settings:
        _langchain_chain(settings, console)
        _llamaindex_query_engine(settings, console)
        result = asyncio.run(_agent_tool(settings, console))
    _print_title(console, "What the app did")
    console.print(step_tree(result.steps))
    for model in result.usage.models:
        tokens = format_tokens(model.input_tokens, model.output_tokens)
        print_note(console, f"{model.model_id}: {tokens}", "")
    print_note(console, f"total: {result.usage.total_tokens} tokens", "bold")


@contextmanager
def _settings(console: Console, pace: float) -> Generator[AppSettings]:
    """The app on the cloud if key and app id are set; else a recorded one, in an emulator."""
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
    with Emulator(apps={"travel": recording}, pace=pace) as emulator:
        yield AppSettings.model_validate(
            {"app_id": "travel", "api_key": "demo", "base_url": emulator.base_url}
        )


# ------------------------------------------------------------------ three ways


def _langchain_chain(settings: AppSettings, console: Console) -> None:
    _print_title(console, "LangChain: prompt | model | parser, streamed")
    prompt = ChatPromptTemplate.from_messages([("human", "{question}")])
    chain = prompt | ChatBailianApp(**_fields(settings)) | StrOutputParser()
    with RunView(console, label=_LABEL) as view:
        for text in chain.stream({"question": QUESTION}, {"callbacks": [_LangChainSteps(view)]}):
            view.write(text)


def _llamaindex_query_engine(settings: AppSettings, console: Console) -> None:
    _print_title(console, "LlamaIndex: a query engine over a VectorStoreIndex, streamed")
    index = VectorStoreIndex.from_documents(
        [Document(text=note) for note in NOTES], embed_model=MockEmbedding(embed_dim=8)
    )
    # LlamaIndex adds a system message, which a workflow reads in a prompt only.
    llm = BailianAppLLM(**_fields(settings), history_format="prompt", step_events=True)
    engine = index.as_query_engine(llm=llm, streaming=True)
    with RunView(console, label=_LABEL) as view, _llamaindex_steps(view):
        response: Any = engine.query(QUESTION)
        for text in response.response_gen:
            view.write(text)
    print_note(console, f"answered from {len(response.source_nodes)} retrieved notes")


async def _agent_tool(settings: AppSettings, console: Console) -> AppResult:
    _print_title(console, "An agent calls the app as its tool")
    app = BailianApp(settings)
    results: list[AppResult] = []
    errors: list[BailianError] = []

    async def travel_app(question: str) -> str:
        """Ask the travel app about dishes and sights of a city."""
        try:
            with RunView(console, label=_LABEL) as view:
                async for event in app.astream(question):
                    view.show(event)
                    if isinstance(event, RunFinished):
                        results.append(event.result)
        except BailianError as error:
            errors.append(error)  # the agent would take it for the tool's answer
            raise
        return results[-1].text

    tool = FunctionTool.from_defaults(async_fn=travel_app)
    agent = ReActAgent(tools=[tool], llm=_ScriptedLLM(), streaming=False)
    print_note(console, "The agent's own model is scripted here; any LLM can take its place.")
    # The overload that pyright picks is another one than the keyword's, which is not deprecated.
    answer = await agent.run(user_msg=QUESTION)  # pyright: ignore[reportDeprecated]
    if errors:
        raise errors[0]
    print_note(console, f"the agent's answer: {answer}")
    return results[-1]


class _ScriptedLLM(CustomLLM):
    """The agent's own model: calls the tool once, then repeats its answer."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="scripted")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:
        last_words = prompt.rpartition("\nuser: ")[2]
        if last_words.startswith("Observation: "):
            answer = last_words.removeprefix("Observation: ").partition("\nassistant:")[0].strip()
            return CompletionResponse(text=f"Thought: I can answer.\nAnswer: {answer}")
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


class _LangChainSteps(BaseCallbackHandler):
    """Shows the steps that LangChain's callbacks report."""

    run_inline = True

    def __init__(self, view: RunView) -> None:
        self._view = view

    @override
    def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        if name != STEP_TYPE:
            return
        if data["event"] == "delta":
            text = data.get("text") or data.get("reasoning", "")
            self._view.show_text(data["step"]["id"], text)
        elif (step := step_of_event(data)) is not None:
            self._view.show_step(step)


class _LlamaIndexSteps(BaseEventHandler):
    """Shows the steps that LlamaIndex's instrumentation reports."""

    view: Any  # a RunView; pydantic has no schema for it

    @override
    def handle(self, event: BaseEvent, **_: Any) -> None:
        if not isinstance(event, BailianAppStepEvent):
            return
        if event.phase == "delta":
            self.view.show_text(event.step["id"], event.text or event.reasoning)
        else:
            self.view.show_step(Step.from_dict(event.step))


@contextmanager
def _llamaindex_steps(view: RunView) -> Generator[None]:
    """Show, within the block, the steps of whatever LlamaIndex runs."""
    handler = _LlamaIndexSteps(view=view)
    root = get_dispatcher()
    root.add_event_handler(handler)
    try:
        yield
    finally:
        root.event_handlers.remove(handler)


def _print_title(console: Console, text: str) -> None:
    console.print()
    console.print(Rule(f"[bold cyan]{escape(text)}", align="left", style="cyan"))
