"""`bailian-apps demo`: one app in LangChain, in LlamaIndex and as an agent's tool.

Each asks it for something else; its steps are shown as they happen.
"""

# LlamaIndex leaves parts of its own interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, LLMResult
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
from bailian_apps.cli.view import RunView, print_note, screen_text
from bailian_apps.core.errors import BailianError
from bailian_apps.core.events import RunFinished
from bailian_apps.core.language import N_, _, language, ngettext, translated
from bailian_apps.core.result import AppResult, Step
from bailian_apps.core.settings import AppSettings
from bailian_apps.langchain import ChatBailianApp
from bailian_apps.langchain.blocks import STEP_TYPE
from bailian_apps.langchain.printer import step_of_event
from bailian_apps.llamaindex import BailianAppLLM, BailianAppStepEvent
from bailian_apps.terminal import format_tokens

NOTES = (
    N_("We arrive on Friday evening, and stay in a hotel by West Lake."),
    N_("Li eats no fish. Everyone likes Dongpo pork."),
)
_LABEL = N_("answer: ")
_PRICE = re.compile(r"(\d+) (?:yuan|元)")


def run_demo(console: Console, *, pace: float) -> None:
    """Run the whole demo; `console` writes to standard output, as the answers do."""
    with _settings(console, pace) as settings:
        _langchain_chain(settings, console)
        _llamaindex_query_engine(settings, console)
        result = asyncio.run(_agent_tool(settings, console))
    _print_title(console, _("The agent's call of the app, as a picture"))
    usage = result.usage
    tokens = format_tokens(usage.input_tokens, usage.output_tokens)
    steps = ngettext("{count} step", "{count} steps", len(result.steps))
    print_note(console, _(", ").join((steps, tokens)))
    print_note(console, _("Open {path} in a browser.").format(path=_save_picture(result)), "")


def _save_picture(result: AppResult) -> Path:
    handle, name = tempfile.mkstemp(prefix="bailian-demo-", suffix=".html")
    os.close(handle)
    result.to_html(name)
    return Path(name)


@contextmanager
def _settings(console: Console, pace: float) -> Generator[AppSettings]:
    """The app on the cloud if key and app id are set; else a scenario, in an emulator."""
    given = [name for name in ("DASHSCOPE_API_KEY", "BAILIAN_APP_ID") if os.environ.get(name)]
    if len(given) == 2:
        settings = BailianApp().settings
        text = _("App [bold]{id}[/] on the cloud.")
        console.print(text.format(id=escape(settings.app_id)))
        yield settings
        return
    from bailian_apps.emulator import Emulator, load_apps

    why = _("only {name} is set").format(name=given[0]) if given else _("no key is needed")
    text = _(
        "A travel workflow, emulated on this machine ({why}). "
        "Set DASHSCOPE_API_KEY and BAILIAN_APP_ID to run your app on the cloud."
    )
    print_note(console, text.format(why=why), "")
    apps = load_apps(Path(__file__).with_name(f"demo.{language()}.yaml"))
    with Emulator(apps=apps, pace=pace) as emulator:
        yield AppSettings.model_validate(
            {"app_id": "travel", "api_key": "demo", "base_url": emulator.base_url}
        )


# ------------------------------------------------------------------ three ways


def _langchain_chain(settings: AppSettings, console: Console) -> None:
    _print_title(console, _("LangChain: a chain, prompt | model | parser, plans a day"))
    prompt = ChatPromptTemplate.from_messages([("human", _("Plan a day in {city} for {guests}."))])
    chain = prompt | ChatBailianApp(**_fields(settings)) | StrOutputParser()
    trip = {"city": _("Hangzhou"), "guests": _("two friends")}
    with RunView(console, label=translated(_LABEL)) as view:
        handler = _LangChainSteps(view)
        for text in chain.stream(trip, {"callbacks": [handler]}):
            view.write(screen_text(text))
    _print_documents(handler.steps, console)
    print_note(console, handler.tokens)


