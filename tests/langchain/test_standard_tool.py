"""LangChain's own standard tests for tools, against the emulator; none is disabled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests
from pydantic import BaseModel

from bailian_apps.emulator import RECORDINGS, Emulator
from bailian_apps.langchain import BailianAppTool


class Trip(BaseModel):
    city: str


@pytest.fixture(scope="module")
def cloud() -> Iterator[Emulator]:
    with Emulator(apps={"app": RECORDINGS / "travel-workflow.jsonl"}) as cloud:
        yield cloud


class _AnApp:
    base_url: str | None = None

    @property
    def tool_constructor(self) -> type[BaseTool]:
        return BailianAppTool

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        fields = {"name": "travel", "description": "Plans trips.", "biz_params_schema": Trip}
        return {"app_id": "app", "api_key": "k", "base_url": self.base_url, **fields}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"prompt": "Plan a day", "city": "Hangzhou"}


class TestUnit(_AnApp, ToolsUnitTests):
    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        env = {"DASHSCOPE_API_KEY": "sk-env", "BAILIAN_APP_ID": "from-env"}
        fields = {"name": "travel", "description": "Plans trips."}
        return env, fields, {"api_key": "sk-env", "app_id": "from-env"}


class TestIntegration(_AnApp, ToolsIntegrationTests):
    @pytest.fixture(autouse=True)
    def _at(self, cloud: Emulator) -> None:
        self.base_url = cloud.base_url
