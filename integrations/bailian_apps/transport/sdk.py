"""Builds and runs requests with the machinery of `dashscope.Application`, sync and async.

The SDK has no async `Application`, and its public `call` loses error codes and turns every frame
into an object that is thrown away again. So this room takes the two steps that `call` is made of
(both names are private to the SDK; a contract test holds our frames against the public `call`'s on
every supported version) and gives them a connection of our own.

The SDK is imported at the first call, because that takes about a second.
"""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import logging
import warnings
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast

from bailian_apps.core.decoder import finish_reason
from bailian_apps.core.errors import BailianError, InvalidInputError, ProtocolError
from bailian_apps.core.request import AppRequest
from bailian_apps.core.settings import AppSettings, check_api_key

if TYPE_CHECKING:
    from bailian_apps.transport.answer import Patience
    from bailian_apps.transport.async_http import AsyncCall
    from bailian_apps.transport.http import SyncCall

Frame: TypeAlias = Mapping[str, Any]

_in_own_call: ContextVar[bool] = ContextVar("bailian_apps_own_call", default=False)


class _SDK(NamedTuple):
    """The parts of the SDK, and of our own HTTP room, that a call needs."""

    application: Any
    build_request: Callable[..., Any]
    default_api_key: Callable[[], str]
    input_error: type[Exception]
    key_error: type[Exception]
    sync_call: type[SyncCall]
    async_call: type[AsyncCall]
    patience: type[Patience]


@cache
def _sdk() -> _SDK:
    with warnings.catch_warnings():
        # Some versions deprecate, at import, parts of themselves that have no use here.
        warnings.simplefilter("ignore", DeprecationWarning)
        from dashscope import Application
        from dashscope.api_entities import api_request_factory
        from dashscope.common.api_key import get_default_api_key
        from dashscope.common.error import AuthenticationError, DashScopeException

    from bailian_apps.transport.answer import Patience
    from bailian_apps.transport.async_http import AsyncCall
    from bailian_apps.transport.http import SyncCall

    logging.getLogger("dashscope").addFilter(_not_in_own_call)
    return _SDK(
        application=Application,
        build_request=cast("Any", api_request_factory)._build_api_request,
        default_api_key=get_default_api_key,
        input_error=DashScopeException,
        key_error=AuthenticationError,
        sync_call=SyncCall,
        async_call=AsyncCall,
        patience=Patience,
    )


def _not_in_own_call(_record: logging.LogRecord) -> bool:
    return not _in_own_call.get()


@contextmanager
def _quiet() -> Generator[None]:
    """Keep the SDK's log out of our calls: it holds whole prompts, answers and user tokens."""
    token = _in_own_call.set(True)
    try:
        yield
    finally:
        _in_own_call.reset(token)


def _typed(error: Exception) -> BailianError:
    """The error for whatever the SDK raised.

    What led to it is dropped: the libraries' errors, and the variables of the calls in a traceback,
    hold the request with its key and its words, for whatever reports errors to pick up.
    """
    error.__context__ = None
    if isinstance(error, BailianError):
        return error.with_traceback(None)
    typed = ProtocolError(f"the SDK could not read the answer ({type(error).__name__}: {error})")
    typed.__cause__ = error.with_traceback(None)
    return typed


def open_frames(
    request: AppRequest,
    settings: AppSettings,
    *,
    deadline: float | None = None,
    attach: Callable[[Callable[[], object]], None] | None = None,
) -> Generator[list[Frame]]:
    """Send `request` once and yield its frames as they come: together what came together.

    Args:
        request: What to send.
        settings: Whose key, address, workspace and timeout count.
        deadline: When the call has to end, by `time.monotonic`; None for no limit.
        attach: Is given the function with which another thread may end the call.

    Yields:
        The frames, as the SDK parsed them, in lists of at least one.

    Raises:
        BailianError: The typed error of whatever failed. Closing the generator closes the socket.
    """
    call = _sdk().sync_call(_sdk().patience(settings.limits, deadline))
    if attach is not None:
        attach(call.hang_up)
    arrivals = _Arrivals()
    try:
        frames = _build(request, settings, call).call()
        while not arrivals.over:
            token = _in_own_call.set(True)
            try:
                for frame in frames:
                    if arrivals.add(frame, more=call.lines.waiting):
                        break
                else:
                    arrivals.over = True
            except Exception as error:
                arrivals.fail(error)
            finally:
                _in_own_call.reset(token)
            if arrivals.frames:
                yield arrivals.take()
            if arrivals.error is not None:
                raise arrivals.error from arrivals.error.__cause__
            if arrivals.run_just_ended():
                call.settle()
    finally:
        call.close()


