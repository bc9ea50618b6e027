"""A program of a user of `BailianApp`, in which type checkers find nothing in strict mode."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel, SecretStr

from bailian_apps import (
    AppResult,
    AppSettings,
    BailianApp,
    BailianError,
    Client,
    HistoryTemplate,
    RateLimitError,
    RunFinished,
    TextDelta,
    Timeout,
)


class Variables(BaseModel):
    city: str


async def read_key() -> str:
    return "st-1"


def settings(base_url: str) -> AppSettings:
    headers: dict[str, str] = {"X-Trace": "1"}
    made = AppSettings(
        app_id="a",
        api_key="k",
        base_url=base_url,
        flow_stream_mode="message_format",
        extra_headers=headers,
        mcp_servers=["one"],
        secret_biz_params=["pin"],
        timeout=Timeout(first_frame_s=60),
        history_template=HistoryTemplate(user="User: {text}"),
    )
    made.temperature = 0.5
    return made


def keys() -> list[AppSettings]:
    return [
        AppSettings(app_id="a", api_key=SecretStr("k")),
        AppSettings(app_id="a", api_key=lambda: "k"),
        AppSettings(app_id="a", api_key=read_key, flow_stream_mode="a_new_mode"),
    ]


def main(base_url: str) -> None:
    with Client() as client:
        calls(BailianApp(settings(base_url), timeout=30, client=client))
    print(asyncio.run(talk(base_url)).text, len(keys()))


def calls(app: BailianApp) -> None:
    result: AppResult = app.invoke("hi", biz_params={"city": "Hangzhou"}, temperature=0.1)
    for event in app.stream(
        "and then?", session_id=result.session_id, image_list=[b"\x89PNG\r\n\x1a\n0"]
    ):
        if isinstance(event, TextDelta):
            print(event.text)
    said = [{"role": "user", "content": "hi"}]
    answer: str = app.invoke(messages=said, history_template={"user": "User: {text}"}).text
    usage: int | None = result.usage.total_tokens
    print(answer, usage)
    try:
        app.invoke("fail", idempotent=True, max_retries=0)
    except RateLimitError as error:
        seconds: float | None = error.retry_after_s
        print(seconds, error.is_retryable)
    except BailianError as error:
        again: bool = error.is_retryable
        print(error.code, error.request_id, again, error.partial and error.partial.text)


async def talk(base_url: str) -> AppResult:
    app = BailianApp(app_id="a", api_key=read_key, base_url=base_url)
    result = await app.ainvoke("hi", file_list=["https://example.com/a.pdf"])
    async for event in app.astream("hi", enable_thinking=True):
        if isinstance(event, RunFinished):
            result = event.result
    return result
