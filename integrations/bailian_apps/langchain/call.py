"""One call of a chat model: messages in, its answer out, piece by piece.

`pieces` and `apieces` stand under all that LangChain offers: `invoke`, `stream`, and their async
forms.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any, Generic, Protocol, TypeVar

from langchain_core.messages import BaseMessage

from bailian_apps.core.events import AppEvent
from bailian_apps.core.history import Plan, plan_request
from bailian_apps.core.settings import AppSettings
from bailian_apps.langchain.callbacks import AnyRunManager, StepRuns, adrive, drive
from bailian_apps.langchain.fields import call_arguments
from bailian_apps.langchain.messages import to_turns
from bailian_apps.langchain.runs import aevents, events, typed_errors, with_settings

_T_co = TypeVar("_T_co", covariant=True)
_WriterT = TypeVar("_WriterT", bound="Writer[Any]")


class Writer(Protocol[_T_co]):
    """What makes the pieces of an answer: message chunks, or LangChain's protocol events."""

    @property
    def done(self) -> bool:
        """Whether the last piece was made: no more events are wanted."""
        ...

    def feed(self, event: AppEvent) -> _T_co | None:
        """Take an event; give the piece that it makes, if any."""
        ...


class Call(Generic[_WriterT]):
    """One call. It is checked and sent when its pieces are asked for.

    Attributes:
        writer: What makes the pieces, from the first one on.
    """

    writer: _WriterT

    def __init__(
        self,
        settings: AppSettings,
        messages: Sequence[BaseMessage],
        arguments: Mapping[str, Any],
        *,
        writer: Callable[[Plan], _WriterT],
        manager: AnyRunManager | None = None,
    ) -> None:
        """Keep what is asked for.

        Args:
            settings: The app's settings.
            messages: The conversation.
            arguments: What the caller said for this call: settings to override, `session_id`, ….
            writer: Makes what makes the pieces, knowing what is sent.
            manager: The run that the app's steps belong to, if anyone watches it.
        """
        self._settings = settings
        self._messages = messages
        self._arguments = arguments
        self._make_writer = writer
        self._manager = manager

    def pieces(self) -> Generator[Any]:
        """Run the app and yield the answer. Closing it ends the connection and the steps.

        Yields:
            What the writer makes.

        Raises:
            BailianError: The call failed.
        """
        with typed_errors(self._settings, self._arguments):
            settings, said, steps = self._open()
            with closing(events(settings, said, steps)) as run:
                for event in run:
                    piece = self.writer.feed(event)
                    if piece is None:
                        continue
                    if self.writer.done:
                        # A stop sequence may have ended it, which is no failure of a step.
                        if steps is not None:
                            drive(steps.close(None))
                        run.close()
                    yield piece

    async def apieces(self) -> AsyncGenerator[Any]:
        """As `pieces`, natively async."""
        with typed_errors(self._settings, self._arguments):
            settings, said, steps = self._open()
            async with aclosing(aevents(settings, said, steps)) as run:
                async for event in run:
                    piece = self.writer.feed(event)
                    if piece is None:
                        continue
                    if self.writer.done:
                        if steps is not None:
                            await adrive(steps.close(None))
                        await run.aclose()
                    yield piece

    def _open(self) -> tuple[AppSettings, dict[str, Any], StepRuns | None]:
        """The settings of this call, the arguments for `BailianApp.stream`, and its steps."""
        settings, said = with_settings(self._settings, call_arguments(self._arguments))
        plan = plan_request(
            to_turns(self._messages), settings, session_id=said.pop("session_id", None)
        )
        self.writer = self._make_writer(plan)
        return settings, {"prompt": plan, **said}, StepRuns.of(self._manager, plan.app_id)
