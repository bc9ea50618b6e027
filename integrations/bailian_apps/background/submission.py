"""Submitting a run: what is sent, once, and the mark that shows whether it may have been sent."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from bailian_apps.background.requests import RunRequest, total_deadline
from bailian_apps.background.run import BackgroundRun
from bailian_apps.client import Client, default_client
from bailian_apps.core.errors import (
    BailianError,
    InvalidInputError,
    ProtocolError,
    SubmissionUnknownError,
)
from bailian_apps.core.history import Plan
from bailian_apps.core.json_values import kind_of
from bailian_apps.core.language import N_
from bailian_apps.core.responses_api import read_state, request_body, unsent_settings
from bailian_apps.core.retry import did_not_start
from bailian_apps.core.settings import AppSettings
from bailian_apps.core.tracebacks import hides_arguments
from bailian_apps.transport.responses_api import RunAnswer, RunCall, run_endpoint

_MAX_MARKS = 100_000
"""How many unused marks are remembered; the oldest is forgotten first, and then counts as used."""

_marks: OrderedDict[str, None] = OrderedDict()
_marks_lock = threading.Lock()

logger = logging.getLogger(__name__)


def submission_mark() -> str:
    """Return a mark for one submission, to be stored before `BailianApp.submit(…, mark=…)`.

    It is valid once, and in this process. A program that is started again after it was killed, and
    that finds a mark in its storage but no run's id, passes the mark and gets a
    `SubmissionUnknownError`: nothing is submitted a second time.
    """
    mark = uuid4().hex
    with _marks_lock:
        _marks[mark] = None
        if len(_marks) > _MAX_MARKS:
            _marks.popitem(last=False)
    return mark


def _forget_marks() -> None:
    """Forget the marks of the parent process in a forked child: each would be valid in both."""
    global _marks_lock
    _marks_lock = threading.Lock()
    _marks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_marks)


class Submission:
    """One run that is to be submitted."""

    @hides_arguments
    def __init__(
        self,
        settings: AppSettings,
        plan: Plan,
        options: Mapping[str, Any],
        *,
        client: Client | None = None,
        mark: str | None = None,
    ) -> None:
        """Check the arguments; nothing is sent yet.

        Args:
            settings: The settings of the call.
            plan: What of the conversation is sent.
            options: What only a call has.
            client: The connections to use; None for the default client's.
            mark: What `submission_mark` returned.

        Raises:
            InvalidInputError: An argument cannot be sent.
        """
        settings.require_secrets()
        if mark is not None and not isinstance(mark, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(
                "mark", N_("must be a str, not {kind}").format(kind=kind_of(mark))
            )
        self.settings = settings
        self._given_client = client  # a run with the default client can be pickled
        self._client = client or default_client()
        self._mark = mark
        request = plan.request(settings, options)
        self.history_format = None if request.messages is None else settings.history_format
        if self.history_format == "prompt":
            turns = [(message.role, message.content) for message in request.messages or ()]
            prompt = settings.history_template.fold(turns)
            request = request.model_copy(update={"prompt": prompt, "messages": None})
        self._request = request
        self._warn_of_unsent()

    def submit(self, on_id: Callable[[str], object] = lambda _: None) -> BackgroundRun:
        """Submit the run.

        Args:
            on_id: Called with its id as soon as that is known, before anything else is waited for.

        Raises:
            SubmissionUnknownError: The mark was made by another process, or was used.
            BailianError: Submitting failed.
        """
        deadline = total_deadline(self.settings)
        call, endpoint = self._call(), run_endpoint(self.settings, self._request)
        with (
            self._client.slot(self.settings, deadline=deadline),
            self._client.runs(endpoint) as connection,
            self._marked(),
        ):
            request = RunRequest(call, self.settings, deadline=deadline)
            return self._run(request.send(connection), on_id)

    async def asubmit(self, on_id: Callable[[str], object] = lambda _: None) -> BackgroundRun:
        """As `submit`, natively async."""
        import asyncio

        deadline = total_deadline(self.settings)
        async with self._client.aslot(self.settings, deadline=deadline):
            # In a thread: reading images, and importing the SDK and the openai client, take long.
            call = await asyncio.to_thread(self._call)
            endpoint = await asyncio.to_thread(run_endpoint, self.settings, self._request)
            made = await asyncio.to_thread(self._client.aruns, endpoint)
            async with made as connection:
                with self._marked():
                    request = RunRequest(call, self.settings, deadline=deadline)
                    return self._run(await request.asend(connection), on_id)

    @hides_arguments
    def _call(self) -> RunCall:
        return RunCall("create", request_body(self._request))

    @contextmanager
    def _marked(self) -> Generator[None]:
        """Use up the mark; a request that certainly did not start a run gives it back."""
        mark = self._mark
        if mark is None:
            yield
            return
        with _marks_lock:
            known = mark in _marks
            _marks.pop(mark, None)
        if not (known or self.settings.idempotent):
            raise SubmissionUnknownError(
                "a run may have been submitted with this mark before, and nothing shows whether it "
                "was; look at what the app did, and pass a new submission_mark() to submit it again"
            )
        try:
            yield
        except BailianError as error:
            if did_not_start(error):
                with _marks_lock:
                    _marks[mark] = None
            raise

    def _run(self, answer: RunAnswer, on_id: Callable[[str], object]) -> BackgroundRun:
        state = read_state(*answer)
        on_id(state.id)
        logger.info("submitted run %s of app %s", state.id, self.settings.app_id)
        try:
            return BackgroundRun(self.settings, state.id, client=self._given_client, state=state)
        except InvalidInputError:  # of the id, and "nothing was sent" would be untrue
            error = ProtocolError(
                "a run was submitted, but its id has a character that cannot be asked for",
                request_id=state.request_id,
            )
            error.run_id = state.id
            raise error from None

    def _warn_of_unsent(self) -> None:
        key = (self.settings.base_url, self.settings.app_id)
        if key in self._client.warned_unsent:
            return
        if names := unsent_settings(self.settings):
            self._client.warned_unsent.add(key)
            logger.warning(
                "background runs of app %s do without these settings, which they cannot be sent: "
                "%s",
                self.settings.app_id,
                ", ".join(names),
            )
