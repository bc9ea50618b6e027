"""LangChain's own standard tests, against the emulator.

The suites find by themselves that an app takes neither tools nor a schema. They also skip:

* images of tool messages, and Anthropic's blocks: the suite binds a tool to the model.
  tests/langchain/test_images.py has its own tests of both.
* files and audio: the suites send base64 data, and an app takes files by their URLs.
* `test_stream_time` is a benchmark that needs recorded traffic.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import langchain_tests.unit_tests.chat_models as suite
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.load import load
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from support.images import PNG

from bailian_apps.emulator import Call, Emulator
from bailian_apps.langchain import ChatBailianApp

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is in beta:Warning"),
    pytest.mark.filterwarnings("ignore:.*deprecated:Warning"),
]


def talk(call: Call) -> list[dict[str, Any]]:
    pieces = ["Hello, ", "how are you", "?"]
    frames = [{"output": {"text": piece, "finish_reason": "null"}} for piece in pieces]
    models = [{"model_id": "qwen-max", "input_tokens": 9, "output_tokens": 5}]
    return [*frames, {"output": {"text": "", "finish_reason": "stop"}, "usage": {"models": models}}]


class _AnApp:
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatBailianApp

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_urls(self) -> bool:
        return True


class TestUnit(_AnApp, ChatModelUnitTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "app"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        env = {"DASHSCOPE_API_KEY": "sk-env", "BAILIAN_APP_ID": "from-env"}
        return env, {}, {"api_key": "sk-env", "app_id": "from-env"}

    @pytest.fixture(autouse=True)
    def _load_of_the_suite(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The suite loads the classes that LangChain lists; others have to be named."""

        def load_app(dumped: Any, **options: Any) -> Any:
            return load(dumped, **options | {"allowed_objects": [ChatBailianApp]})

        monkeypatch.setattr(suite, "load", load_app)

    def test_the_suite_finds_that_there_are_no_tools(self) -> None:
        assert (self.has_tool_calling, self.has_structured_output) == (False, False)


class TestIntegration(_AnApp, ChatModelIntegrationTests):
    @pytest.fixture(autouse=True, scope="class")
    def _cloud(self, request: pytest.FixtureRequest) -> Iterator[None]:
        with Emulator(apps={"app": talk, "other": talk}) as cloud:
            request.cls.base_url = cloud.base_url
            yield

    @pytest.fixture(autouse=True)
    def _image_of_the_suite(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The suite downloads its picture; this is one, without the network."""
        picture = httpx.Response(200, content=PNG)
        monkeypatch.setattr(httpx, "get", lambda url, **options: picture)

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "app", "api_key": "k", "base_url": self.base_url}

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "other"
