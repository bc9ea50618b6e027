"""Every way an app call can fail, as one tree.

::

    BailianError
    ├── InvalidInputError            your input; nothing was sent (also a ValueError)
    ├── InvalidOutputError           the app ran; its answer does not fit your `output_schema`
    ├── NoResultError                a background run that goes on, or was cancelled
    ├── SubmissionUnknownError       a background run may have been submitted by another process
    ├── APIError                     the cloud answered with an error
    │   ├── BadRequestError          400
    │   │   └── ContentBlockedError  400 DataInspectionFailed
    │   ├── AuthenticationError      401
    │   ├── PermissionDeniedError    403
    │   ├── NotFoundError            404
    │   ├── BillingError             overdue, not purchased, free quota used up
    │   ├── RateLimitError           429 Throttling
    │   ├── ServiceUnavailableError  503
    │   ├── AppFailedError           the app's own node, plugin or retrieval failed
    │   └── ServerError              500 and the like; the run may have happened
    └── TransportError               no readable answer arrived
        ├── ConnectError             not connected; nothing was sent
        ├── ConnectionLostError      lost before the HTTP head; the run may have happened
        ├── RequestTimeoutError      waited too long (also a TimeoutError)
        ├── ProtocolError            an answer that the API does not document
        └── StreamInterruptedError   the stream ended before the run did; see `partial`

Which class an error of the cloud has is decided in `core.api_errors`.
An error carries a fact, `request_state`. What may be sent again follows from it in `core.retry`.
"""

from __future__ import annotations

import calendar
import email.utils
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from typing_extensions import override

from bailian_apps.core.language import (
    N_,
    Language,
    Message,
    adds_translations,
    chosen_language,
    language,
    translated,
)
from bailian_apps.core.text import one_line, printable

if TYPE_CHECKING:
    from bailian_apps.core.result import AppResult

RequestState: TypeAlias = Literal["not_sent", "unknown", "answered"]
"""What is certain about a failed request: it was not sent; it was sent, and whether the app ran is
unknown; or the cloud answered it with an HTTP error before any frame."""


class BailianError(Exception):
    """The base class of every error that this package raises about a call.

    Its `str` is one printable line of at most 2,000 characters, whatever the cloud answered. It is
    English, or Chinese if `BAILIAN_LANG=zh` is set; the attributes are always English. If only the
    locale is Chinese, tracebacks add a note in Chinese (Python 3.11 and newer).

    Attributes:
        message: What went wrong; of an answer of the cloud, with its text as it came.
        code: The cloud's error code such as `"Throttling.RateQuota"`, or None.
        status_code: The HTTP status, or None where there was none.
        request_id: The cloud's id of the request, to quote to its support, or None.
        session_id: The session of the call, where one was known.
        run_id: The id of the background run that the call was about, or None.
        partial: What had been received before the failure, or None before the first frame.
        retry_after_s: Seconds the server asked to wait, or None.
        attempts: How many times the request was sent, this one included.
        request_state: What is certain about the request, see `RequestState`.
        idempotent: Whether the app of the call was declared `idempotent`.
    """

    request_state: RequestState = "unknown"
    idempotent: bool = False
    _language: Language | None = None  # of `str`; None leaves it to `BAILIAN_LANG`

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status_code: int | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """Store the facts; the call sets the rest, such as `partial` and `attempts`."""
        super().__init__(one_line(message, _MAX_MESSAGE))
        self.message = str(message)
        self._text = message  # it may know its translation
        self.code = code
        self.status_code = status_code
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.session_id: str | None = None
        self.run_id: str | None = None
        self.partial: AppResult | None = None
        self.attempts = 1
        if adds_translations():
            self._add_translation()

    @property
    def is_retryable(self) -> bool:
        """Whether the same call may succeed if it is made again, and cannot run the app twice.

        Running it twice is accepted if the app is `idempotent`.
        """
        from bailian_apps.core.retry import is_retryable  # it imports this module

        return is_retryable(self, idempotent=self.idempotent)

    def __str__(self) -> str:
        """Return the code, the message and what the cloud's support asks for, on one line."""
        return self.describe(self._language or chosen_language() or "en")

    def use_english(self) -> None:
        """Make `str` English: a model reads it. People still find `BAILIAN_LANG=zh` in a note."""
        self._language = "en"
        if chosen_language() == "zh":
            self._add_translation()

    def describe(self, into: Language | None = None) -> str:
        """Return what `str` returns, in a language.

        Args:
            into: `"en"` or `"zh"`; by default the language of the user, as the command line has it.
        """
        into = into or language()
        attempts = N_("{count} attempts").format(count=self.attempts)
        facts = [
            f"HTTP {self.status_code}" if self.status_code else "",
            f"request_id {self.request_id}" if self.request_id else "",
            f"run {self.run_id}" if self.run_id else "",
            translated(attempts, into) if self.attempts > 1 else "",
        ]
        shown = ", ".join(fact for fact in facts if fact)
        head = f"[{self.code}] " if self.code else ""
        text = f"{head}{self._message(into)}"
        if shown:
            text += translated(N_(" ({facts})").format(facts=shown), into)
        return one_line(text, _MAX_MESSAGE)

    def _message(self, into: Language) -> str:
        return self.message if into == "en" else translated(self._text, into)

    def _add_translation(self) -> None:
        text = self._message("zh")
        if text != self.message and hasattr(self, "add_note"):
            note = one_line(text, _MAX_MESSAGE)
            others = [each for each in getattr(self, "__notes__", ()) if each != note]
            self.__notes__ = [*others, note]


