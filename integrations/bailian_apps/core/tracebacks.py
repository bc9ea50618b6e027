"""What keeps a call's arguments, which may hold secrets, out of tracebacks. Pure.

An error reporter collects the variables of every frame on a traceback.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from bailian_apps.core.errors import BailianError

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def take(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a call's arguments and empty the given dict.

    The dict is a variable of the frame that was called. That frame stays on the traceback when the
    call fails, for any error reporter to collect with its variables.
    """
    taken = dict(kwargs)
    cast("dict[str, Any]", kwargs).clear()
    return taken


def hides_arguments(function: FunctionT) -> FunctionT:
    """Decorate what checks arguments: the errors it raises come without the frames that hold them.

    An error names its field, so little is lost.
    """

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except BailianError as error:
            del args, kwargs
            error.__context__ = None
            raise error.with_traceback(None)  # noqa: B904 - it is the same error

    return cast("FunctionT", checked)
