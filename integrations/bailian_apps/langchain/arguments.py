"""What a tool and a Runnable take from their caller: one meaning of `biz_params_schema`. Pure.

A field of the schema is accepted by its name or an alias, and sent under its serialization alias. A
field that the caller leaves out, or passes as None, has its value from the setting `biz_params` if
that has one, and otherwise its default. None is not sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, cast

from langchain_core.tools import InjectedToolArg
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, create_model

from bailian_apps.core.attachments import MEDIA_OPTIONS
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.invalid_input import raise_invalid_input
from bailian_apps.core.language import N_
from bailian_apps.core.redaction import to_json_values

PROMPT, RUNTIME = "prompt", "runtime"
_OWN_NAMES = {PROMPT, RUNTIME, "run_manager", "run_config"}
_NOT_SENT = {PROMPT, RUNTIME, *MEDIA_OPTIONS}


class _ByName(BaseModel):
    # LangChain shows a model the field's name, even if the field has an alias. An error must not
    # show what was passed, which may be a secret.
    model_config = ConfigDict(populate_by_name=True, hide_input_in_errors=True)


class _PromptArgument(_ByName):
    prompt: str = Field(min_length=1, description="What to ask, in full and in plain words.")


class _RuntimeArgument(BaseModel):
    # LangGraph injects an argument named `runtime` and does not show it to the model.
    runtime: Annotated[Any, InjectedToolArg] = None


def tool_schema(
    name: str, args_schema: Any, biz_params_schema: Any, *, remember: bool
) -> type[BaseModel] | dict[str, Any]:
    """Return the schema of a tool's arguments: the given one, or a generated one.

    Args:
        name: The tool's name.
        args_schema: The given schema of all arguments, if any.
        biz_params_schema: The schema of the start variables, if any.
        remember: Whether the tool needs the agent's state.

    Raises:
        InvalidInputError: A schema cannot be used.
    """
    if isinstance(args_schema, dict):
        schema = cast("dict[str, Any]", args_schema)
        if remember:
            raise InvalidInputError(
                "args_schema",
                "must be a pydantic model if remember=True, not a JSON schema",
                "Pass a pydantic model",
            )
        _require_prompt(PROMPT in schema.get("properties", {}))
        return schema
    base: Any = args_schema or biz_params_schema
    bases: list[Any] = [base] if base else []
    names: set[str] = set(base.model_fields) if base else set()
    if args_schema:
        _require_prompt(PROMPT in names)
        if not remember or RUNTIME in names:  # a copied tool passes the schema generated before
            return _accepting_names(args_schema)
    elif clash := names & _OWN_NAMES:
        raise InvalidInputError(
            "biz_params_schema",
            N_("has a field {name!r}, which is an argument of the tool itself").format(
                name=min(clash)
            ),
            "Rename the field and set the old name as its alias",
        )
    if remember:
        bases.append(_RuntimeArgument)
    bases.append(_ByName if args_schema else _PromptArgument)
    title = "".join(part.title() for part in name.replace("-", "_").split("_")) + "Arguments"
    return create_model(title, __base__=tuple(bases))


def _require_prompt(present: bool) -> None:
    if not present:
        raise InvalidInputError(
            "args_schema", "has no field 'prompt'", "Add one: its value is sent to the app"
        )


def start_variables(
    schema: type[BaseModel], biz_params: Mapping[str, Any], variables: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the `biz_params` of a call, with its start variables.

    Args:
        schema: The schema of the start variables.
        biz_params: Parameters that are sent in any case, by their names in the app. Those that are
            fields of the schema are values of the fields.
        variables: The start variables of this call. What is no field of the schema is not sent.

    Raises:
        InvalidInputError: A variable is missing or invalid. The error names it.
    """
    try:
        checked = _accepting_names(schema).model_validate(
            field_values(schema, biz_params, variables)
        )
    except ValidationError as error:
        raise_invalid_input(
            error, names=_field_names(schema), missing=N_("Pass a dict with 'prompt' and '{field}'")
        )
    return _others(schema, biz_params) | to_json_values(checked, exclude_none=True)


def checked_variables(
    schema: object, biz_params: Mapping[str, Any], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the `biz_params` of a tool's call, whose arguments LangChain has validated.

    Args:
        schema: The schema of the start variables or of all arguments, if it is a pydantic model.
        biz_params: As for `start_variables`.
        arguments: The validated arguments.
    """
    if not isinstance(schema, type(BaseModel)):
        values = {name: value for name, value in arguments.items() if value is not None}
        return {**biz_params, **to_json_values(values)}
    values: dict[str, Any] = {PROMPT: "", **arguments}
    checked = schema.model_construct(None, **values)
    dumped = to_json_values(checked, exclude_none=True, exclude=_NOT_SENT)
    return _others(schema, biz_params) | dumped


def field_values(
    schema: object, biz_params: Mapping[str, Any], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return values under the names of the fields, and those of `biz_params` that they leave out.

    Args:
        schema: A pydantic model; anything else has no fields.
        biz_params: Values by the fields' names or aliases. What is no field is left out.
        values: Values by the fields' names or aliases. What is no field keeps its name.
    """
    names, others = _field_names(schema), _others(schema, biz_params)
    filled = {names[name]: value for name, value in biz_params.items() if name not in others}
    for name, value in values.items():
        field = names.get(name, name)
        if value is not None or field not in filled:
            filled[field] = value
    return filled


def _others(schema: object, biz_params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that are no start variable of the schema."""
    names = _field_names(schema)
    return {
        name: value
        for name, value in biz_params.items()
        if names.get(name) is None or names[name] in _NOT_SENT
    }


def _field_names(schema: object) -> dict[str, str]:
    """Return the fields of a pydantic model, by their names and by their aliases."""
    if not isinstance(schema, type(BaseModel)):
        return {}
    names: dict[str, str] = {}
    fields = schema.model_fields
    for name, field in fields.items():
        accepted = field.validation_alias
        choices = accepted.choices if isinstance(accepted, AliasChoices) else [accepted]
        for alias in (field.serialization_alias, *choices):
            if isinstance(alias, str):
                names[alias] = name
    return names | {name: name for name in fields}


@lru_cache(maxsize=128)  # making a class takes longer than a call
def _accepting_names(schema: type[BaseModel]) -> type[BaseModel]:
    """Return a schema, or one made of it, that also accepts fields with an alias by their names."""
    has_aliases = any(field.validation_alias for field in schema.model_fields.values())
    if not has_aliases or schema.model_config.get("populate_by_name"):
        return schema
    return create_model(schema.__name__, __base__=(schema, _ByName))
