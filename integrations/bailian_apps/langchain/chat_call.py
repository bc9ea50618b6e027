"""One call of a chat model: which run it belongs to, and the chunks of its answer."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, Protocol, TypeVar, cast
from uuid import uuid4

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import LC_ID_PREFIX, BaseMessage
from langchain_core.runnables import RunnableConfig

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.events import AppEvent
from bailian_apps.core.history import Plan
from bailian_apps.core.redaction import wrap_secrets
from bailian_apps.core.tracebacks import take
from bailian_apps.langchain.errors import langchain_errors
from bailian_apps.langchain.messages import to_turns
from bailian_apps.langchain.runs import AppRun
from bailian_apps.langchain.settings import AppSettingsMixin
from bailian_apps.langchain.step_runs import AnyRunManager, amake_calls, make_calls
from bailian_apps.owned_stream import OwnedStream

try:
    from langchain_core.utils.uuid import uuid7 as _new_run_id
except ImportError:  # an older langchain-core, whose own run ids are uuid4 too
    _new_run_id = uuid4

_T_co = TypeVar("_T_co", covariant=True)
_BuilderT = TypeVar("_BuilderT", bound="ChunkBuilder[Any]")
_STREAM_RUN = "_bailian_stream_run"

logger = logging.getLogger(__name__)


def _unchanged(chunk: Any) -> Any:
    return chunk


class NotSupported:
    """A method of LangChain's that an app does not have.

    On the class it is LangChain's own, so that code which asks whether the class overrides it finds
    that it does not. On an object it raises a `NotImplementedError` that says what to do instead.
    """

    def __init__(self, inherited: Callable[..., Any], advice: str) -> None:
        """Take LangChain's method, and what to do instead."""
        self._inherited = inherited
        self._advice = advice

    def __get__(self, instance: object, _: type) -> Callable[..., Any]:
        """Return the method."""
        return self._inherited if instance is None else self._refuse

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise NotImplementedError(self._advice)


class ChunkBuilder(Protocol[_T_co]):
    """Builds the chunks of an answer: message chunks, or LangChain's protocol events."""

    @property
    def done(self) -> bool:
        """Whether the last chunk was built, and no more events are wanted."""
        ...

    def feed(self, event: AppEvent) -> _T_co | None:
        """Return the chunk that an event adds, if any."""
        ...


@dataclass
class ChatCall(Generic[_BuilderT]):
    """One call. Its arguments are checked, and it is sent, when the first chunk is asked for.

    Attributes:
        make_builder: Makes the builder of the chunks, `builder`, when the call starts.
        model: The called model.
        messages: The conversation.
        manager: The LangChain run that the app's steps belong to, if there is one.
        kwargs: Settings to override, and call options (`session_id`, …).
    """

    make_builder: Callable[[Plan], _BuilderT]
    model: AppSettingsMixin
    messages: Sequence[BaseMessage]
    manager: AnyRunManager | None
    kwargs: dict[str, Any] = field(repr=False)
    builder: _BuilderT = field(init=False, repr=False)

    def stream(self, convert: Callable[[Any], Any] = _unchanged) -> Generator[Any]:
        """Run the app. Closing the generator ends the steps and closes the connection.

        Args:
            convert: Is applied to each chunk.

        Yields:
            The builder's chunks, converted.

        Raises:
            BailianError: The call failed.
        """
        with langchain_errors():
            run = self._start()
            with closing(run.events()) as events:
                for event in events:
                    chunk = self.builder.feed(event)
                    if chunk is None:
                        continue
                    if self.builder.done:
                        # A stop sequence may have cut the run off: its open steps did not fail.
                        make_calls(run.steps.close(None))
                        events.close()
                    yield convert(chunk)

    async def astream(self, convert: Callable[[Any], Any] = _unchanged) -> AsyncGenerator[Any]:
        """Run the app, natively async; as `stream`."""
        with langchain_errors():
            run = self._start()
            async with OwnedStream(run.aevents()) as events:
                async for event in events:
                    chunk = self.builder.feed(event)
                    if chunk is None:
                        continue
                    if self.builder.done:
                        await amake_calls(run.steps.close(None))
                        await events.aclose()
                    yield convert(chunk)

    def _start(self) -> AppRun:
        run = AppRun.prepare(self.model, to_turns(self.messages), self.kwargs, self.manager)
        self.builder = self.make_builder(run.plan)
        return run


