"""A program of a user of LangChain, in which type checkers find nothing in strict mode."""

from __future__ import annotations

import asyncio

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable
from pydantic import BaseModel

from bailian_apps import AppResult, BailianError, Client
from bailian_apps.langchain import (
    BailianAppRetriever,
    BailianAppRunnable,
    BailianAppTool,
    ChatBailianApp,
    StepPrinter,
)


class Trip(BaseModel):
    city: str


class MyChat(ChatBailianApp):
    tone: str = "kind"


def chat(base_url: str, client: Client) -> None:
    model = ChatBailianApp(
        model="a", api_key="k", base_url=base_url, stop=["END"], tags=["t"], client=client
    )
    message: AIMessage = model.invoke("hi", session_id=None, temperature=0.1, stop=["END"])
    again: AIMessage = model.bind(temperature=0.2, stop=["END"]).invoke(
        [message, HumanMessage("hi")]
    )
    quiet: AIMessage = model.with_config({"tags": ["t"]}).invoke("hi")
    several: list[AIMessage] = model.batch(["one", "two"], max_retries=0, model="b")
    text: str = "".join(chunk.text for chunk in model.stream("hi", biz_params={"city": "Hangzhou"}))
    chain: Runnable[str, str] = model | StrOutputParser()
    print(again.text, quiet.text, len(several), text, chain.invoke("hi"), model.model, model.app_id)
    model.model = "b"
    print(MyChat(app_id="a", api_key="k", base_url=base_url, tone="dry").invoke("hi").text)
    try:
        model.invoke("fail", {"callbacks": [StepPrinter()]}, max_retries=0)
    except BailianError as error:
        again_later: bool = error.is_retryable
        print(error.code, again_later)


def others(base_url: str) -> None:
    runnable = BailianAppRunnable(app_id="a", api_key="k", base_url=base_url)
    result: AppResult = runnable.invoke({"prompt": "hi", "city": "Hangzhou"}, model="b")
    typed = BailianAppRunnable[Trip](
        app_id="json", api_key="k", base_url=base_url, output_schema=Trip, biz_params_schema=Trip
    )
    plan = {"prompt": "hi", "city": "Hangzhou"}
    trip: Trip = typed.invoke(plan, temperature=0.1)
    trips: list[Trip] = typed.batch([plan], seed=1)
    bound: Trip = typed.bind(seed=1).invoke(plan)
    for grown in typed.stream(plan):
        print(grown.city)
    print(result.text, trip.city, trips[0].city, bound.city)
    tool = BailianAppTool(
        app_id="a",
        api_key="k",
        base_url=base_url,
        name="travel",
        description="Plans trips.",
        biz_params_schema=Trip,
        remember=True,
        return_direct=True,
        handle_tool_error=False,
    )
    print(tool.name, tool.invoke({"prompt": "hi", "city": "Hangzhou"}))
    retriever = BailianAppRetriever(
        model="a", api_key="k", base_url=base_url, k=3, rag_options={"pipeline_ids": ["p"]}
    )
    documents: list[Document] = retriever.invoke("hi", k=2, documents="cited")
    print(documents, retriever.bind(k=1).invoke("hi"))


async def later(base_url: str) -> AppResult:
    model = ChatBailianApp(app_id="a", api_key="k", base_url=base_url)
    message: AIMessage = await model.ainvoke("hi", image_list=[b"\x89PNG\r\n\x1a\n0"])
    async for chunk in model.astream([message, HumanMessage("hi")], thoughts=False):
        print(chunk.text)
    retriever = BailianAppRetriever(app_id="a", api_key="k", base_url=base_url)
    documents: list[Document] = await retriever.ainvoke("hi", documents="retrieved")
    runnable = BailianAppRunnable(app_id="a", api_key="k", base_url=base_url)
    async for result in runnable.astream("hi", seed=1):
        print(result.text, documents)
    return await runnable.ainvoke("hi")


def main(base_url: str) -> None:
    with Client() as client:
        chat(base_url, client)
    others(base_url)
    print(asyncio.run(later(base_url)).text)
