"""Pydantic's errors as `InvalidInputError`: every field that is wrong, and no value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

from pydantic import BaseModel, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.json_values import kind_of
from bailian_apps.core.language import N_, Message
from bailian_apps.core.request import AppRequest
from bailian_apps.core.tracebacks import hides_arguments

_PASS = N_("Pass {field}=")
# Pydantic's texts, by the type of its error: with a limit, and without.
_LIMITS = {
    "greater_than": N_("must be greater than {gt}"),
    "greater_than_equal": N_("must be greater than or equal to {ge}"),
    "less_than": N_("must be less than {lt}"),
    "less_than_equal": N_("must be less than or equal to {le}"),
    "literal_error": N_("must be {expected}"),
    "is_instance_of": N_("must be an instance of {class}"),
}
_TYPES = (
    N_("must be a valid boolean"),
    N_("must be a valid integer"),
    N_("must be a valid integer, got a number with a fractional part"),
    N_("must be a valid number"),
    N_("must be a valid string"),
    N_("must be a valid list"),
    N_("must be a valid tuple"),
    N_("must be a valid dictionary"),
    N_("must be a valid dictionary or instance of Message"),
    N_("must be a finite number"),
)


def raise_invalid_input(
    error: ValidationError,
    *,
    within: str = "",
    names: Iterable[str] | None = None,
    missing: Message = _PASS,
) -> NoReturn:
    """Raise pydantic's errors as one `InvalidInputError`, which never shows a value.

    Neither do the frames of its traceback: pydantic's error holds the values.

    Args:
        error: What pydantic raised.
        within: The field that holds the model that was validated, if any.
        names: The names that would have been valid, to suggest one for an unknown name.
        missing: What to do about a missing `{field}`.

    Raises:
        InvalidInputError: Always; it names each field and its fix.
    """
    invalid = InvalidInputError.of(
        invalid_inputs(error, within=within, names=names, missing=missing)
    )
    error.__traceback__ = None
    raise invalid from None


def invalid_inputs(
    error: ValidationError,
    *,
    within: str = "",
    names: Iterable[str] | None = None,
    missing: Message = _PASS,
) -> list[InvalidInputError]:
    """Return an `InvalidInputError` for each error of pydantic's; as `raise_invalid_input`."""
    known = list(AppRequest.model_fields if names is None else names)
    errors = error.errors(include_url=False)
    return [_invalid_input(each, within, known, missing) for each in errors]


def invalid_options(
    options: Mapping[str, Any], *, names: Iterable[str] | None = None
) -> list[InvalidInputError]:
    """Return what is wrong with the fields of an `AppRequest`; nothing if it can be sent.

    Args:
        options: The fields. What is to be sent may be missing: then it is not checked.
        names: As for `raise_invalid_input`.
    """
    fields = {"app_id": "app", **options}
    if "prompt" not in fields and "messages" not in fields:
        fields["prompt"] = "prompt"
    try:
        AppRequest.model_validate(fields)
    except ValidationError as error:
        problems = invalid_inputs(error, names=names)
        wrong = {each["loc"][0] for each in error.errors(include_url=False) if each["loc"]}
        error.__traceback__ = None
        if wrong and wrong.isdisjoint(("prompt", "messages")):
            # pydantic relates fields to each other only where every one is valid.
            rest = {name: value for name, value in fields.items() if name not in wrong}
            problems += invalid_options(rest, names=names)
        return problems
    return []


def require_type(value: object, kind: type, field: str) -> None:
    """Refuse an argument that is not of a type.

    Raises:
        InvalidInputError: It is of another type.
    """
    if not isinstance(value, kind):
        problem = N_("must be a {type}, not {kind}").format(type=kind.__name__, kind=kind_of(value))
        raise InvalidInputError(field, problem)


class CheckedModel(BaseModel):
    """A model whose constructor raises `InvalidInputError` in place of pydantic's error."""

    if not TYPE_CHECKING:  # type checkers infer the fields better than from `**fields`

        @hides_arguments
        def __init__(self, **fields: Any) -> None:
            """Create it from its fields.

            Args:
                **fields: See the class.

            Raises:
                InvalidInputError: A field is unknown or invalid. The error names each.
            """
            try:
                super().__init__(**fields)
            except ValidationError as error:
                known = type(self).model_fields.items()
                raise_invalid_input(error, names=[info.alias or name for name, info in known])


