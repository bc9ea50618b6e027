"""What the model, the Runnable, the tool and the retriever have in common: an app's settings."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, ValidationError, model_validator

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.redaction import redact_biz_params
from bailian_apps.core.request import raise_invalid_input
from bailian_apps.core.settings import AppSettings
from bailian_apps.langchain.secrecy import as_json


def with_app_id(fields: Any) -> dict[str, Any]:
    """The fields, with `model` under its own name.

    Raises:
        InvalidInputError: Both names were given, and differ.
    """
    given = dict(fields)
    if (model := given.pop("model", None)) is not None:
        if given.get("app_id", model) != model:
            raise InvalidInputError("model", "differs from app_id", "Pass one of the two")
        given["app_id"] = model
    return given


def call_arguments(arguments: Any) -> dict[str, Any]:
    """What was said for one call, with `model` under its own name.

    Raises:
        InvalidInputError: A `prompt` is among it: the words are the input.
    """
    given = with_app_id(arguments)
    if "prompt" in given:
        raise InvalidInputError(
            "prompt", "was given beside the input", "Put the words into the input"
        )
    return given


MODEL_CONFIG = ConfigDict(
    extra="forbid",
    hide_input_in_errors=True,
    protected_namespaces=(),
    arbitrary_types_allowed=True,
)
"""For each such class itself: inherited, LangChain's own would win and ignore a misspelt field."""


class AppFields(AppSettings):
    """The settings of an app as the fields of a LangChain class, beside that class's own."""

    def __init__(self, **fields: Any) -> None:
        """Make it of an app's settings.

        Args:
            **fields: The fields of `AppSettings`, and LangChain's own.
                `model` is another name for `app_id`.

        Raises:
            InvalidInputError: A field is unknown or not valid. It names the field and the mend.
        """
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise_invalid_input(error)

    @model_validator(mode="before")
    @classmethod
    def _model_is_app_id(cls, fields: Any) -> Any:
        return with_app_id(fields) if isinstance(fields, dict) else fields

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """It can be dumped; the key becomes a reference to `DASHSCOPE_API_KEY`."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """The key is never dumped, only where it is read from."""
        return {"api_key": "DASHSCOPE_API_KEY"}

    @property
    def lc_attributes(self) -> dict[str, Any]:
        """What is dumped otherwise than it is: `biz_params` without the users' tokens."""
        shapes: dict[str, Any] = {"timeout": as_json(self.timeout)}
        return shapes | (
            {"biz_params": redact_biz_params(self.biz_params)} if self.biz_params else {}
        )