def _llamaindex_query_engine(settings: AppSettings, console: Console) -> None:
    _print_title(console, _("LlamaIndex: a query engine asks about your own notes"))
    index = VectorStoreIndex.from_documents(
        [Document(text=translated(note)) for note in NOTES], embed_model=MockEmbedding(embed_dim=8)
    )
    # LlamaIndex adds a system message, which a workflow reads in a prompt only.
    llm = BailianAppLLM(**_fields(settings), history_format="prompt", step_events=True)
    engine = index.as_query_engine(llm=llm, streaming=True)
    with RunView(console, label=translated(_LABEL)) as view, _llamaindex_steps(view):
        response: Any = engine.query(_("Where should we eat?"))
        for text in response.response_gen:
            view.write(text)
    for source in response.source_nodes:
        print_note(console, _("your note: {text}").format(text=source.node.get_content()))


async def _agent_tool(settings: AppSettings, console: Console) -> AppResult:
    _print_title(console, _("An agent calls the app as one of its tools, and adds up"))
    app = BailianApp(settings)
    results: list[AppResult] = []
    errors: list[BailianError] = []

    async def travel_app(question: str) -> str:
        """Ask the travel app about sights, restaurants and prices."""
        try:
            with RunView(console, label=translated(_LABEL)) as view:
                async for event in app.astream(question):
                    view.show(event)
                    if isinstance(event, RunFinished):
                        results.append(event.result)
        except BailianError as error:
            errors.append(error)  # the agent would take it for the tool's answer
            raise
        return results[-1].text

    def add_up(numbers: list[float]) -> str:
        """Add up numbers."""
        return f"{sum(numbers):g}"

    tools = [FunctionTool.from_defaults(async_fn=travel_app), FunctionTool.from_defaults(add_up)]
    agent = ReActAgent(tools=tools, llm=_ScriptedLLM(), streaming=False)
    scripted = _("The agent's own model is scripted here; any LLM can take its place.")
    print_note(console, scripted)
    # The overload that pyright picks is another one than the keyword's, which is not deprecated.
    answer = await agent.run(user_msg=_("What do the tickets cost?"))  # pyright: ignore[reportDeprecated]
    if errors:
        raise errors[0]
    print_note(console, _("the agent's answer: {text}").format(text=answer))
    return results[-1]


class _ScriptedLLM(CustomLLM):
    """The agent's own model: asks the app for prices, adds them up, and answers."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="scripted")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        seen = re.split(r"\n\w+: Observation: ", prompt)[1:]
        observations = [each.partition("\nassistant:")[0].strip() for each in seen]
        prices = _PRICE.findall(observations[0]) if observations else []
        if not observations:
            thought, action = _("I need the prices."), "travel_app"
            arguments = {"question": _("What do the tickets cost in Hangzhou?")}
        elif prices and len(observations) == 1:
            thought, action = _("I add them up."), "add_up"
            arguments = {"numbers": [int(price) for price in prices]}
        else:
            thought, answer = _("I can answer."), observations[0]
            if prices:
                total = _("{prices} = {total} yuan for each person.")
                answer = total.format(prices=" + ".join(prices), total=observations[-1])
            return CompletionResponse(text=f"Thought: {thought}\nAnswer: {answer}")
        given = json.dumps(arguments, ensure_ascii=False)
        return CompletionResponse(
            text=f"Thought: {thought}\nAction: {action}\nAction Input: {given}"
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
        self.steps: dict[str, Step] = {}
        self.tokens = ""  # of the run: nodes that run together hide whose they are

    @override
    def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        if name != STEP_TYPE:
            return
        if data["event"] == "delta":
            text = data.get("text") or data.get("reasoning", "")
            self._view.show_text(data["step"]["id"], text)
        elif (step := step_of_event(data)) is not None:
            self.steps[step.id] = step
            self._view.show_step(step)

    @override
    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        generation = response.generations[0][0]
        message = generation.message if isinstance(generation, ChatGeneration) else None
        if isinstance(message, AIMessage) and (usage := message.usage_metadata):
            self.tokens = format_tokens(usage["input_tokens"], usage["output_tokens"])


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


def _print_documents(steps: Mapping[str, Step], console: Console) -> None:
    """Print the documents that the retrievals among the steps found."""
    for step in steps.values():
        for document in step.documents:
            named = f"[{document.index_id}] {document.title or document.doc_name}"
            print_note(console, _(": ").join((named, document.text)))


def _print_title(console: Console, text: str) -> None:
    console.print()
    console.print(Rule(f"[bold cyan]{escape(text)}", align="left", style="cyan"))