class StreamRun:
    """The LangChain run of one `stream` or `astream`.

    LangChain starts the model's run in `stream` but does not pass it to `_stream`, by design
    (https://github.com/langchain-ai/langchain/issues/21327). The app's steps are children of that
    run, so `ChatBailianApp.stream` chooses the run id itself and passes this object to `_stream` in
    a keyword argument that neither callers nor tracers see.

    Attributes:
        manager: The model's run.
        chunks: What `_stream` returned.
    """

    def __init__(
        self,
        model: BaseChatModel,
        manager_class: type[CallbackManager | AsyncCallbackManager],
        config: RunnableConfig,
    ) -> None:
        """Choose the run of a call and write its manager and its id into the config."""
        # LangChain's `stream` configures its manager from the config again. Given this manager, it
        # adds nothing; configured twice from the parts, tracers in the environment would be added
        # twice, each with a trace of its own.
        manager = manager_class.configure(
            inheritable_callbacks=config.get("callbacks"),
            local_callbacks=model.callbacks,
            verbose=model.verbose,
            inheritable_tags=config.get("tags"),
            local_tags=model.tags,
            inheritable_metadata=config.get("metadata"),
            local_metadata=model.metadata,
        )
        config["callbacks"] = manager
        config["run_id"] = run_id = config.get("run_id") or _new_run_id()
        run_manager_class: Any = (
            AsyncCallbackManagerForLLMRun
            if manager_class is AsyncCallbackManager
            else CallbackManagerForLLMRun
        )
        self.manager: AnyRunManager = run_manager_class(
            run_id=run_id,
            handlers=manager.handlers,
            inheritable_handlers=manager.inheritable_handlers,
            parent_run_id=manager.parent_run_id,
            tags=manager.tags,
            inheritable_tags=manager.inheritable_tags,
            metadata=manager.metadata,
            inheritable_metadata=manager.inheritable_metadata,
        )
        self.chunks: Generator[Any] | OwnedStream[Any] | None = None

    def close(self, stream: Any) -> None:
        """Close LangChain's stream of this run, and `chunks` before it, also if a handler raises.

        First the connection and the steps end, then the run above them.
        """
        with ExitStack() as stack:
            stack.callback(stream.close)
            if self.chunks is not None:
                stack.callback(cast("Generator[Any]", self.chunks).close)

    async def aclose(self, stream: OwnedStream[Any]) -> None:
        """As `close`, natively async."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(stream.aclose)
            if self.chunks is not None:
                stack.push_async_callback(cast("OwnedStream[Any]", self.chunks).aclose)

    def add_to(self, kwargs: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """Take the keyword arguments; return them as LangChain may publish them, with this.

        Args:
            kwargs: The arguments of the call.
            names: The setting `secret_biz_params`.
        """
        return wrap_secrets(take(kwargs), names) | {_STREAM_RUN: self}

    @staticmethod
    def of(kwargs: Mapping[str, Any]) -> StreamRun | None:
        """Return the `StreamRun` that LangChain passes on in the keyword arguments, if any."""
        return kwargs.get(_STREAM_RUN)


def caller_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments as the caller passed them, without LangChain's additions."""
    return {key: value for key, value in kwargs.items() if key not in (_STREAM_RUN, "stream")}


def ignore_max_tokens(app_id: str, max_tokens: object) -> None:
    """Log that `max_tokens`, which every other chat model takes, is not sent; None was not given.

    The API does not document it. It can be passed in `extra_body`.
    """
    if max_tokens is not None:
        message = "max_tokens=%s is not sent: set the limit of app %s in its console"
        logger.warning(message, max_tokens, app_id)


def stop_sequences(given: object, default: Sequence[str] | None) -> Sequence[str]:
    """Return the stop sequences of a call.

    Args:
        given: Those of the call; None or an empty list for the model's.
        default: Those of the model.

    Raises:
        InvalidInputError: They are no list of texts.
    """
    stops = cast("list[object] | tuple[object, ...]", () if given is None else given)
    if not isinstance(stops, (list, tuple)) or not all(isinstance(each, str) for each in stops):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError("stop", "must be a list of str", "Pass stop=[…]")
    return cast("Sequence[str]", stops or default or ())


def message_id_of(manager: AnyRunManager | None) -> str | None:
    """Return the id that LangChain gives the message of a run."""
    return f"{LC_ID_PREFIX}-{manager.run_id}" if manager else None
