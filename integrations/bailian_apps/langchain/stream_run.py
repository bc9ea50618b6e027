"""Which run a stream belongs to.

LangChain's `stream` and `astream` begin the model's run and call `_stream` without it. But the
app's steps are children of that run. So `ChatBailianApp.stream` chooses the run itself, and hands
it to `_stream` as a keyword argument that nobody else sees.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any
from uuid import uuid4

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    BaseCallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.runnables import RunnableConfig

from bailian_apps.langchain.callbacks import AnyRunManager
from bailian_apps.langchain.secrecy import concealed, shown

try:
    from langchain_core.utils.uuid import uuid7 as _new_run_id
except ImportError:  # an older langchain-core: its own run ids are uuid4 too
    _new_run_id = uuid4

_KEYWORD = "_bailian_stream_run"


class StreamRun:
    """The run of one stream.

    Attributes:
        manager: The model's run.
        concealed: The arguments of the call that LangChain must not see, because it would trace
            them.
        chunks: What `_stream` gave; whoever made this closes it, before the run ends.
    """

    def __init__(
        self, configured: BaseCallbackManager, config: RunnableConfig, arguments: Mapping[str, Any]
    ) -> None:
        """Choose the run, and write it into the config.

        Args:
            configured: The callback manager for the call. `stream` will configure one from the
                config again; given this one, it finds nothing left to add.
            config: The config of the call; its callbacks and run id are set.
            arguments: The arguments of the call.
        """
        config["callbacks"] = configured
        config["run_id"] = run_id = config.get("run_id") or _new_run_id()
        kind: Any = (
            AsyncCallbackManagerForLLMRun
            if isinstance(configured, AsyncCallbackManager)
            else CallbackManagerForLLMRun
        )
        self.manager: AnyRunManager = kind(
            run_id=run_id,
            handlers=configured.handlers,
            inheritable_handlers=configured.inheritable_handlers,
            parent_run_id=configured.parent_run_id,
            tags=configured.tags,
            inheritable_tags=configured.inheritable_tags,
            metadata=configured.metadata,
            inheritable_metadata=configured.inheritable_metadata,
        )
        self.concealed = concealed(arguments)
        self.chunks: Generator[Any] | AsyncGenerator[Any] | None = None

    def keywords(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments for LangChain's `stream`, this among them and without secrets."""
        return shown(arguments) | {_KEYWORD: self}


def stream_run_of(kwargs: Mapping[str, Any]) -> StreamRun | None:
    """The `StreamRun` among the arguments that LangChain hands on."""
    return kwargs.get(_KEYWORD)


def arguments_of(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What the caller said for a call, without what LangChain and `stream` have added."""
    run = stream_run_of(kwargs)
    arguments = {key: value for key, value in kwargs.items() if key not in (_KEYWORD, "stream")}
    return arguments if run is None else arguments | run.concealed