_MAX_MESSAGE = 2_000  # characters
_MAX_DETAILS = 1_600  # of a list of fields, with what is wrong with each; the rest are only named
_MAX_FIELD = 200
_FIRST_WIDE = "\u2e80"  # Chinese characters and their punctuation have no spaces between them


class InvalidInputError(BailianError, ValueError):
    """One or more arguments that cannot be sent. Nothing was sent.

    The message lists every field that is wrong.

    Attributes:
        field: The first field that is wrong, with its path: `"biz_params.order.when"`. In a key,
            characters that are not printable are escaped.
        problem: What is wrong with it, by type, never by value: `"must be a str, not an int"`.
        hint: What to do about it; may be empty.
        others: The same for each other field that is wrong.
    """

    request_state: RequestState = "not_sent"

    def __init__(
        self, field: str, problem: str, hint: str = "", others: Sequence[InvalidInputError] = ()
    ) -> None:
        """Make the error of one field, and of `others` that are wrong too."""
        self.field = str(printable(field))
        self.problem = str(printable(problem))
        self.hint = str(printable(hint))
        self._parts = (field, problem, hint)  # they may know their translations
        self.others = tuple(each for other in others for each in other.each())
        super().__init__(self._message("en"))

    @classmethod
    def of(cls, errors: Sequence[InvalidInputError]) -> InvalidInputError:
        """Return one error for all of them; there must be one at least."""
        first, *others = [each for error in errors for each in error.each()]
        return cls(*first._parts, others) if others else first

    def each(self) -> Iterator[InvalidInputError]:
        """Yield an error for each field that is wrong."""
        if self.others:
            yield InvalidInputError(*self._parts)
            yield from self.others
        else:
            yield self

    def renamed(self, field: str) -> InvalidInputError:
        """Return the error of the first field alone, under another name of the field."""
        return InvalidInputError(field, *self._parts[1:])

    @override
    def _message(self, into: Language) -> str:
        return self._list(into) if self.others else self._describe(into)

    def _describe(self, into: Language) -> str:
        field, problem, hint = self.field, self.problem, self.hint
        if into == "zh":
            named, *rest = self._parts
            # A plain text is a name in the program.
            field = printable(translated(named, into) if isinstance(named, Message) else named)
            problem, hint = (printable(translated(each, into)) for each in rest)
        space = "" if into == "zh" and field[-1:] >= _FIRST_WIDE else " "
        text = f"{_shortened(field, _MAX_FIELD)}{space}{problem}"
        return _shortened(text + (translated(N_(". "), into) + hint if hint else ""), _MAX_MESSAGE)

    def _list(self, into: Language) -> str:
        errors = list(self.each())
        text = translated(N_("{count} arguments are not valid: ").format(count=len(errors)), into)
        separator = translated(N_("; "), into)
        for number, error in enumerate(errors, 1):
            detail = f"{'' if number == 1 else separator}({number}) {error._describe(into)}"
            if len(text) + len(detail) > _MAX_DETAILS:
                rest = errors[number - 1 :]
                names = ", ".join(_shortened(each.field, _MAX_FIELD) for each in rest)
                more = N_("; and {count} more: {names}").format(count=len(rest), names=names)
                return _shortened(text + translated(more, into), _MAX_MESSAGE)
            text += detail
        return text

    def __reduce__(self) -> tuple[type[InvalidInputError], tuple[object, ...], dict[str, Any]]:
        """Pickle by the parts, because `args` holds only the message."""
        return type(self), (*self._parts, self.others), self.__dict__


