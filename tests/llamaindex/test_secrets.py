"""The key and the users' tokens reach the cloud and appear nowhere else."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from pydantic import BaseModel, SecretStr

from bailian_apps import InvalidInputError
from bailian_apps.emulator import Call, Emulator
from bailian_apps.llamaindex import BailianAppLLM, bailian_app_tool

KEY = "sk-KEYSECRET"
TOKEN = "TOKENSECRET"
SECRETS = ("KEYSECRET", "TOKENSECRET")
SENT: dict[str, Any] = {
    "city": "杭州",
    "author": "Lu Xun",
    "user_defined_params": {"mcp": {"Authorization": f"Bearer {TOKEN}", "size": 3}},
    "user_defined_tokens": {"tool": {"user_token": TOKEN}},
    "login": [TOKEN],
    "pin": TOKEN,
}
PARAMS = SENT | {"login": [SecretStr(TOKEN)]}
MASK = "**********"
SHOWN = SENT | {
    "user_defined_params": {"mcp": {"Authorization": MASK, "size": 3}},
    "user_defined_tokens": MASK,
    "login": [MASK],
    "pin": MASK,
}
NAMES = ("pin",)


class PayloadRecorder(BaseCallbackHandler):
    """Records the payloads of the legacy callbacks."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.payloads: list[Any] = []

    def start_trace(self, trace_id: str | None = None) -> None: ...

    def end_trace(self, trace_id: str | None = None, trace_map: Any = None) -> None: ...

    def on_event_start(
        self, event_type: Any, payload: Any = None, event_id: str = "", **kwargs: Any
    ) -> str:
        self.payloads.append(payload)
        return event_id

    def on_event_end(
        self, event_type: Any, payload: Any = None, event_id: str = "", **kwargs: Any
    ) -> None:
        self.payloads.append(payload)


def expect_no_secret(*shown: Any) -> None:
    for text in map(str, shown):
        assert not any(secret in text for secret in SECRETS), text


@pytest.mark.parametrize("where", ["settings", "call"])
@pytest.mark.parametrize("fails", [False, True])
def test_no_secret_is_published(
    ask: Any,
    spans: Any,
    events: Any,
    caplog: pytest.LogCaptureFixture,
    where: str,
    fails: bool,
) -> None:
    caplog.set_level(logging.DEBUG)
    got: list[Any] = []

    def app(call: Call) -> Any:
        got.append(call.biz_params)
        return {"output": {"text": "半", "finish_reason": "null"}} if fails else "好"

    legacy = PayloadRecorder()
    secrets: Any = {"api_key": KEY, "biz_params": PARAMS, "secret_biz_params": NAMES}
    with Emulator(apps={"app": app}, api_key=KEY) as cloud:
        llm = BailianAppLLM(
            app_id="app",
            base_url=cloud.base_url,
            callback_manager=CallbackManager([legacy]),
            **(secrets if where == "settings" else {"api_key": "sk-other"}),
        )
        seen = ask(llm, "你好", **(secrets if where == "call" else {}))
    assert got == [SENT]  # the emulator accepts no other key
    assert bool(seen.error) is fails

    assert events.events
    for event in events.events:
        expect_no_secret(repr(event), event.model_dump())
    assert len(spans.notes) == 2
    for note in spans.notes:
        expect_no_secret(note.inputs, note.result, note.error)
        expect_no_secret(getattr(note.inputs.get("kwargs"), "items", dict)())
    assert len(legacy.payloads) >= 2
    expect_no_secret(
        legacy.payloads, repr(llm), repr(seen.error), vars(seen.error or PayloadRecorder())
    )
    expect_no_secret(caplog.text, *(record.__dict__ for record in caplog.records))
    if not fails:
        expect_no_secret(repr(seen.last), seen.last.model_dump())
    inputs = spans.named("BailianApp.run").inputs
    assert inputs["biz_params"] == SHOWN


def test_no_serialised_form_has_a_secret() -> None:
    llm = BailianAppLLM(app_id="app", api_key=KEY, biz_params=PARAMS, secret_biz_params=NAMES)
    forms = [
        repr(llm), str(llm), llm.to_dict(), llm.to_json(), llm.model_dump(), llm.model_dump_json(),
        llm.model_dump(mode="json"), getattr(llm, "to_payload", llm.to_dict)(), pickle.dumps(llm), llm.dict(), llm.json(),
    ]  # fmt: skip
    expect_no_secret(*forms)
    assert llm.to_dict()["biz_params"] == SHOWN
    assert llm.biz_params == PARAMS