async def aopen_frames(
    request: AppRequest, settings: AppSettings, *, deadline: float | None = None
) -> AsyncGenerator[list[Frame]]:
    """As `open_frames`, natively async."""
    if not _sdk.cache_info().currsize:
        import asyncio  # 40 ms, which a program without a loop need not wait for

        await asyncio.to_thread(_sdk)  # importing the SDK would hold up the loop for a second
    call = _sdk().async_call(_sdk().patience(settings.limits, deadline))
    arrivals = _Arrivals()
    try:
        frames = await _build(request, settings, call).aio_call()
        while not arrivals.over:
            token = _in_own_call.set(True)
            try:
                async for frame in frames:
                    if arrivals.add(frame, more=call.lines.waiting):
                        break
                else:
                    arrivals.over = True
            except Exception as error:
                arrivals.fail(error)
            finally:
                _in_own_call.reset(token)
            if arrivals.frames:
                yield arrivals.take()
            if arrivals.error is not None:
                raise arrivals.error from arrivals.error.__cause__
            if arrivals.run_just_ended():
                call.settle()
    finally:
        call.close()


class _Arrivals:
    """The frames that arrived together and were not handed on yet, and how the stream ended.

    Attributes:
        frames: Those frames.
        over: Whether there will be no more.
        error: Why the stream ended, if it failed before the run had finished.
    """

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.over = False
        self.error: BailianError | None = None
        self._begun = False
        self._run: Literal["open", "ended", "settled"] = "open"

    def add(self, frame: Frame, *, more: int) -> bool:
        """Take a frame; say whether to hand on what is here. The first frame waits for none."""
        self.frames.append(frame)
        if self._run == "open" and _ends_run(frame):
            self._run = "ended"
        return not more or not self._begun

    def take(self) -> list[Frame]:
        """Hand them on."""
        frames, self.frames, self._begun = self.frames, [], True
        return frames

    def fail(self, error: Exception) -> None:
        """The stream is over; once the run had finished, only its end was lost."""
        self.over = True
        if self._run == "open":
            self.error = _typed(error)

    def run_just_ended(self) -> bool:
        """Whether the run has ended since this was last asked."""
        ended = self._run == "ended"
        if ended:
            self._run = "settled"
        return ended


def _ends_run(frame: Frame) -> bool:
    output = frame.get("output")
    return isinstance(output, dict) and finish_reason(cast("Frame", output)) is not None


def _build(request: AppRequest, settings: AppSettings, call: SyncCall | AsyncCall) -> Any:
    """The SDK's request object, ready to be called."""
    sdk = _sdk()
    fields = request.input()
    # The SDK sends a header for the workspace only from here.
    headers = {"X-DashScope-WorkSpace": settings.workspace} if settings.workspace else {}
    with _quiet():
        wire_input, parameters = sdk.application._build_input_parameters(
            fields.pop("prompt", None),
            None,
            fields.pop("messages", None),
            **fields,
            **request.parameters(),
        )
        try:
            return sdk.build_request(
                model="",
                input=wire_input,
                task_group=sdk.application.task_group,
                task=request.app_id,
                function=sdk.application.function,
                workspace=settings.workspace,
                api_key=_api_key(settings, sdk),
                is_service=False,
                stream=True,
                headers=headers,
                base_address=settings.base_url,
                user_agent=_user_agent(),
                session=call,
                sdk_module="app",
                **parameters,
            )
        except sdk.input_error as error:
            # The address of some regions holds the workspace: the SDK says so.
            raise InvalidInputError("workspace", "is missing", str(error)) from None


def _api_key(settings: AppSettings, sdk: _SDK) -> str:
    if settings.api_key is not None:
        return check_api_key(settings.api_key.get_secret_value())  # unpickled, it was read anew
    try:
        return check_api_key(sdk.default_api_key())
    except (sdk.key_error, OSError):
        raise InvalidInputError(
            "api_key", "is missing", "Set DASHSCOPE_API_KEY in the environment, or pass api_key="
        ) from None


@cache
def _user_agent() -> str:
    return f"bailian-apps/{version('bailian-apps')}"


class SDKDefaults(NamedTuple):
    """What a call falls back on where neither the settings nor the environment say."""

    base_url: str
    key_file: Path


def sdk_defaults() -> SDKDefaults:
    """The SDK's own rules. Its address may hold `{workspace_id}`."""
    _sdk()
    import dashscope
    from dashscope.common.constants import DEFAULT_DASHSCOPE_API_KEY_FILE_PATH

    return SDKDefaults(
        base_url=str(dashscope.base_http_api_url),
        key_file=Path(dashscope.api_key_file_path or DEFAULT_DASHSCOPE_API_KEY_FILE_PATH),
    )
