"""Configurable fields, rate limits, the profile, dumps and parsers."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumpd, dumps
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import PydanticOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import ConfigurableField
from pydantic import BaseModel, model_validator
from support import recordings

from bailian_apps import InvalidInputError
from bailian_apps.emulator import Call
from bailian_apps.langchain import ChatBailianApp

WORKFLOW = recordings.FOLDER / "workflow-two-llm-fixed-end.sse"
SESSION = ConfigurableField(id="bailian_session_id")


@pytest.fixture
def cloud(start_cloud: Any) -> Any:
    return start_cloud(app=WORKFLOW, other=WORKFLOW)


def test_the_session_is_a_configurable_field(ask: Any, cloud: Any, make_model: Any) -> None:
    model = make_model(cloud).configurable_fields(session_id=SESSION)
    first = ask(model)
    session_id = first.response_metadata["session_id"]
    ask(model, "more", {"configurable": {"bailian_session_id": session_id}})
    # RunnableWithMessageHistory's own key is another thing.
    ask(model, "hi", {"configurable": {"session_id": "local"}})
    sent = [request.body["input"].get("session_id") for request in cloud.requests]
    assert sent == [None, session_id, None]


def test_the_session_of_a_call_overrides_the_configured_session(
    ask: Any, cloud: Any, make_model: Any
) -> None:
    ask(make_model(cloud, session_id="field"), "hi", session_id="call")
    assert cloud.requests[0].body["input"]["session_id"] == "call"


def test_settings_and_apps_are_configurable(ask: Any, cloud: Any, make_model: Any) -> None:
    model = make_model(cloud).configurable_fields(temperature=ConfigurableField(id="heat"))
    ask(model, "hi", {"configurable": {"heat": 0.25}})
    either = make_model(cloud).configurable_alternatives(
        ConfigurableField(id="app"), default_key="app", other=make_model(cloud, app_id="other")
    )
    ask(either, "hi", {"configurable": {"app": "other"}})
    first, second = cloud.requests
    assert first.body["parameters"]["temperature"] == 0.25
    assert second.app_id == "other"


class Counter(BaseRateLimiter):
    """Counts acquisitions; refuses the third."""

    def __init__(self) -> None:
        self.asked = 0

    def acquire(self, *, blocking: bool = True) -> bool:
        self.asked += 1
        if self.asked > 2:
            raise RuntimeError("too many")
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        return self.acquire(blocking=blocking)


def test_the_rate_limiter_is_acquired_once_per_call(ask: Any, cloud: Any, make_model: Any) -> None:
    limiter = Counter()
    model = make_model(cloud, rate_limiter=limiter)
    ask(model)
    ask(model)
    with pytest.raises(RuntimeError, match="too many"):
        ask(model)
    assert limiter.asked == 3
    assert len(cloud.requests) == 2


@pytest.mark.skipif(
    "profile" not in BaseChatModel.model_fields, reason="an older langchain-core has no profiles"
)
def test_the_profile_lists_images_and_reasoning_only() -> None:
    profile = ChatBailianApp(app_id="app").profile
    assert profile is not None
    able = {name for name, value in profile.items() if value}
    assert able == {"image_inputs", "image_url_inputs", "image_tool_message", "reasoning_output"}


def test_a_dump_holds_no_secret_and_can_be_read_again(make_model: Any) -> None:
    tokens = {"city": "x", "user_defined_tokens": {"t": {"user_token": "tok-very-secret"}}}
    model = make_model(WORKFLOW, biz_params=tokens, timeout={"total_s": 60})
    text = dumps(model)
    assert "tok-very" not in text
    assert "sk-secret" not in text
    kwargs = dumpd(model)["kwargs"]
    assert kwargs["api_key"] == {"lc": 1, "type": "secret", "id": ["DASHSCOPE_API_KEY"]}
    again = ChatBailianApp(**json.loads(text)["kwargs"] | {"api_key": "sk-secret-key"})
    assert again.biz_params == {"city": "x", "user_defined_tokens": "**********"}
    assert again.timeouts == model.timeouts


def test_copies_of_a_model_can_be_called(ask: Any, make_model: Any) -> None:
    model = make_model(WORKFLOW)
    for again in (copy.deepcopy(model), model.model_copy()):
        assert ask(again).text == recordings.expected_text(WORKFLOW.name)


class Trip(BaseModel):
    city: str
    dishes: list[str]


def test_a_prompt_and_a_parser_return_a_pydantic_object(
    ask: Any, start_cloud: Any, make_model: Any
) -> None:
    """As docs/en/langchain.md shows it."""

    def app(call: Call) -> list[Any]:
        assert '"dishes"' in call.prompt  # it received the schema
        answer = '```json\n{"city": "杭州", "dishes": ["东坡肉"]}\n```'
        return [
            *[
                {"output": {"text": part, "finish_reason": "null"}}
                for part in (answer[:9], answer[9:])
            ],
            {"output": {"text": "", "finish_reason": "stop"}},
        ]

    parser = PydanticOutputParser(pydantic_object=Trip)
    prompt = ChatPromptTemplate([("human", "{question}\n{format}")])
    model = make_model(app)
    chain = prompt.partial(format=parser.get_format_instructions()) | model | parser
    trip = Trip(city="杭州", dishes=["东坡肉"])
    assert chain.invoke({"question": "hi"}) == trip
    assert parser.invoke(ask(model, prompt.format_prompt(question="hi", format='"dishes"'))) == trip
    with pytest.raises(NotImplementedError, match="PydanticOutputParser"):
        model.with_structured_output(Trip)


def test_images_and_files_are_sent_as_urls(ask: Any, cloud: Any, make_model: Any) -> None:
    blocks: list[Any] = [
        {"type": "text", "text": "hi"},
        {"type": "image", "url": "https://example.com/a.png"},
        {"type": "image_url", "image_url": {"url": "https://example.com/b.png"}},
        {"type": "file", "url": "https://example.com/c.pdf"},
    ]
    model = make_model(cloud)
    ask(model, [HumanMessage(blocks)], image_list=["https://example.com/d.png"])
    assert cloud.requests[0].body["input"] == {
        "prompt": "hi",
        "image_list": [f"https://example.com/{name}.png" for name in "abd"],
        "file_list": ["https://example.com/c.pdf"],
    }
    audio = {"type": "audio", "url": "https://example.com/e.mp3"}
    with pytest.raises(
        InvalidInputError, match="a block of type 'audio', which an app cannot receive"
    ):
        ask(model, [HumanMessage([*blocks, audio])])


def test_validators_of_a_subclass_may_set_settings() -> None:
    class Capped(ChatBailianApp):
        @model_validator(mode="after")
        def _cap(self) -> Capped:
            self.temperature = min(self.temperature or 0.0, 0.5)
            if self.top_p == 0.75:
                raise ValueError("not this one")
            return self

    app = Capped(app_id="a", api_key="k", temperature=1.0)
    assert app.temperature == 0.5
    app.temperature = 0.9
    assert app.temperature == 0.5
    for name, value in (("top_p", 0.75), ("temperature", 9)):
        with pytest.raises(InvalidInputError):
            setattr(app, name, value)
        assert (app.top_p, app.temperature) == (None, 0.5)
