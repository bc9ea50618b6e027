"""The class itself: what LlamaIndex asks of an integration, and its import."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest
from llama_index.core.instrumentation import DispatcherSpanMixin
from llama_index.core.llms import LLM, CustomLLM
from llama_index.core.llms.function_calling import FunctionCallingLLM

import bailian_apps.llamaindex
from bailian_apps import AppSettings, InvalidInputError
from bailian_apps.llamaindex import BailianAppLLM

METHODS = [f"{a}{s}{m}" for a in ("", "a") for s in ("", "stream_") for m in ("chat", "complete")]


def test_the_llm_derives_from_core_s_base_class() -> None:
    names_of_base_classes = [base.__name__ for base in BailianAppLLM.__mro__]
    assert "BaseLLM" in names_of_base_classes
    assert not issubclass(BailianAppLLM, CustomLLM)
    assert not issubclass(BailianAppLLM, FunctionCallingLLM)


def test_the_public_names_are_pinned() -> None:
    assert bailian_apps.llamaindex.__all__ == [
        "BailianAppAgent",
        "BailianAppChatEngine",
        "BailianAppLLM",
        "BailianAppQueryEngine",
        "BailianAppRetriever",
        "BailianAppStepEvent",
        "BailianAppStepStream",
        "bailian_app_tool",
    ]


def test_metadata_describes_a_chat_model_without_functions() -> None:
    llm = BailianAppLLM(app_id="app", api_key="k")
    assert llm.class_name() == "BailianAppLLM"
    assert llm.metadata.model_name == "app"
    assert llm.metadata.is_chat_model
    assert not llm.metadata.is_function_calling_model
    assert llm.metadata.context_window >= 128_000
    assert llm.metadata.num_output < llm.metadata.context_window // 10
    assert BailianAppLLM(app_id="app", context_window=8_000).metadata.context_window == 8_000


def test_every_setting_is_a_field() -> None:
    assert AppSettings.model_fields.keys() <= BailianAppLLM.model_fields.keys()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"temprature": 1}, "temprature is not a setting. Did you mean 'temperature'?"),
        ({"model": "qwen-max"}, "model is not a setting. Did you mean 'model_id'?"),
        ({"app_id": ""}, "app_id is empty"),
        ({"app_id": "a/b"}, "app_id has a character"),
        ({"temperature": "hot"}, "temperature must be a valid number, not a str"),
        ({"context_window": 0}, "context_window must be "),
    ],
)
def test_invalid_fields_are_rejected_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        BailianAppLLM(**{"app_id": "app", **fields})
    assert str(caught.value).startswith(named)


def test_an_unknown_attribute_cannot_be_set() -> None:
    llm = BailianAppLLM(app_id="app")
    with pytest.raises(ValueError, match="temprature"):
        llm.temprature = 1  # type: ignore[attr-defined]


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAILIAN_APP_ID", "from-environment")
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-1")
    llm = BailianAppLLM()
    assert llm.app_id == "from-environment"
    assert llm.api_key is not None


@pytest.mark.parametrize("method", METHODS)
def test_methods_have_llama_index_s_signatures(method: str) -> None:
    ours, theirs = getattr(BailianAppLLM, method), getattr(LLM, method)
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
    assert inspect.iscoroutinefunction(ours) == method.startswith("a")
    assert ours.__doc__
    assert ours.__qualname__ == f"BailianAppLLM.{method}"


def test_a_subclass_gets_no_second_span(spans: Any, llm_of: Any, by_method: Any) -> None:
    from bailian_apps.emulator import Emulator

    class Own(BailianAppLLM):
        def chat(self, messages: Any, **kwargs: Any) -> Any:
            return super().chat(messages, **kwargs)

    assert issubclass(Own, DispatcherSpanMixin)
    with Emulator(apps={"app": lambda call: "好"}) as cloud:
        by_method("chat")(llm_of(cloud))
        assert [note.name for note in spans.notes] == ["BailianAppLLM.chat", "BailianApp.run"]
        spans.clear()
        own = Own(app_id="app", api_key="k", base_url=cloud.base_url)
        assert by_method("chat")(own).text == "好"
        assert [note.name for note in spans.notes] == ["Own.chat", "Own.chat", "BailianApp.run"]


def test_the_class_has_a_json_schema() -> None:
    schema = BailianAppLLM.model_json_schema()
    assert schema["properties"]["class_name"]["default"] == "BailianAppLLM"
    assert "app_id" in schema["properties"]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120
    )


@pytest.mark.process
def test_import_loads_neither_the_sdk_nor_the_other_framework() -> None:
    done = run_python(
        "import sys, bailian_apps.llamaindex\n"
        "bailian_apps.llamaindex.BailianAppLLM(app_id='app')\n"
        "for name in ('dashscope', 'langchain_core', 'starlette', 'bailian_apps.emulator'):\n"
        "    assert name not in sys.modules, name\n"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.process
def test_importing_with_an_old_llama_index_names_the_extra() -> None:
    done = run_python(
        "import llama_index.core.base.llms.types as types; del types.ThinkingBlock\n"
        "try:\n    import bailian_apps.llamaindex\n"
        "except ImportError as error:\n    print(error, '|', error.__cause__)\n"
    )
    assert done.returncode == 0, done.stderr
    assert 'pip install "bailian-apps[llamaindex]" |' in done.stdout
    assert "ThinkingBlock" in done.stdout


@pytest.mark.process
@pytest.mark.parametrize("missing", ["llama_index", "llama_index.core"])
def test_importing_without_llama_index_names_the_extra(missing: str) -> None:
    done = run_python(
        f"import sys; sys.modules[{missing!r}] = None\n"
        "try:\n    import bailian_apps.llamaindex\n"
        "except ImportError as error:\n    print(type(error).__name__, error)\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ImportError")
    assert 'pip install "bailian-apps[llamaindex]"' in done.stdout
