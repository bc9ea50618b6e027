"""What a tool and a Runnable take: one meaning of `biz_params_schema`, and what an agent sees."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage
from langchain_core.rate_limiters import InMemoryRateLimiter
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_serializer,
)

from bailian_apps import InvalidInputError
from bailian_apps.langchain import (
    BailianAppRetriever,
    BailianAppRunnable,
    BailianAppTool,
    ChatBailianApp,
)


class Guest(BaseModel):
    name: str = Field(alias="姓名")


class Trip(BaseModel):
    city: str = Field(validation_alias=AliasChoices("town", "place"), serialization_alias="城市")
    days: int = Field(default=1, alias="天数")
    guest: Guest | None = None
    tags: list[str] = Field(default_factory=lambda: ["quiet"])
    pin: SecretStr | None = Field(default=None, alias="密码")

    @field_serializer("days")
    def _in_words(self, days: int) -> str:
        return f"{days} 天"


KINDS = ["tool", "runnable"]


@pytest.fixture
def cloud(start_cloud: Any) -> Any:
    return start_cloud(app=lambda call: "ok")


@pytest.fixture(params=[(kind, path) for kind in KINDS for path in ("invoke", "ainvoke")])
def send(request: pytest.FixtureRequest, cloud: Any, fields_of: Any) -> Any:
    """Calls a tool or a Runnable; returns the `biz_params` that the cloud received."""
    kind, path = request.param

    def send(given: Any, schema: Any = Trip, **more: Any) -> Any:
        fields = fields_of(cloud, biz_params_schema=schema, **more)
        if kind == "tool":
            called: Any = BailianAppTool(name="trip", description="Plans.", **fields)
        else:
            called = BailianAppRunnable(**fields)
        if path == "invoke":
            called.invoke(given)
        else:
            asyncio.run(called.ainvoke(given))
        return cloud.requests[-1].biz_params

    return send


DEFAULTS = {"天数": "1 天", "tags": ["quiet"]}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"city": "杭州"}, {"城市": "杭州", **DEFAULTS}),
        ({"town": "杭州", "days": 3}, {"城市": "杭州", **DEFAULTS, "天数": "3 天"}),
        ({"place": "杭州", "天数": "4"}, {"城市": "杭州", **DEFAULTS, "天数": "4 天"}),
        ({"城市": "杭州", "tags": []}, {"城市": "杭州", "天数": "1 天", "tags": []}),
        ({"city": "杭州", "guest": {"姓名": "Bo"}},
         {"城市": "杭州", **DEFAULTS, "guest": {"姓名": "Bo"}}),
        ({"city": "杭州", "pin": "1234"}, {"城市": "杭州", **DEFAULTS, "密码": "1234"}),
    ],
)  # fmt: skip
def test_a_field_is_accepted_by_name_or_alias_and_sent_under_its_alias(
    given: Any, sent: Any, send: Any
) -> None:
    assert send({"prompt": "hi", **given}) == sent


def test_biz_params_hold_values_of_fields_that_are_left_out(send: Any) -> None:
    fixed = {"城市": "苏州", "days": 5, "lang": "zh", "prompt": "another"}
    others = {"lang": "zh", "prompt": "another", "tags": ["quiet"]}
    of_fixed = {"城市": "苏州", "天数": "5 天", **others}
    for given in ("hi", {"prompt": "hi"}, {"prompt": "hi", "city": None}):
        assert send(given, biz_params=fixed) == of_fixed
    overridden = {"城市": "杭州", "天数": "2 天", **others}
    assert send({"prompt": "hi", "city": "杭州", "天数": 2}, biz_params=fixed) == overridden


def test_an_argument_that_is_none_is_not_sent_even_with_a_default(send: Any) -> None:
    class Optional(BaseModel):
        days: int | None = 7

    assert send({"prompt": "hi", "days": None}, Optional) == {}
    assert send({"prompt": "hi"}, Optional) == {"days": 7}


def test_a_path_into_a_list_is_an_alias_too(send: Any) -> None:
    class Route(BaseModel):
        start: str = Field(validation_alias=AliasPath("stops", 0))

    assert send({"prompt": "hi", "start": "A"}, Route) == {"start": "A"}


@pytest.mark.parametrize("given", ["hi", {"prompt": "hi", "days": 3}])
def test_a_missing_field_is_an_error_in_every_form_of_input(
    given: Any, send: Any, cloud: Any
) -> None:
    with pytest.raises((InvalidInputError, ValidationError), match=r"town|city"):
        send(given)
    assert cloud.requests == []


@pytest.fixture(params=["invoke", "ainvoke", "stream", "astream"])
def run(request: pytest.FixtureRequest, cloud: Any, fields_of: Any) -> Any:
    """Calls a Runnable on one of the four paths."""

    def run(given: Any, *, fields: Any = None, **kwargs: Any) -> Any:
        app: Any = BailianAppRunnable(**fields_of(cloud, **(fields or {})))

        async def collect() -> list[Any]:
            return [each async for each in app.astream(given, **kwargs)]

        if request.param == "stream":
            return list(app.stream(given, **kwargs))
        if request.param == "invoke":
            return app.invoke(given, **kwargs)
        is_stream = request.param == "astream"
        return asyncio.run(collect() if is_stream else app.ainvoke(given, **kwargs))

    return run


class City(BaseModel):
    city: str


@pytest.mark.parametrize("given", ["hi", [HumanMessage("hi")], HumanMessage("hi"), {"prompt": "h"}])
def test_messages_and_text_need_the_required_fields_too(given: Any, run: Any, cloud: Any) -> None:
    with pytest.raises(InvalidInputError, match="city is missing") as caught:
        run(given, fields={"biz_params_schema": City})
    assert "Pass a dict with 'prompt' and 'city'" in str(caught.value)
    assert cloud.requests == []
    run(given, fields={"biz_params_schema": City, "biz_params": {"city": "杭州"}})
    run(given, fields={"biz_params_schema": City}, biz_params={"city": "杭州"})
    assert [each.biz_params for each in cloud.requests] == [{"city": "杭州"}] * 2


@pytest.mark.parametrize(
    ("given", "got"),
    [
        ({"question": "my secret"}, "'question'"),
        ({"role": "user", "content": "my secret"}, "'role', 'content'"),
        ({"prompt": None, "city": "my secret"}, "'prompt' (None), 'city'"),
        ({}, "an empty dict"),
        ({f"k{n}": "my secret" for n in range(12)}, "'k9' and 2 more"),
    ],
)
def test_an_error_names_the_keys_and_never_the_values(
    given: Any, got: str, run: Any, cloud: Any
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        run(given)
    message = str(caught.value)
    assert message.startswith("input must have 'prompt' or 'messages', got ")
    assert message.endswith(f"{got}. Put the user's text into 'prompt'")
    assert "my secret" not in message
    assert cloud.requests == []


def test_an_error_of_a_tool_names_the_argument_and_no_value(fields_of: Any, cloud: Any) -> None:
    fields = fields_of(cloud, biz_params_schema=Trip)
    tool = BailianAppTool(name="trip", description="Plans.", **fields)
    with pytest.raises(ValidationError) as caught:
        tool.invoke({"question": "my secret", "town": ["my secret"]})
    assert "prompt\n  Field required" in str(caught.value)
    assert "my secret" not in str(caught.value)


def test_an_own_schema_with_aliases_is_filled_by_name(fields_of: Any, cloud: Any) -> None:
    class Arguments(BaseModel):
        model_config = ConfigDict(extra="forbid")

        prompt: str = Field(alias="问题")
        who: str = Field(alias="谁")

    for fields in ({}, {"remember": True}):
        tool = BailianAppTool(
            name="t", description="d", args_schema=Arguments, **fields_of(cloud, **fields)
        )
        tool.invoke({"prompt": "hi", "who": "me"})
        tool.invoke({"问题": "hi", "谁": "me"})
        assert set(tool.tool_call_schema.model_json_schema()["properties"]) == {"prompt", "who"}
    assert [each.prompt for each in cloud.requests] == ["hi"] * 4
    assert [each.biz_params for each in cloud.requests] == [{"谁": "me"}] * 4


# ------------------------------------------------------------------ as a tool


def test_as_a_tool_the_agent_sees_only_what_it_fills(fields_of: Any, cloud: Any) -> None:
    app = BailianAppRunnable(**fields_of(cloud, biz_params_schema=Trip, temperature=0.5))
    model = ChatBailianApp(**fields_of(cloud, temperature=0.5))
    shown = {}
    for each in (app, model):
        tool = each.as_tool(name="trip", description="Plans trips.")
        schema: Any = tool.tool_call_schema
        shown[type(each)] = list(schema.model_json_schema()["properties"])
        call = {
            "type": "tool_call",
            "id": "1",
            "name": "trip",
            "args": {"prompt": "x", "city": "y"},
        }
        message = tool.invoke(call)
        assert (message.text, message.artifact["prompt"]) == ("ok", "x")
        assert cloud.requests[-1].body["parameters"]["temperature"] == 0.5
    start_variables = ["city", "days", "guest", "tags", "pin"]
    assert shown == {BailianAppRunnable: ["prompt", *start_variables], ChatBailianApp: ["prompt"]}
    assert cloud.requests[0].biz_params == {"城市": "y", **DEFAULTS}


def test_as_a_tool_the_arguments_can_be_chosen(fields_of: Any, cloud: Any) -> None:
    class Chosen(BaseModel):
        prompt: str
        city: str

    app = BailianAppRunnable(**fields_of(cloud))
    for tool in (app.as_tool(Chosen), app.as_tool(arg_types={"prompt": str, "city": str})):
        assert list(tool.args) == ["prompt", "city"]
        tool.invoke({"prompt": "x", "city": "y"})
        assert cloud.requests[-1].biz_params == {"city": "y"}
    with pytest.raises(InvalidInputError, match="has no field 'prompt'"):
        app.as_tool(arg_types={"question": str})
    assert tool.as_tool() is tool


@pytest.mark.filterwarnings("ignore:This API is in beta:Warning")
def test_as_a_tool_a_retriever_still_returns_its_documents(
    fields_of: Any, start_cloud: Any
) -> None:
    references = [{"index_id": str(i), "title": "T", "text": f"passage {i}"} for i in range(1, 5)]
    output = {"text": "x", "doc_references": references, "finish_reason": "stop"}
    fields = fields_of(start_cloud(app=lambda _: [{"output": output}]))
    retriever = BailianAppRetriever(**fields, k=3)
    for each, count in ((retriever, 3), (retriever.bind(k=2), 2)):
        documents = each.as_tool(name="search", description="Finds passages.").invoke("hi")
        assert [each.page_content for each in documents] == [
            f"passage {i}" for i in range(1, count + 1)
        ]


def test_as_a_tool_another_tool_has_what_is_passed(fields_of: Any, cloud: Any) -> None:
    tool = BailianAppTool(
        **fields_of(cloud), name="t", description="d", biz_params_schema=Trip, tags=["mine"]
    )
    shown = list(tool.args)
    other = tool.as_tool(name="other", description="else", arg_types={"prompt": str, "who": str})
    assert (other.name, other.description, list(other.args)) == ("other", "else", ["prompt", "who"])
    assert (other.tags, tool.name, list(tool.args)) == (["mine"], "t", shown)
    other.invoke({"prompt": "x", "who": "me"})
    assert cloud.requests[-1].biz_params == {"who": "me"}
    with pytest.raises(InvalidInputError, match="has no field 'prompt'"):
        tool.as_tool(arg_types={"question": str})


def test_as_a_tool_a_model_keeps_what_a_tool_has_and_refuses_the_rest(
    fields_of: Any, cloud: Any
) -> None:
    seen = BaseCallbackHandler()
    kept: dict[str, Any] = {"tags": ["mine"], "metadata": {"u": 1}, "callbacks": [seen]}
    tool = ChatBailianApp(**fields_of(cloud, **kept)).as_tool(name="t")
    assert (tool.tags, tool.callbacks) == (["mine"], [seen])
    assert (tool.metadata or {}).get("u") == 1
    refused: dict[str, Any] = {
        "session_id": "s",
        "stop": ["END"],
        "rate_limiter": InMemoryRateLimiter(),
    }
    for name, value in refused.items():
        with pytest.raises(InvalidInputError, match=f"^{name} does not apply to a tool"):
            ChatBailianApp(**fields_of(cloud, **{name: value})).as_tool(name="t")


@pytest.mark.parametrize("kind", [ChatBailianApp, BailianAppRunnable])
def test_as_a_tool_a_binding_has_what_is_bound(kind: Any, fields_of: Any, cloud: Any) -> None:
    app = kind(**fields_of(cloud, biz_params={"pin": "1"}))
    bound = app.bind(temperature=0.5, biz_params={"pin": "2"})
    bound = bound.with_config(tags=["mine"])
    tool = bound.as_tool(name="t", description="d")
    assert (type(tool), tool.name, tool.tags) == (BailianAppTool, "t", ["mine"])
    for called in (tool, bound):  # the binding itself stays as it was
        called.invoke("hi")
        request = cloud.requests[-1]
        assert request.biz_params == {"pin": "2"}
        assert request.body["parameters"]["temperature"] == 0.5
    assert app.temperature is None
    for wrong in (
        app.bind(session_id="s"),
        app.bind(image_list=["u"]),
        app.with_config(run_name="r"),
        app.bind(temperature=0.5).with_listeners(on_start=lambda run: None),
        app.with_listeners(on_start=lambda run: None),
    ):
        with pytest.raises(
            InvalidInputError, match=r"^(session_id|image_list|run_name|listeners) "
        ):
            wrong.as_tool(name="t")


def test_an_unknown_variable_of_a_strict_schema_gets_the_name_of_its_field(
    fields_of: Any, cloud: Any
) -> None:
    class Strict(BaseModel):
        model_config = ConfigDict(extra="forbid")
        city: str

    app = BailianAppRunnable(**fields_of(cloud, biz_params_schema=Strict))
    with pytest.raises(InvalidInputError, match=r"^citi is not a setting\. Did you mean 'city'\?$"):
        app.invoke({"prompt": "hi", "city": "x", "citi": "y"})
    assert cloud.requests == []