class InvalidOutputError(BailianError):
    """The app ran, and its answer does not fit `output_schema`. The request is not sent again.

    `partial` is the whole result, with the answer as it came in its `text`.

    Attributes:
        fields: The fields that do not fit, with their paths: `"days[0].city"`. Empty if the answer
            is not JSON.
    """

    fields: tuple[str, ...] = ()


class NoResultError(BailianError):
    """A background run has no result: it has not ended yet, or it was cancelled.

    Attributes:
        status: The run's status, as `BackgroundRun.status`.
    """

    request_state: RequestState = "answered"
    status: str | None = None


class SubmissionUnknownError(BailianError):
    """A background run may have been submitted with this mark before; nothing was sent now.

    The mark was made by another process, or was used before. Whether that submission reached the
    cloud is not known; if it did, its run goes on there.
    """


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


class APIError(BailianError):
    """The cloud answered with an error."""

    request_state: RequestState = "answered"


class BadRequestError(APIError):
    """HTTP 400: the cloud refused the request as it is."""


class ContentBlockedError(BadRequestError):
    """The content inspection refused the prompt or the answer."""


class AuthenticationError(APIError):
    """HTTP 401: the API key is missing or wrong."""


class PermissionDeniedError(APIError):
    """HTTP 403: the key may not use this app, or the app is not published."""


class NotFoundError(APIError):
    """HTTP 404: no such app, model or workspace."""


class BillingError(APIError):
    """The account cannot pay for the call; waiting does not help."""


class RateLimitError(APIError):
    """HTTP 429: too many requests. As an HTTP status, it means that the run did not start."""


class ServiceUnavailableError(APIError):
    """HTTP 503: the service cannot take the request now. As for 429."""


class AppFailedError(APIError):
    """The app itself failed: one of its nodes, plugins or retrievals."""


class ServerError(APIError):
    """HTTP 5xx: the service failed. The run may have happened."""


class TransportError(BailianError):
    """No readable answer arrived."""


class ConnectError(TransportError):
    """The connection was not made. Nothing was sent.

    Attributes:
        permanent: Whether another attempt would fail in the same way: the proxy or the
            certificates in the environment are wrong, the server's certificate is refused, no
            event loop of asyncio is running, or a test forbids the call.
    """

    request_state: RequestState = "not_sent"
    permanent: bool = False


class ConnectionLostError(TransportError):
    """Lost after sending, before the answer's HTTP head. The run may have happened.

    After the head of a stream, it is a `StreamInterruptedError`, also before the first frame.
    """


class RequestTimeoutError(TransportError, TimeoutError):
    """The answer, or its next part, did not arrive in time. The run may have happened."""


class ProtocolError(TransportError):
    """An answer that the API does not document, such as a proxy's HTML page or a redirect."""


class StreamInterruptedError(TransportError):
    """The stream ended before the run finished. `partial` is what had arrived, None if no frame."""


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read `Retry-After` as seconds; anything else is None (RFC 9110, 10.2.3).

    A date there is counted from the answer's own `Date`, or from now if it has none.
    """
    fields = {name.lower(): value for name, value in headers.items()}
    value = fields.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        until = _unix_seconds(value)
        if until is None:
            return None
        since = _unix_seconds(fields.get("date", ""))
        seconds = max(until - (time.time() if since is None else since), 0.0)
    return seconds if 0 <= seconds < float("inf") else None


def _unix_seconds(http_date: str) -> float | None:
    parsed = email.utils.parsedate(http_date)  # they are all in GMT
    try:
        return None if parsed is None else float(calendar.timegm(parsed))
    except (ValueError, OverflowError):
        return None