def check_nested(value: object, info: ValidationInfo, model: type[CheckedModel]) -> object:
    """Return a dict as the model that a field holds; anything else unchanged.

    Raises:
        InvalidInputError: A field of the model is unknown or invalid; it has its whole path.
    """
    if not isinstance(value, Mapping):
        return value
    fields = {str(name): item for name, item in cast("Mapping[object, Any]", value).items()}
    try:
        return model(**fields)
    except InvalidInputError as error:
        raise InvalidInputError.of(
            [each.renamed(f"{info.field_name}.{each.field}") for each in error.each()]
        ) from None


def _invalid_input(
    error: ErrorDetails, within: str, names: Sequence[str], missing: Message
) -> InvalidInputError:
    path = _path_parts(error["loc"], within)
    cause = (error.get("ctx") or {}).get("error")
    if isinstance(cause, InvalidInputError):
        return InvalidInputError.of([_at(path, each) for each in cause.each()])
    field = ".".join(path) or "arguments"
    if error["type"] == "extra_forbidden" and path[0].startswith("messages["):
        return InvalidInputError(field, "is not a key of a message", "Pass only role and content")
    if error["type"] == "extra_forbidden":
        return InvalidInputError(field, "is not a setting", _spelling_hint(path[-1], names))
    if error["type"] == "missing":
        return InvalidInputError(field, "is missing", missing.format(field=field))
    problem = _problem_of(error)
    if not problem.startswith("must"):
        return InvalidInputError(field, N_("is not valid: {problem}").format(problem=problem))
    if error["type"].endswith(("_type", "_parsing")):
        kind = kind_of(error["input"])
        problem = N_("{problem}, not {kind}").format(problem=problem, kind=kind)
    return InvalidInputError(field, problem)


def _problem_of(error: ErrorDetails) -> str:
    """Return what pydantic says of a value, as a text that can be translated."""
    if error["type"] in _LIMITS:
        values: dict[str, Any] = dict(error.get("ctx", {}))
        if error["type"].startswith(("greater", "less")):
            values = dict.fromkeys(values, error["msg"].rpartition(" ")[2])  # 2 and not 2.0
        first, either, last = str(values.get("expected", "")).rpartition(" or ")
        if either:
            values["expected"] = N_("{first} or {last}").format(first=first, last=last)
        return _LIMITS[error["type"]].format(**values)
    text = error["msg"].replace("Input should", "must")
    return N_(text.partition(",")[0] if error["type"].endswith(("_type", "_parsing")) else text)


def field_path(loc: Sequence[int | str]) -> str:
    """Return the path of a field that pydantic reports, such as `order.items[0].name`."""
    return ".".join(_path_parts(loc, ""))


def _path_parts(loc: Sequence[int | str], within: str) -> list[str]:
    path = [within] if within else []
    for part in loc:
        if isinstance(part, int) and path:
            path[-1] += f"[{part}]"
        else:
            path.append(str(part))
    return path


def _at(path: Sequence[str], error: InvalidInputError) -> InvalidInputError:
    """Return a validator's error, which names its own field, with that field's whole path."""
    last = path[-1] if path else ""  # an item's index is in the path alone
    item = last if last.startswith(f"{error.field}[") else error.field
    return error.renamed(".".join([*path[:-1], item]))


def _spelling_hint(name: str, known: Sequence[str]) -> str:
    """Return what to do about an unknown name of a setting or option."""
    import difflib

    if name == "client":
        return N_("Pass it to the constructor")
    close = difflib.get_close_matches(name, known, n=1)
    # A name of another package's may hold ours: `dashscope_api_key`, `request_timeout`.
    close += sorted((each for each in known if f"_{each}" in name), key=len, reverse=True)
    if close:
        return N_("Did you mean {name!r}?").format(name=close[0])
    if "extra_body" in known:
        return N_("Check its spelling, or pass a parameter that has no setting in extra_body")
    return N_("Check its spelling")
