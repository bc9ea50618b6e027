"""`BailianApp`: an app, called from Python. Settings, and the four ways to call it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import Unpack

from bailian_apps.client import Client
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.events import AppEvent
from bailian_apps.core.history import Plan
from bailian_apps.core.invalid_input import require_type
from bailian_apps.core.keywords import AppCallKeywords, SettingKeywords
from bailian_apps.core.result import AppResult
from bailian_apps.core.settings import AppSettings
from bailian_apps.core.tracebacks import hides_arguments, take
from bailian_apps.run import EventStream, Run

if TYPE_CHECKING:
    from bailian_apps.background.run import BackgroundRun
    from bailian_apps.background.submission import Submission


class BailianApp:
    """An app on Bailian (Model Studio), called from Python.

    It holds settings and no conversation, so one object serves any number of threads, tasks and
    users. To continue a conversation, pass the `session_id` of an earlier result.

    Example:
        ```python
        app = BailianApp(app_id="…")  # the key is read from DASHSCOPE_API_KEY
        result = app.invoke("Plan a day in Hangzhou", biz_params={"city": "Hangzhou"})
        print(result.text)
        for event in app.stream("And a second day?", session_id=result.session_id):
            print(event)
        ```
    """

    @hides_arguments
    def __init__(
        self,
        settings: AppSettings | None = None,
        /,
        *,
        client: Client | None = None,
        **fields: Unpack[SettingKeywords],
    ) -> None:
        """Make an app from settings, or from their fields.

        Args:
            settings: Ready settings.
            client: The connections to use; None for the default client's.
            **fields: The fields of `AppSettings`; with `settings`, those to replace.

        Raises:
            InvalidInputError: A field is unknown or not valid.
        """
        problems: list[InvalidInputError] = []
        if not isinstance(cast("object", client), Client | None):
            problems.append(InvalidInputError("client", "must be a Client"))
        self.client = client
        try:
            if settings is not None:
                require_type(settings, AppSettings, "settings")
            self.settings = (
                AppSettings.of(fields) if settings is None else settings.with_overrides(fields)
            )
        except InvalidInputError as error:
            problems.append(error)
        if problems:
            raise InvalidInputError.of(problems)

    def __repr__(self) -> str:
        """Show the app's id only; settings may hold secrets."""
        settings = getattr(self, "settings", None)  # None while a constructor refuses its fields
        return f"BailianApp(app_id={settings and settings.app_id!r})"

    def invoke(self, prompt: str | None = None, **options: Unpack[AppCallKeywords]) -> AppResult:
        """Run the app and wait for the whole answer.

        Args:
            prompt: The user's prompt; None when `messages` are passed.
            **options: What only a call has (`messages`, `session_id`, `image_list`, `file_list`, …,
                see `AppRequest`), and any field of `AppSettings` to override.

        Returns:
            The result: the fold of `stream`.

        Raises:
            InvalidInputError: An argument cannot be sent; nothing was.
            BailianError: The call failed; `partial` holds what had arrived.
        """
        return self._run(prompt, options).invoke()

    async def ainvoke(
        self, prompt: str | None = None, **options: Unpack[AppCallKeywords]
    ) -> AppResult:
        """As `invoke`, natively async."""
        return await self._run(prompt, options).ainvoke()

    def stream(self, prompt: str | None = None, **options: Unpack[AppCallKeywords]) -> EventStream:
        """Run the app and yield its events as they happen.

        Deltas of one step (or of the answer) that arrive together are one event. A reader slower
        than the network gets fewer and longer deltas; joined, they are the same. Nothing waits for
        more to arrive.

        Arguments are checked at once; the request is sent at the first `next`. Closing the stream
        closes the connection.

        Args:
            prompt: As for `invoke`.
            **options: As for `invoke`.

        Returns:
            The events of the run; the last is `RunFinished`, with the whole result.

        Raises:
            InvalidInputError: An argument cannot be sent; nothing was.
            BailianError: The call failed; `partial` holds what had arrived.
        """
        return self._run(prompt, options).stream()

    def astream(
        self, prompt: str | None = None, **options: Unpack[AppCallKeywords]
    ) -> AsyncGenerator[AppEvent]:
        """As `stream`, natively async."""
        return self._run(prompt, options).astream()

    def submit(
        self,
        prompt: str | None = None,
        *,
        mark: str | None = None,
        **options: Unpack[AppCallKeywords],
    ) -> BackgroundRun:
        """Start a run in the background of the cloud, for hours if it takes that long.

        The cloud then has no session, and takes no parameters: pass the whole conversation as
        `messages`. Settings of the app that cannot be sent are left out, with a warning.

        Args:
            prompt: As for `invoke`.
            mark: What `submission_mark` returned, to be stored before: a mark that is used again,
                or in another process, is refused.
            **options: `messages`, `image_list`, `file_list`, `biz_params`, and any setting that is
                not a part of the request.

        Returns:
            The run. Its `id` finds it again in any process, with `background_run`.

        Raises:
            InvalidInputError: An argument cannot be sent with a background run; nothing was sent.
            SubmissionUnknownError: The mark was made by another process, or was used.
            BailianError: Submitting failed. It is repeated only where it certainly started no run
                (not connected, HTTP 429 or 503), or if the app is `idempotent`.
            ImportError: `openai` is not installed: `pip install "bailian-apps[background]"`.
        """
        return self._submission(prompt, mark, options).submit()

    async def asubmit(
        self,
        prompt: str | None = None,
        *,
        mark: str | None = None,
        **options: Unpack[AppCallKeywords],
    ) -> BackgroundRun:
        """As `submit`, natively async."""
        return await self._submission(prompt, mark, options).asubmit()

    def background_run(self, run_id: str) -> BackgroundRun:
        """Return a run by its id, in any process. Nothing is asked of the cloud.

        Raises:
            InvalidInputError: The id is none.
        """
        from bailian_apps.background.run import BackgroundRun

        return BackgroundRun(self.settings, run_id, client=self.client)

    @hides_arguments
    def _submission(
        self, prompt: str | None, mark: str | None, keywords: AppCallKeywords
    ) -> Submission:
        from bailian_apps.background.submission import Submission
        from bailian_apps.core.responses_api import refuse_unsent

        given = take(keywords)
        refuse_unsent(given)
        settings, plan, options = self._plan(prompt, given)
        return Submission(settings, plan, options, client=self.client, mark=mark)

    @hides_arguments
    def _run(self, prompt: str | None, keywords: AppCallKeywords) -> Run:
        settings, plan, options = self._plan(prompt, keywords)
        return Run(settings, plan, options, client=self.client)

    def _plan(
        self, prompt: str | None, keywords: Mapping[str, Any]
    ) -> tuple[AppSettings, Plan, dict[str, Any]]:
        options = take(keywords)
        if prompt is not None or "messages" not in options:
            options["prompt"] = prompt
        settings, options = self.settings.split(options)
        return settings, Plan(app_id=settings.app_id), options
