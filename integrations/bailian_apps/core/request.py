"""What one call sends, with every field checked before anything leaves the process.

The fields mirror the API's `input` and `parameters` objects; `AppSettings` shares those that may be
set once for all calls. An unknown field is refused, because the SDK would put it on the wire.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn, TypeAlias, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_serializer,
    model_validator,
)
from typing_extensions import Self

from bailian_apps.core.errors import InvalidInputError

FlowStreamMode: TypeAlias = Literal[
    "full_thoughts", "message_format", "message_format_plus", "agent_format"
]

_APP_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MENDS_BY_TYPE = {
    "datetime": "Pass .isoformat()",
    "date": "Pass .isoformat()",
    "time": "Pass .isoformat()",
    "Decimal": "Pass str(value) or float(value)",
    "bytes": "Pass base64 text",
    "set": "Pass a list",
    "frozenset": "Pass a list",
    "UUID": "Pass str(value)",
    "SecretStr": "Pass .get_secret_value()",
}


def _check_app_id(value: object, info: ValidationInfo) -> object:
    field = info.field_name or "app_id"
    if not isinstance(value, str):
        raise InvalidInputError(field, f"is {_kind(value)}", "Pass the id from the app's card")
    if not value.strip():
        raise InvalidInputError(field, "is empty", "Pass app_id= or set BAILIAN_APP_ID")
    if not _APP_ID.fullmatch(value):
        raise InvalidInputError(
            field,
            "has a character that an app id cannot have (it becomes part of the address)",
            "Pass only the id from the app's card: letters, digits, '.', '_' and '-'",
        )
    return value


def _check_json_object(value: object, info: ValidationInfo) -> object:
    field = info.field_name or "value"
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidInputError(field, f"is {_kind(value)}", "Pass a dict of JSON values")
    _require_json(cast("Mapping[object, object]", value), field)
    return cast("object", value)


def _require_json(value: object, path: str) -> None:
    if isinstance(value, str):
        _require_utf8(value, path)
    elif value is None or isinstance(value, int):  # bool is an int
        return
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInputError(path, f"is {value}, which JSON cannot say", "Pass None")
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[object, object]", value).items():
            if not isinstance(key, str):
                raise InvalidInputError(path, f"has a key that is {_kind(key)}", "Use str keys")
            _require_json(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(cast("Sequence[object]", value)):
            _require_json(item, f"{path}[{index}]")
    else:
        mend = _MENDS_BY_TYPE.get(
            type(value).__name__, "Pass a str, number, bool, None, list or dict"
        )
        raise InvalidInputError(path, f"is {_kind(value)}, which JSON cannot say", mend)


def _require_utf8(value: str, path: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(
            path,
            "is a str with half of a surrogate pair, which cannot be sent",
            'Pass value.encode("utf-8", "replace").decode()',
        ) from None


def _check_text(value: str | None, info: ValidationInfo) -> str | None:
    if value is not None:
        _require_utf8(value, info.field_name or "text")
    return value


def _check_urls(value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    for index, item in enumerate(value):
        if not item.startswith(("http://", "https://", "oss://")):
            raise InvalidInputError(
                f"{info.field_name}[{index}]",
                "is a str that is no address",
                "Pass an http:// or https:// address that the cloud can fetch",
            )
    return value


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


AppId: TypeAlias = Annotated[str, BeforeValidator(_check_app_id)]
JsonObject: TypeAlias = Annotated[dict[str, Any], BeforeValidator(_check_json_object)]
Text: TypeAlias = Annotated[str, AfterValidator(_check_text)]
Urls: TypeAlias = Annotated[tuple[str, ...], AfterValidator(_check_urls)]


def without_tokens(biz_params: Mapping[str, Any]) -> dict[str, Any]:
    """`biz_params` as they may be shown or stored: without the users' tokens."""
    return {name: value for name, value in biz_params.items() if name != "user_defined_tokens"}


