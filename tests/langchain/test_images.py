"""Images of this machine in LangChain: every form of block, every class, and no trace of megabytes."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from pydantic import BaseModel
from support.images import IMAGES, PNG, data_url, encoded

from bailian_apps import InvalidInputError
from bailian_apps.langchain import BailianAppRunnable, BailianAppTool


@pytest.fixture
def cloud(start_cloud: Any) -> Any:
    return start_cloud(app=lambda call: "ok")


URL = data_url(PNG)
SHORT = "data:image/png;base64,… (24 bytes)"
BLOCKS: dict[str, Any] = {
    "v1": {"type": "image", "base64": encoded(PNG), "mime_type": "image/png"},
    "v1 of another type": {"type": "image", "base64": encoded(PNG), "mime_type": "image/jpeg"},
    "v1 with a Data URL": {"type": "image", "url": URL},
    "v0": {
        "type": "image", "source_type": "base64", "data": encoded(PNG), "mime_type": "image/png"
    },
    "OpenAI's": {"type": "image_url", "image_url": {"url": URL}},
    "OpenAI's as text": {"type": "image_url", "image_url": URL},
    "OpenAI's Responses": {"type": "input_image", "image_url": URL},
    "Anthropic's": {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": encoded(PNG)},
    },
    "DashScope's": {"image": URL},
}  # fmt: skip


@pytest.mark.parametrize("form", BLOCKS)
def test_a_block_in_any_form_is_sent_as_a_data_url(
    form: str, ask: Any, cloud: Any, make_model: Any
) -> None:
    ask(make_model(cloud), [HumanMessage(["What is this?", BLOCKS[form]])])
    assert cloud.requests[0].input == {"prompt": "What is this?", "image_list": [URL]}


def test_images_of_a_call_follow_those_of_its_message(
    ask: Any, cloud: Any, make_model: Any, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(IMAGES["image/gif"])
    images = [tmp_path / "a", IMAGES["image/bmp"], "https://example.com/a.png"]
    ask(make_model(cloud), [HumanMessage(["hi", BLOCKS["v1"]])], image_list=images)
    assert cloud.requests[0].input["image_list"] == [
        URL,
        data_url(IMAGES["image/gif"], "image/gif"),
        data_url(IMAGES["image/bmp"], "image/bmp"),
        "https://example.com/a.png",
    ]


def test_an_image_of_a_tools_result_is_sent(ask: Any, cloud: Any, make_model: Any) -> None:
    call = {"id": "1", "name": "camera", "args": {}}
    messages = [
        HumanMessage("look"),
        AIMessage("", tool_calls=[call]),
        ToolMessage([{"type": "text", "text": "seen"}, BLOCKS["v1"]], tool_call_id="1"),
    ]
    ask(make_model(cloud), messages)
    assert cloud.requests[0].input["image_list"] == [URL]


@pytest.mark.parametrize(
    ("kwargs", "field"),
    [
        ({"image_list": [Path("/no/such.png")]}, "image_list[0]"),
        ({"image_list": ["https://a", b"text"]}, "image_list[1]"),
        ({"image_list": ["lake.png"]}, "image_list[0]"),
    ],
)
def test_an_error_names_the_image_of_the_call(
    ask: Any, cloud: Any, make_model: Any, kwargs: Any, field: str
) -> None:
    """By its own index, whatever the messages hold."""
    with pytest.raises(InvalidInputError) as caught:
        ask(make_model(cloud), [HumanMessage(["hi", BLOCKS["v1"]])], **kwargs)
    assert caught.value.field == field
    assert cloud.requests == []


def test_an_error_names_the_block_of_a_message(ask: Any, cloud: Any, make_model: Any) -> None:
    data = encoded(b"%PDF-1.7 and more")
    pdf = {"type": "image", "base64": data, "mime_type": "image/png"}
    messages = [
        HumanMessage("hi"),
        AIMessage("ho"),
        HumanMessage(["look", pdf]),
    ]
    with pytest.raises(InvalidInputError, match="not an image of a known type") as caught:
        ask(make_model(cloud), messages)
    assert caught.value.field == "messages[2].content[1]"
    assert cloud.requests == []


def test_an_image_goes_once_into_a_session_and_again_with_the_history(
    ask: Any, cloud: Any, make_model: Any
) -> None:
    """As an image with an address does."""
    model = make_model(cloud)
    messages: list[Any] = [HumanMessage(["look", BLOCKS["v1"]])]
    messages += [ask(model, messages), HumanMessage("and?")]
    messages.append(ask(model, messages))
    assert "image_list" not in cloud.requests[1].input
    assert cloud.requests[1].session_id
    # The same picture in another form is the same message; another picture is an edit.
    messages[0] = HumanMessage(["look", BLOCKS["OpenAI's"]])
    ask(model, [*messages, HumanMessage("and?")])
    assert cloud.requests[2].session_id
    gif = {"type": "image", "base64": encoded(IMAGES["image/gif"]), "mime_type": "image/gif"}
    messages[0] = HumanMessage(["look", gif])
    ask(model, [*messages, HumanMessage("and?")])
    assert [message["role"] for message in cloud.requests[3].messages] == [
        "user", "assistant", "user", "assistant", "user"
    ]  # fmt: skip
    assert cloud.requests[3].input["image_list"] == [data_url(IMAGES["image/gif"], "image/gif")]


def test_a_trace_shows_the_type_and_the_size_of_an_image(
    ask: Any, cloud: Any, make_model: Any, log: Any, tmp_path: Path
) -> None:
    images = [PNG, URL, tmp_path / "a.png", "https://example.com/a.png"]
    (tmp_path / "a.png").write_bytes(PNG)
    ask(make_model(cloud), "hi", {"callbacks": [log]}, image_list=images)
    shown = str(log.seen)
    assert f"['{SHORT}', '{SHORT}', '{tmp_path / 'a.png'}', 'https://example.com/a.png']" in shown
    assert encoded(PNG) not in shown
    assert len(cloud.requests[0].input["image_list"]) == 4


def test_a_cached_answer_is_that_of_the_same_image(ask: Any, cloud: Any, make_model: Any) -> None:
    model = make_model(cloud, cache=InMemoryCache())
    other = bytearray(PNG)
    other[-1] = 1  # of the same type and size
    for image in (PNG, bytes(other), PNG):
        model.invoke("hi", image_list=[image])
    assert len(cloud.requests) == 2


def test_a_runnable_takes_images_and_traces_their_size(
    cloud: Any, fields_of: Any, log: Any
) -> None:
    app = BailianAppRunnable(**fields_of(cloud))
    app.invoke({"prompt": "hi", "image_list": [PNG]}, {"callbacks": [log]})
    app.invoke([HumanMessage(["hi", BLOCKS["v1"]])])
    assert [request.input["image_list"] for request in cloud.requests] == [[URL], [URL]]
    assert cloud.requests[0].biz_params == {}
    assert SHORT in str(log.seen)


class Arguments(BaseModel):
    city: str
    image_list: list[Any]
    file_list: list[str] = []


@pytest.mark.parametrize("path", ["invoke", "ainvoke"])
def test_a_tool_takes_images_by_a_field_of_its_schema(
    path: str, cloud: Any, fields_of: Any, log: Any
) -> None:
    tool = BailianAppTool(
        **fields_of(cloud), name="t", description="d", biz_params_schema=Arguments
    )
    arguments = {"prompt": "hi", "city": "杭州", "image_list": [PNG]}
    config = {"callbacks": [log]}
    if path == "invoke":
        tool.invoke(arguments, config)
    else:
        asyncio.run(tool.ainvoke(arguments, config))
    sent = cloud.requests[0].input
    assert (sent["biz_params"], sent["image_list"]) == ({"city": "杭州"}, [URL])
    assert "file_list" not in sent
    shown = str(log.seen)
    assert SHORT in shown
    assert encoded(PNG) not in shown


def test_an_async_call_reads_a_file_in_another_thread(
    cloud: Any, make_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading and encoding megabytes would block every other task of the loop."""
    (tmp_path / "a.png").write_bytes(PNG)
    readers: list[threading.Thread] = []
    read_bytes = Path.read_bytes

    def noted(path: Path) -> bytes:
        readers.append(threading.current_thread())
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", noted)
    asyncio.run(make_model(cloud).ainvoke("hi", image_list=[tmp_path / "a.png"]))
    assert readers
    assert threading.main_thread() not in readers


def test_a_refused_image_leaves_the_session_as_it_was(
    ask: Any, cloud: Any, make_model: Any
) -> None:
    model = make_model(cloud)
    messages: list[Any] = [HumanMessage("hi")]
    messages += [ask(model, messages), HumanMessage("look")]
    with pytest.raises(InvalidInputError, match="does not exist"):
        ask(model, messages, image_list=[Path("/no/such.png")])
    ask(model, messages)
    assert [bool(request.session_id) for request in cloud.requests] == [False, True]


def test_a_history_in_one_prompt_keeps_its_images(ask: Any, cloud: Any, make_model: Any) -> None:
    messages = [HumanMessage(["look", BLOCKS["v1"]]), AIMessage("seen"), HumanMessage("and?")]
    ask(make_model(cloud, history_mode="messages", history_format="prompt"), messages)
    sent = cloud.requests[0].input
    assert sent["image_list"] == [URL]
    assert "look" in sent["prompt"]
