"""One request about a run, with its attempts. Sync and async differ in `await`."""

from __future__ import annotations

import logging
import time
from typing import Any

from pydantic import SecretStr

from bailian_apps.core.errors import BailianError, ConnectError
from bailian_apps.core.retry import KeyReader, did_not_start, retry_delay_s
from bailian_apps.core.settings import AppSettings
from bailian_apps.transport.request_builder import resolve_api_key
from bailian_apps.transport.responses_api import AsyncRuns, RunAnswer, RunCall, SyncRuns
from bailian_apps.transport.timeouts import key_before

logger = logging.getLogger(__name__)


def total_deadline(settings: AppSettings) -> float:
    """Return when a call that begins now has to end, by `time.monotonic`; infinity for no limit."""
    total_s = settings.timeouts.total_s
    return float("inf") if total_s is None else time.monotonic() + total_s


class RunRequest:
    """One request about a run.

    Attributes:
        attempts: How many times it was sent.
        may_have_been_done: Whether an attempt before the last one may have done what was asked.
    """

    def __init__(
        self,
        call: RunCall,
        settings: AppSettings,
        *,
        repeats: bool | None = None,
        timeout_s: float | None = None,
        deadline: float | None = None,
    ) -> None:
        """Prepare a request.

        Args:
            call: What is sent.
            settings: Its key, timeout, `max_retries` and `idempotent` are used.
            repeats: Whether it is repeated where its outcome is unknown; None for the setting
                `idempotent`.
            timeout_s: Seconds to wait for the answer to one attempt; None for the setting.
            deadline: When all attempts have to end, by `time.monotonic`; None for `total_s` from
                now on.
        """
        self.attempts = 0
        self.may_have_been_done = False
        self._call = call
        self._settings = settings
        given = {} if repeats is None else {"idempotent": repeats}
        self._rules = settings.model_copy(update=given)
        limits = settings.timeouts
        self._timeout_s = limits.first_frame_s if timeout_s is None else timeout_s
        self._connect_s = limits.connect_s
        self._deadline = total_deadline(settings) if deadline is None else deadline
        self._keys = KeyReader(settings.api_key) if callable(settings.api_key) else None
        self._uncounted = 0  # how many of the attempts do not count against `max_retries`

    def send(self, connection: SyncRuns) -> RunAnswer:
        """Send it until it is answered.

        Raises:
            BailianError: It failed, and is not sent again.
        """
        while True:
            try:
                key = self._own_key() if self._keys is None else self._keys.read()
                self._require_time()
                return connection.send(self._call, key, **self._limits())
            except BailianError as error:
                delay_s = self._delay_or_raise(error)
            time.sleep(delay_s)

    async def asend(self, connection: AsyncRuns) -> RunAnswer:
        """As `send`, natively async."""
        import asyncio  # 40 ms, which a program without a loop does not pay

        deadline = None if self._deadline == float("inf") else self._deadline
        while True:
            try:
                if self._keys is None:
                    key = self._own_key()
                else:
                    key = await key_before(deadline, self._keys.aread())
                self._require_time()
                return await connection.send(self._call, key, **self._limits())
            except BailianError as error:
                delay_s = self._delay_or_raise(error)
            await asyncio.sleep(delay_s)

    def _require_time(self) -> None:
        if time.monotonic() >= self._deadline:
            raise ConnectError("total_s passed before the request could be sent")

    def _own_key(self) -> SecretStr:
        return SecretStr(resolve_api_key(self._settings))

    def _limits(self) -> dict[str, Any]:
        self.attempts += 1
        left_s = max(self._deadline - time.monotonic(), 0.001)
        return {"timeout_s": min(self._timeout_s, left_s), "connect_s": self._connect_s}

    def _delay_or_raise(self, error: BailianError) -> float:
        """Return the seconds until the next attempt, or raise the error.

        Its context and traceback are dropped: the frames there hold the key and the prompt.
        """
        error.__context__ = error.__traceback__ = None
        if self._keys is not None and self._keys.asks_again_after(error):
            self._uncounted += 1
            return 0.0
        attempt = self.attempts - self._uncounted
        delay_s = retry_delay_s(error, attempt=attempt, settings=self._rules)
        if delay_s is None or time.monotonic() + delay_s >= self._deadline:
            error.attempts, error.idempotent = self.attempts, self._settings.idempotent
            error.run_id = self._call.run_id or None
            raise error.with_traceback(None)
        self.may_have_been_done |= not did_not_start(error)
        logger.warning(
            "attempt %d to %s a run of app %s failed with %s; retrying in %.1f s",
            self.attempts,
            self._call.action,
            self._settings.app_id,
            type(error).__name__,
            delay_s,
        )
        return delay_s