class WireOptions(BaseModel):
    """What both a call and the settings may say to the cloud.

    Attributes:
        app_id: The app's id, from its card in the console.
        biz_params: A workflow's start variables, or an agent's `user_prompt_params`,
            `user_defined_params` and `user_defined_tokens`. JSON values only. Its tokens are
            secrets: it is in no repr.
        thoughts: Whether the app reports what it does (`has_thoughts` on the wire).
        flow_stream_mode: How a workflow app streams. The default is the cloud's, `full_thoughts`.
        memory_id: The cloud's long-term memory to use (agent apps).
        rag_options: Knowledge bases and filters; replaces the console's (agent apps).
        enable_thinking: Whether a reasoning model thinks first (agent apps).
        model_id: A model to use in place of the console's.
        temperature: Randomness, from 0 up to, but not, 2.
        top_p: Nucleus sampling, above 0, at most 1.
        top_k: How many candidate tokens are sampled from.
        seed: Makes sampling repeatable.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, protected_namespaces=())

    app_id: AppId
    biz_params: JsonObject | None = Field(default=None, repr=False)
    thoughts: bool = True
    flow_stream_mode: FlowStreamMode | None = None
    memory_id: str | None = None
    rag_options: JsonObject | None = None
    enable_thinking: bool | None = None
    model_id: str | None = None
    temperature: float | None = Field(default=None, ge=0, lt=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    seed: int | None = Field(default=None, ge=0)

    @field_serializer("biz_params", when_used="unless-none")
    def _without_secrets(self, value: dict[str, Any]) -> dict[str, Any]:
        return without_tokens(value)


class Message(BaseModel):
    """One entry of `messages`, as the API takes it."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)

    role: Literal["system", "user", "assistant"]
    content: Text


class AppRequest(WireOptions):
    """What one call sends. Either `prompt`, or `messages` that end with the user's.

    Attributes:
        prompt: The user's words.
        messages: The conversation so far, system message first. The cloud then ignores
            `session_id`, so both together are refused.
        session_id: The cloud's session to continue.
        image_list: Addresses of images (apps with a vision model).
        file_list: Addresses of files.
        doc_tag_codes: Tags that limit the documents searched (older apps).
        doc_reference_type: Whether the text marks its sources (older apps).
    """

    model_config = ConfigDict(frozen=True)

    prompt: Text | None = Field(default=None, repr=False)
    messages: tuple[Message, ...] | None = Field(default=None, repr=False)
    session_id: str | None = None
    image_list: Urls = ()
    file_list: Urls = ()
    doc_tag_codes: tuple[str, ...] = ()
    doc_reference_type: Literal["simple", "indexed"] | None = None

    @model_validator(mode="after")
    def _something_to_say(self) -> Self:
        if self.messages is None:
            if self.prompt is None or not self.prompt.strip():
                raise InvalidInputError("prompt", "is empty", "Pass the user's words")
        elif not self.messages or self.messages[-1].role != "user":
            raise InvalidInputError(
                "messages", "do not end with a user message", "Put the user's words last"
            )
        elif self.prompt is not None:
            raise InvalidInputError(
                "prompt", "was given beside messages", "Put the words into the last message"
            )
        elif self.session_id is not None:
            raise InvalidInputError(
                "session_id",
                "was given beside messages, and the cloud would ignore it",
                "Pass either a prompt in a session, or messages",
            )
        return self

    def input(self) -> dict[str, Any]:
        """The `input` object of the wire, without empty fields."""
        given = {
            "prompt": self.prompt,
            "messages": [message.model_dump() for message in self.messages or ()],
            "session_id": self.session_id,
            "biz_params": self.biz_params,
            "memory_id": self.memory_id,
            "image_list": list(self.image_list),
            "file_list": list(self.file_list),
            "doc_tag_codes": list(self.doc_tag_codes),
            "doc_reference_type": self.doc_reference_type,
        }
        return {name: value for name, value in given.items() if value}

    def parameters(self) -> dict[str, Any]:
        """The `parameters` object of the wire, without empty fields. Always asks for deltas."""
        given = {
            "incremental_output": True,
            "has_thoughts": self.thoughts,
            "flow_stream_mode": self.flow_stream_mode,
            "rag_options": self.rag_options,
            "enable_thinking": self.enable_thinking,
            "model_id": self.model_id,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "seed": self.seed,
        }
        return {name: value for name, value in given.items() if value is not None}


def raise_invalid_input(error: ValidationError, *, within: str = "") -> NoReturn:
    """Raise pydantic's first complaint as an `InvalidInputError`, which never shows the value.

    Args:
        error: What pydantic raised.
        within: The field that holds the model that was validated, if any.

    Raises:
        InvalidInputError: Always; it names the field and the mend.
    """
    first = error.errors(include_url=False)[0]
    path = [within] if within else []
    for part in first["loc"]:
        if isinstance(part, int) and path:
            path[-1] += f"[{part}]"
        else:
            path.append(str(part))
    cause = (first.get("ctx") or {}).get("error")
    if isinstance(cause, InvalidInputError):
        # It names its own field, at the end of the path.
        field = ".".join([*path[:-1], cause.field])
        raise InvalidInputError(field, cause.problem, cause.mend) from None
    field = ".".join(path) or "arguments"
    if first["type"] == "extra_forbidden":
        raise InvalidInputError(field, "is not a setting", "Check its spelling") from None
    if first["type"] == "missing":
        raise InvalidInputError(field, "is missing", f"Pass {field}=") from None
    raise InvalidInputError(field, f"is {_kind(first['input'])}", first["msg"]) from None
