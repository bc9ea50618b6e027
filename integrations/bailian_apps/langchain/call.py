"""One call of an app on behalf of LangChain: messages in, chunks out, its steps reported.

`chunks` and `achunks` are the only drivers: all that LangChain offers (`invoke`, `stream`, and
their async forms) stands on them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager
from typing import Any

from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from pydantic import ValidationError

from bailian_apps.app import BailianApp
from bailian_apps.core.errors import BailianError, InvalidInputError
from bailian_apps.core.history import plan_request
from bailian_apps.core.request import raise_invalid_input
from bailian_apps.core.settings import AppSettings
from bailian_apps.langchain.answer import Answer
from bailian_apps.langchain.callbacks import STEP_EVENTS, LLMRunManager, StepRuns, adrive, drive
from bailian_apps.langchain.errors import as_langchain_error
from bailian_apps.langchain.messages import to_turns

_LISTS = ("image_list", "file_list")


class Call:
    """One call. It is checked and sent when its chunks are asked for."""

    answer: Answer

    def __init__(
        self,
        settings: AppSettings,
        messages: Sequence[BaseMessage],
        arguments: Mapping[str, Any],
        *,
        stops: Sequence[str] = (),
        v1: bool = False,
        manager: LLMRunManager | None = None,
    ) -> None:
        """Keep what is asked for.

        Args:
            settings: The app's settings.
            messages: The conversation.
            arguments: What the caller said for this call: settings to override, `session_id`, ….
            stops: Sequences at which the answer ends.
            v1: Whether the content is standard blocks.
            manager: The run that the app's steps belong to, if anyone watches it.
        """
        self._settings = settings
        self._messages = messages
        self._arguments = arguments
        self._stops = stops
        self._v1 = v1
        watched = manager is not None and manager.handlers
        self._manager = manager if watched else None
        self._steps: StepRuns | None = None

    def chunks(self) -> Generator[ChatGenerationChunk]:
        """Run the app and yield the answer. Closing it ends the steps and the connection.

        Yields:
            Chunks; the last has `chunk_position="last"`.

        Raises:
            BailianError: The call failed.
        """
        with self._typed_errors():
            app, said = self._open()
            answer, steps = self.answer, self._steps
            try:
                with closing(app.stream(**said)) as events:
                    for event in events:
                        if steps is not None and isinstance(event, STEP_EVENTS):
                            drive(steps.on(event))
                        chunk = answer.feed(event)
                        if chunk is None:
                            continue
                        if answer.done:
                            break
                        yield ChatGenerationChunk(message=chunk)
                    else:
                        return
                if steps is not None:
                    drive(steps.close(None))
                yield ChatGenerationChunk(message=chunk)
            except BaseException as error:
                if steps is not None:
                    drive(steps.close(error))
                raise

    async def achunks(self) -> AsyncGenerator[ChatGenerationChunk]:
        """As `chunks`, natively async."""
        with self._typed_errors():
            app, said = self._open()
            answer, steps = self.answer, self._steps
            try:
                async with aclosing(app.astream(**said)) as events:
                    async for event in events:
                        if steps is not None and isinstance(event, STEP_EVENTS):
                            await adrive(steps.on(event))
                        chunk = answer.feed(event)
                        if chunk is None:
                            continue
                        if answer.done:
                            break
                        yield ChatGenerationChunk(message=chunk)
                    else:
                        return
                if steps is not None:
                    await adrive(steps.close(None))
                yield ChatGenerationChunk(message=chunk)
            except BaseException as error:
                if steps is not None:
                    await adrive(steps.close(error))
                raise

    def _open(self) -> tuple[BailianApp, dict[str, Any]]:
        """The app with this call's settings, and the arguments for its `stream`."""
        overrides: dict[str, Any] = {}
        said: dict[str, Any] = {}
        for name, value in with_app_id(self._arguments).items():
            (overrides if name in AppSettings.model_fields else said)[name] = value
        if "prompt" in said:
            raise InvalidInputError(
                "prompt", "was given beside the messages", "Pass the words as a message"
            )
        try:
            settings = self._settings.with_overrides(overrides)
        except ValidationError as error:
            raise_invalid_input(error)
        plan = plan_request(
            to_turns(self._messages), settings, session_id=said.pop("session_id", None)
        )
        planned = plan.call()
        for name in _LISTS:
            if given := said.pop(name, None):
                planned[name] = (*planned.get(name, ()), *given)
        self.answer = Answer(plan, stops=self._stops, v1=self._v1)
        if self._manager is not None:
            self._steps = StepRuns(self._manager, plan.app_id)
        return BailianApp(settings), {**planned, **said}

    @contextmanager
    def _typed_errors(self) -> Generator[None]:
        try:
            yield
        except BailianError as error:
            idempotent = self._arguments.get("idempotent", self._settings.idempotent)
            raise as_langchain_error(error, idempotent=idempotent is True) from error.__cause__


def with_app_id(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, with `model` under its own name.

    Raises:
        InvalidInputError: Both names were given, and differ.
    """
    given = dict(fields)
    if (model := given.pop("model", None)) is not None:
        if given.get("app_id", model) != model:
            raise InvalidInputError("model", "differs from app_id", "Pass one of the two")
        given["app_id"] = model
    return given


def as_message_chunk(chunk: ChatGenerationChunk) -> AIMessageChunk:
    """The message of a chunk that `Call` made."""
    assert isinstance(chunk.message, AIMessageChunk)  # noqa: S101
    return chunk.message
