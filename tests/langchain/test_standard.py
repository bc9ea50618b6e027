"""LangChain's own standard tests, against the emulator.

They skip what the properties below disable:

* `has_tool_calling`, `has_tool_choice`: an app only calls its own tools.
* `has_structured_output`: an app does not take a schema.
* images of tool messages: the suite binds a tool; tests/langchain/test_images.py has its own.
* files and audio: the suites send base64 data, and an app takes files by their URLs.
* the VCR test and `test_init_time` are benchmarks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
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
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_tool_choice(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False

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

    @pytest.mark.xfail(reason="LangChain revives only classes that it lists itself.")
    def test_serdes(self, model: BaseChatModel, snapshot: Any) -> None:
        super().test_serdes(model, snapshot)


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
