"""One-line messages for invalid input: pydantic's errors, and suggestions for misspelt names."""

from collections.abc import Iterable
from difflib import get_close_matches

from pydantic import ValidationError


def first_problem(error: ValidationError) -> str:
    """Return the first problem as `field: message`, without the value."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{path}: {message}" if path else message


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean …?` for the closest of `names`, or an empty string."""
    close = get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""