def test_a_deserialised_llm_reads_the_key_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    llm = BailianAppLLM(
        app_id="app",
        api_key=KEY,
        biz_params={"city": "杭州"},
        temperature=0.5,
        timeout={"total_s": 9},
    )
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    pickled = pickle.dumps(llm)
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-from-environment")
    for other in (
        BailianAppLLM.from_dict(llm.to_dict()),
        BailianAppLLM.from_json(llm.to_json()),
        BailianAppLLM.model_validate(llm.model_dump()),
        pickle.loads(pickled),
    ):
        assert other.api_key.get_secret_value() == "sk-from-environment"
        assert other.model_dump() == llm.model_dump()
        assert (other.temperature, other.biz_params) == (0.5, {"city": "杭州"})
        assert other.timeouts.total_s == 9


def test_a_copy_keeps_its_secrets() -> None:
    llm = BailianAppLLM(app_id="app", api_key=KEY, biz_params=PARAMS)
    for other in (copy.copy(llm), copy.deepcopy(llm), llm.model_copy(update={"seed": 1})):
        assert other.api_key.get_secret_value() == KEY
        assert other.biz_params == PARAMS


def test_pickling_does_not_change_the_llm() -> None:
    llm = BailianAppLLM(app_id="app", api_key=KEY, biz_params=PARAMS)
    pickle.dumps(llm)
    assert llm.api_key is not None
    assert llm.api_key.get_secret_value() == KEY
    assert llm.biz_params == PARAMS


@pytest.mark.parametrize(
    "fields", [{"api_key": KEY + "\n"}, {"api_key": KEY, "biz_params": [TOKEN]}]
)
def test_a_validation_error_shows_no_secret(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"api_key|biz_params") as caught:
        BailianAppLLM(app_id="app", **fields)
    expect_no_secret(caught.value, repr(caught.value), caught.getrepr(style="short"))


def test_a_deserialised_llm_refuses_to_send_masked_values() -> None:
    llm = BailianAppLLM(app_id="app", api_key=KEY, biz_params=PARAMS)
    for other in (BailianAppLLM.from_dict(llm.to_dict()), pickle.loads(pickle.dumps(llm))):
        with pytest.raises(InvalidInputError, match="is masked"):
            other.complete("hi", api_key=KEY)


class Login(BaseModel):
    pin: SecretStr
    city: str
    user_token: str


@pytest.mark.parametrize("arguments", [{"apikey": KEY}, {"max_tokens": TOKEN}])
def test_a_misspelt_key_is_refused_and_not_published(
    ask: Any, spans: Any, events: Any, arguments: dict[str, Any]
) -> None:
    seen = ask(BailianAppLLM(app_id="app", api_key="k"), "你好", **arguments)
    assert isinstance(seen.error, InvalidInputError)
    assert f"{next(iter(arguments))} is not a setting" in str(seen.error)
    assert spans.notes
    expect_no_secret(*((note.inputs, note.error) for note in spans.notes))
    expect_no_secret(*(event.model_dump() for event in events.events))


@pytest.mark.parametrize("way", ["call", "acall", "__call__"])
def test_a_tools_secret_arguments_are_sent_and_not_published(
    way: str, spans: Any, events: Any
) -> None:
    sent: list[Any] = []
    with Emulator(apps={"app": lambda call: sent.append(call.biz_params) or "ok"}) as cloud:
        tool = bailian_app_tool(
            app_id="app", api_key=KEY, base_url=cloud.base_url, name="t", description="d",
            params=Login,
        )  # fmt: skip
        arguments = {"prompt": "hi", "pin": TOKEN, "city": "杭州", "user_token": TOKEN}
        output: Any = getattr(tool, way)(**arguments)
        output = asyncio.run(output) if way == "acall" else output
    assert sent == [{"pin": TOKEN, "city": "杭州", "user_token": TOKEN}]
    expect_no_secret(output, output.raw_input, *(event.model_dump() for event in events.events))
    expect_no_secret(*((note.inputs, note.result) for note in spans.notes))
    assert spans.notes
    assert output.raw_input["kwargs"] == arguments | {"pin": MASK, "user_token": MASK}
