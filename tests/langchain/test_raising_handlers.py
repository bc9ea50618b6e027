"""A callback handler that raises as a run is left: every run still ends once."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from support import recordings

from bailian_apps.emulator import Emulator
from bailian_apps.langchain import BailianAppRunnable, ChatBailianApp

WORKFLOW = recordings.FOLDER / "workflow-timed.jsonl"


class Raising(BaseCallbackHandler):
    """Raises when a step ends in an error."""

    raise_error = True
    run_inline = True

    def __init__(self) -> None:
        self.open: set[Any] = set()
        self.ended: list[Any] = []

    def on_chain_start(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.open.add(run_id)

    def on_chat_model_start(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.open.add(run_id)

    def _end(self, run_id: Any) -> None:
        self.ended.append(run_id)

    def on_chain_end(self, *_: Any, run_id: Any, **__: Any) -> None:
        self._end(run_id)

    def on_chain_error(self, *_: Any, run_id: Any, **__: Any) -> None:
        self._end(run_id)

    def on_llm_error(self, *_: Any, run_id: Any, **__: Any) -> None:
        self._end(run_id)

    def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        if data["event"] == "error":
            raise ValueError("a handler")


@pytest.mark.parametrize("kind", [BailianAppRunnable, ChatBailianApp])
def test_a_stream_that_is_left_ends_its_runs_although_a_handler_raises(kind: Any) -> None:
    with Emulator(apps={"app": WORKFLOW}) as cloud:
        handler = Raising()
        app = kind(app_id="app", api_key="k", base_url=cloud.base_url)
        chunks = app.stream("hi", {"callbacks": [handler]})
        while len(handler.open) - len(handler.ended) < 2:  # its own run, and a step
            next(chunks)
        with pytest.raises(ValueError, match="a handler"):
            chunks.close()
    assert sorted(handler.ended, key=str) == sorted(handler.open, key=str)


@pytest.mark.parametrize("kind", [BailianAppRunnable, ChatBailianApp])
async def test_an_async_stream_that_is_left_ends_its_runs_although_a_handler_raises(
    kind: Any,
) -> None:
    with Emulator(apps={"app": WORKFLOW}) as cloud:
        handler = Raising()
        app = kind(app_id="app", api_key="k", base_url=cloud.base_url)
        chunks = app.astream("hi", {"callbacks": [handler]})
        while len(handler.open) - len(handler.ended) < 2:  # its own run, and a step
            await anext(chunks)
        with pytest.raises(ValueError, match="a handler"):
            await chunks.aclose()
    assert sorted(handler.ended, key=str) == sorted(handler.open, key=str)
