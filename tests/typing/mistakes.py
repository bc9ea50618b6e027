"""Calls that a type checker has to refuse, each in one line; nothing else is wrong.

The plugin of pydantic for mypy checks no types of a constructor, unless its `init_typed` is set.
"""

from __future__ import annotations

from bailian_apps import AppSettings, BailianApp, Timeout
from bailian_apps.langchain import (
    BailianAppRetriever,
    BailianAppRunnable,
    BailianAppTool,
    ChatBailianApp,
)
from bailian_apps.llamaindex import (
    BailianAppAgent,
    BailianAppChatEngine,
    BailianAppLLM,
    BailianAppQueryEngine,
    bailian_app_tool,
)
from bailian_apps.llamaindex import BailianAppRetriever as LlamaIndexRetriever


def constructors() -> None:
    AppSettings(app_idd="a")  # wrong
    AppSettings(app_id="a", api_key=5)  # wrong type
    AppSettings(app_id="a", mcp_servers="one")  # wrong type
    Timeout(conect_s=1)  # wrong
    BailianApp(app_idd="a")  # wrong
    BailianApp(AppSettings(app_id="a"), temprature=1)  # wrong
    ChatBailianApp(app_idd="a")  # wrong
    ChatBailianApp(modle="a")  # wrong
    BailianAppRunnable(app_idd="a")  # wrong
    BailianAppTool(app_idd="a", name="t", description="d")  # wrong
    BailianAppTool(app_id="a", name="t")  # wrong
    BailianAppRetriever(app_idd="a")  # wrong
    BailianAppLLM(app_idd="a")  # wrong
    BailianAppLLM(app_id="a", contxt_window=1)  # wrong


def factories() -> None:
    BailianAppQueryEngine.from_defaults(app_idd="a")  # wrong
    BailianAppQueryEngine.from_defaults(app_id="a", temprature=1)  # wrong
    BailianAppChatEngine.from_defaults(app_idd="a")  # wrong
    LlamaIndexRetriever.from_defaults(app_idd="a")  # wrong
    BailianAppLLM.from_app_or_llm(app_idd="a")  # wrong
    bailian_app_tool(app_idd="a", name="t", description="d")  # wrong
    BailianAppAgent(app_idd="a")  # wrong
    BailianAppAgent(app_id="a", tools=[])  # wrong


def core_calls(app: BailianApp, settings: AppSettings) -> None:
    app.invoke("hi", sesion_id="s")  # wrong
    app.stream("hi", sesion_id="s")  # wrong
    app.astream("hi", sesion_id="s")  # wrong
    app.invoke(mesages=[])  # wrong
    settings.temprature = 1  # wrong
    settings.temperature = "warm"  # wrong


def langchain_calls(
    chat: ChatBailianApp, app: BailianAppRunnable, retriever: BailianAppRetriever
) -> None:
    chat.invoke("hi", sesion_id="s")  # wrong
    chat.stream("hi", sesion_id="s")  # wrong
    chat.generate([[]], sesion_id="s")  # wrong
    chat.astream("hi", sesion_id="s")  # wrong
    chat.batch(["hi"], temprature=1)  # wrong
    chat.bind(temprature=1)  # wrong
    app.invoke("hi", sesion_id="s")  # wrong
    app.stream("hi", sesion_id="s")  # wrong
    app.batch(["hi"], temprature=1)  # wrong
    app.bind(temprature=1)  # wrong
    retriever.invoke("hi", kk=1)  # wrong
    retriever.batch(["hi"], kk=1)  # wrong
    retriever.bind(kk=1)  # wrong


def llamaindex_calls(llm: BailianAppLLM, engine: BailianAppChatEngine) -> None:
    llm.chat([], sesion_id="s")  # wrong
    llm.stream_chat([], sesion_id="s")  # wrong
    llm.complete("hi", temprature=1)  # wrong
    llm.stream_complete("hi", temprature=1)  # wrong
    engine.chat("hi", sesion_id="s")  # wrong
    engine.stream_chat("hi", sesion_id="s")  # wrong


async def async_calls(
    app: BailianApp, chat: ChatBailianApp, llm: BailianAppLLM, engine: BailianAppChatEngine
) -> None:
    await app.ainvoke("hi", sesion_id="s")  # wrong
    await chat.ainvoke("hi", sesion_id="s")  # wrong
    await chat.abatch(["hi"], temprature=1)  # wrong
    await chat.agenerate([[]], sesion_id="s")  # wrong
    await llm.achat([], sesion_id="s")  # wrong
    await llm.astream_chat([], sesion_id="s")  # wrong
    await llm.acomplete("hi", temprature=1)  # wrong
    await llm.astream_complete("hi", temprature=1)  # wrong
    await engine.achat("hi", sesion_id="s")  # wrong
    await engine.astream_chat("hi", sesion_id="s")  # wrong
