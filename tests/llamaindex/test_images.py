"""Images of this machine in LlamaIndex: blocks, documents, queries, tools, and no trace of megabytes."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path
from typing import Any, get_args

import pytest
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.schema import ImageDocument, ImageNode, QueryBundle
from pydantic import BaseModel
from support.images import IMAGES, PNG, data_url, encoded

from bailian_apps import InvalidInputError
from bailian_apps.emulator import Emulator
from bailian_apps.llamaindex import (
    BailianAppChatEngine,
    BailianAppQueryEngine,
    BailianAppRetriever,
    bailian_app_tool,
)

URL = data_url(PNG)
SHORT = "data:image/png;base64,… (24 bytes)"


def app(call: Any) -> str:
    return f"第{len(call.turns) + 1}轮"


def message(*blocks: Any) -> ChatMessage:
    return ChatMessage(role="user", blocks=[TextBlock(text="看"), *blocks])


def forms(folder: Path) -> dict[str, ImageBlock]:
    path = folder / "picture"
    path.write_bytes(PNG)
    return {
        "bytes": ImageBlock(image=PNG),
        "bytes of another type": ImageBlock(image=PNG, image_mimetype="image/jpeg"),
        "base64": ImageBlock(image=encoded(PNG).encode()),
        "base64 in lines": ImageBlock(image=base64.encodebytes(PNG)),
        "path": ImageBlock(path=path),
        "Data URL": ImageBlock(url=URL),
    }


@pytest.mark.parametrize(
    "form", ["bytes", "bytes of another type", "base64", "base64 in lines", "path", "Data URL"]
)
def test_a_block_in_any_form_is_sent_as_a_data_url(
    form: str, chat: Any, llm_of: Any, tmp_path: Path
) -> None:
    block = forms(tmp_path)[form]
    with Emulator(apps={"app": app}) as cloud:
        chat(llm_of(cloud), [message(block)])
        assert cloud.requests[0].input == {"prompt": "看", "image_list": [URL]}


@pytest.mark.skipif(
    io.IOBase not in get_args(ImageBlock.model_fields["image"].annotation),
    reason="an older llama-index-core has no blocks with streams",
)
def test_a_block_with_a_stream_is_read_from_its_start_each_time(chat: Any, llm_of: Any) -> None:
    question = message(ImageBlock(image=io.BytesIO(PNG)))
    with Emulator(apps={"app": app}) as cloud:
        for _ in range(2):
            chat(llm_of(cloud), [question])
        assert [request.input["image_list"] for request in cloud.requests] == [[URL], [URL]]


def test_images_of_a_call_may_be_those_of_llamaindex(ask: Any, llm_of: Any, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(PNG)
    images = [
        PNG,
        path,
        ImageBlock(image=PNG),
        ImageNode(image=encoded(PNG)),
        ImageNode(image_path=str(path)),
        ImageNode(image_url="https://example.com/a.png"),
        ImageDocument(image=encoded(PNG)),
        ImageDocument(image=f"{encoded(PNG)[:8]}\n{encoded(PNG)[8:]}"),
    ]
    with Emulator(apps={"app": app}) as cloud:
        ask(llm_of(cloud), "看", image_list=images)
        urls = [URL] * 5 + ["https://example.com/a.png", URL, URL]
        assert cloud.requests[0].input["image_list"] == urls


def test_an_error_names_the_block_of_a_message(ask: Any, llm_of: Any) -> None:
    history = [ChatMessage(content="一"), ChatMessage(role="assistant", content="二")]
    with Emulator(apps={"app": app}) as cloud:
        error = ask_chat(llm_of(cloud), [*history, message(ImageBlock(image=b"%PDF-1.7"))])
        assert error.field == "messages[2].blocks[1]"
        assert "is not an image of a known type" in str(error)
        error = ask(llm_of(cloud), "看", image_list=[URL, Path("/no/such.png")]).error
        assert error.field == "image_list[1]"
        assert cloud.requests == []


def ask_chat(llm: Any, messages: list[ChatMessage]) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        asyncio.run(llm.achat(messages))
    with pytest.raises(InvalidInputError, match="not an image"):
        llm.chat(messages)
    return caught.value


def test_an_image_goes_once_into_a_session_and_again_with_the_history(
    chat: Any, llm_of: Any, tmp_path: Path
) -> None:
    with Emulator(apps={"app": app}) as cloud:
        llm = llm_of(cloud)
        first = message(forms(tmp_path)["path"])
        history = [first]
        for _ in range(2):
            history += [chat(llm, history).last.message, ChatMessage(content="再问")]
        assert "image_list" not in cloud.requests[1].input
        chat(llm, history, history_mode="messages")
        assert cloud.requests[2].input["image_list"] == [URL]


@pytest.mark.parametrize("mode", ["query", "aquery", "retrieve", "aretrieve"])
@pytest.mark.parametrize("form", ["path", "address", "Data URL"])
def test_a_query_may_have_an_image(mode: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(PNG)
    image = {"path": str(path), "address": "https://example.com/a.png", "Data URL": URL}[form]
    kind = BailianAppQueryEngine if "query" in mode else BailianAppRetriever
    with Emulator(apps={"app": app}) as cloud:
        engine = kind.from_defaults(app_id="app", api_key="k", base_url=cloud.base_url)
        answer = getattr(engine, mode)(QueryBundle("这是什么？", image_path=image))
        if mode.startswith("a"):
            asyncio.run(answer)
        sent = image if form == "address" else URL
        assert cloud.requests[0].input == {"prompt": "这是什么？", "image_list": [sent]}


def test_a_query_with_a_missing_image_is_refused() -> None:
    with Emulator(apps={"app": app}) as cloud:
        engine = BailianAppQueryEngine.from_defaults(
            app_id="app", api_key="k", base_url=cloud.base_url
        )
        with pytest.raises(InvalidInputError, match="file that does not exist") as caught:
            engine.query(QueryBundle("这是什么？", image_path="/no/such.png"))
        assert caught.value.field == "query_bundle.image_path"
        assert cloud.requests == []


def test_a_chat_engine_takes_images_of_messages_and_of_calls(llm_of: Any) -> None:
    with Emulator(apps={"app": app}) as cloud:
        memory = ChatMemoryBuffer.from_defaults(token_limit=3000)
        engine = BailianAppChatEngine.from_defaults(llm=llm_of(cloud), memory=memory)
        engine.chat(message(ImageBlock(image=PNG)), image_list=[IMAGES["image/gif"]])
        assert cloud.requests[0].input["image_list"] == [
            URL, data_url(IMAGES["image/gif"], "image/gif")
        ]  # fmt: skip


class Arguments(BaseModel):
    city: str
    image_list: list[Any]


def test_a_tool_takes_images_by_a_field_of_its_schema() -> None:
    with Emulator(apps={"app": app}) as cloud:
        tool = bailian_app_tool(
            app_id="app",
            api_key="k",
            base_url=cloud.base_url,
            name="t",
            description="d",
            params=Arguments,
        )
        arguments: dict[str, Any] = {"prompt": "看", "city": "杭州", "image_list": [PNG]}
        output = tool.call(**arguments)
        asyncio.run(tool.acall(**arguments))
        for request in cloud.requests:
            assert request.biz_params == {"city": "杭州"}
            assert request.input["image_list"] == [URL]
    assert SHORT in str(output.raw_input)
    assert encoded(PNG) not in str(output.raw_input)


def test_a_span_shows_the_type_and_the_size_of_an_image(
    by_method: Any, llm_of: Any, spans: Any
) -> None:
    with Emulator(apps={"app": app}) as cloud:
        by_method("chat")(llm_of(cloud), image_list=[PNG, "https://a/b.png"])
        assert cloud.requests[0].input["image_list"] == [URL, "https://a/b.png"]
    assert spans.named("BailianApp.run").inputs["image_list"] == (SHORT, "https://a/b.png")
    assert encoded(PNG) not in str([note.inputs for note in spans.notes])
