"""What one call sends, with every field checked before anything leaves the process.

A field says by itself where it stands in the request body, with `Input` or `Parameter`; nothing
lists the fields a second time. Each field's docstring gives its meaning, the kind of app it works
for, its default and its name in the request body. An unknown field is refused, because the SDK
would send it. The fields are those of the vendor's page "Application calling API".
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_serializer,
    model_validator,
)
from typing_extensions import Self, override

from bailian_apps.core.attachments import InlineImage, read_files, read_images
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.json_values import (
    ExtraBody,
    Id,
    Ids,
    JsonObject,
    Text,
    Texts,
    check_id,
    kind_of,
)
from bailian_apps.core.language import N_
from bailian_apps.core.modes import FlowStreamMode
from bailian_apps.core.redaction import (
    SECRET_FIELDS,
    masked_path,
    redact_biz_params,
    redacted,
    reveal,
)

MAX_INT = 2**63 - 1
"""The largest number in a setting: every JSON reader can hold it."""

_APP_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class _Place:
    name: str | None = None


class Input(_Place):
    """Marks a field that stands in the body's `input`, under `name` if that is not its own."""


class Parameter(_Place):
    """Marks a field that stands in the body's `parameters`; as `Input`."""


def _check_app_id(value: object, info: ValidationInfo) -> object:
    field = info.field_name or "app_id"
    if not isinstance(value, str):
        raise InvalidInputError(
            field,
            N_("must be a str, not {kind}").format(kind=kind_of(value)),
            "Pass the id from the list in App Management",
        )
    if not value.strip():
        raise InvalidInputError(field, "is empty", "Pass app_id= or set BAILIAN_APP_ID")
    if not _APP_ID.fullmatch(value):
        raise InvalidInputError(
            field,
            "has a character that an app id cannot have (it becomes part of the address)",
            "Pass only the id from the list in App Management: letters, digits, '.', '_' and '-'",
        )
    return value


def _check_mode(value: object) -> object:
    if value is not None and not isinstance(value, str):
        raise InvalidInputError(
            "flow_stream_mode", N_("must be a str, not {kind}").format(kind=kind_of(value))
        )
    return value


def _check_images(value: Any, info: ValidationInfo) -> tuple[Any, ...]:
    return read_images(value, info.field_name or "image_list")


def _check_files(value: Any, info: ValidationInfo) -> tuple[str, ...]:
    return read_files(value, info.field_name or "file_list")


ModeName: TypeAlias = Annotated[
    FlowStreamMode | str, BeforeValidator(_check_mode), AfterValidator(check_id)
]
SessionId: TypeAlias = Annotated[Id | None, AfterValidator(lambda value: value or None)]
AppId: TypeAlias = Annotated[str, BeforeValidator(_check_app_id)]
Images: TypeAlias = Annotated[list[Any] | tuple[Any, ...], BeforeValidator(_check_images)]
Files: TypeAlias = Annotated[list[str] | tuple[str, ...], BeforeValidator(_check_files)]


class WireOptions(BaseModel):
    """The options that the settings and a single call share. Each is sent to the cloud."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, protected_namespaces=())

    app_id: AppId
    """The app's id, from the list in *App Management* in the console. Part of the URL."""

    biz_params: Annotated[JsonObject | None, Input()] = None
    """Business parameters: the variables of a workflow's Start node, or an agent's
    `user_prompt_params`, `user_defined_params` and `user_defined_tokens`. JSON values, or
    `SecretStr`. Credentials are sent, but never shown. Default: none. All apps.
    `input.biz_params`."""

    secret_biz_params: Texts = ()
    """Names in `biz_params` and `extra_body` whose values are secret too: a name at any depth, or
    the dotted path to one value, such as `"user_defined_params.tool.code"`. Default: none. Not
    sent."""

    thoughts: Annotated[bool, Parameter("has_thoughts")] = True
    """Whether the app reports its steps. Default: true. All apps. `parameters.has_thoughts`."""

    flow_stream_mode: Annotated[ModeName | None, Parameter()] = None
    """How a workflow streams. An unknown value is sent as it is. Default: the cloud's,
    `full_thoughts`. Workflow apps. `parameters.flow_stream_mode`."""

    memory_id: Annotated[Id | None, Input()] = None
    """The long-term memory to use. Default: none. Agent 1.0 apps. `input.memory_id`."""

    rag_options: Annotated[JsonObject | None, Parameter()] = None
    """Knowledge bases and filters, in place of the console's. Default: the console's. Agent 1.0
    apps. `parameters.rag_options`."""

    enable_thinking: Annotated[bool | None, Parameter()] = None
    """Whether a reasoning model thinks first. Default: the console's. Agent apps.
    `parameters.enable_thinking`."""

    enable_web_search: Annotated[bool | None, Parameter()] = None
    """Whether the app searches the web. Default: the console's. Agent 1.0 apps.
    `parameters.enable_web_search`."""

    enable_system_time: Annotated[bool | None, Parameter()] = None
    """Whether the app's model gets the current time. Default: the cloud's, true. Agent 1.0 apps.
    `parameters.enable_system_time`."""

    dialog_round: Annotated[int | None, Parameter()] = Field(default=None, ge=0, le=MAX_INT)
    """How many rounds of the conversation the app's model sees. Default: the console's. Agent 1.0
    apps. `parameters.dialog_round`."""

    mcp_servers: Annotated[Ids, Parameter()] = ()
    """Ids of the MCP servers to use. Of the vendor's SDKs, only Java's has this parameter. Default:
    the console's. Agent 1.0 apps. `parameters.mcp_servers`."""

    model_id: Annotated[Id | None, Parameter()] = None
    """The model to use, in place of the console's. Default: the console's. Agent apps.
    `parameters.model_id`."""

    temperature: Annotated[float | None, Parameter()] = Field(default=None, ge=0, lt=2)
    """Sampling temperature, from 0 to below 2. Default: the console's. Agent 1.0 apps.
    `parameters.temperature`."""

    top_p: Annotated[float | None, Parameter()] = Field(default=None, gt=0, le=1)
    """Nucleus sampling, above 0, at most 1. Default: the console's. Agent 1.0 apps.
    `parameters.top_p`."""

    top_k: Annotated[int | None, Parameter()] = Field(default=None, ge=0, le=MAX_INT)
    """How many candidate tokens are sampled from. Default: the console's. Agent 1.0 apps.
    `parameters.top_k`."""

    seed: Annotated[int | None, Parameter()] = Field(default=None, ge=0, le=MAX_INT)
    """Makes sampling reproducible. Default: none. Agent 1.0 apps. `parameters.seed`."""

    extra_body: ExtraBody | None = None
    """Extra keys of the request body, for parameters that have no setting: `{"input": {…},
    "parameters": {…}}`. A key replaces what a setting put there. `SecretStr` and credentials are
    handled as in `biz_params`. Default: none. All apps. Part of the body."""

    @field_serializer("biz_params", "extra_body", when_used="unless-none")
    def _without_secrets(self, value: dict[str, Any]) -> dict[str, Any]:
        return redact_biz_params(value, self.secret_biz_params)

    @override
    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            hidden = name in SECRET_FIELDS
            yield name, redacted(name, value, self.secret_biz_params) if hidden else value


class Message(BaseModel):
    """One entry of `messages`, as the API takes it."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)

    role: Literal["system", "user", "assistant"]
    content: Text


def _put_system_first(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Join the system texts at the beginning; one that comes later becomes a user's message.

    The API takes one system message, first, and refuses any other. A blank one is left out.
    """
    messages = tuple(each for each in messages if each.role != "system" or each.content.strip())
    lead = list(itertools.takewhile(lambda message: message.role == "system", messages))
    if len(lead) == len(messages):
        return messages
    system = "\n\n".join(message.content for message in lead)
    return (
        *([Message(role="system", content=system)] if lead else ()),
        *(
            Message(role="user", content=message.content) if message.role == "system" else message
            for message in messages[len(lead) :]
        ),
    )


Messages: TypeAlias = Annotated[tuple[Message, ...], AfterValidator(_put_system_first)]


class AppRequest(WireOptions):
    """What one call sends: either `prompt`, or `messages` that end with a user message."""

    model_config = ConfigDict(frozen=True)

    prompt: Annotated[Text | None, Input()] = Field(default=None, repr=False)
    """The user's prompt. All apps. `input.prompt`."""

    messages: Annotated[Messages | None, Input()] = Field(default=None, repr=False)
    """The conversation so far, with the system message first; a later one is sent as a user
    message. The cloud then ignores `session_id`, so passing both is refused. Agent 1.0 and workflow
    apps. `input.messages`."""

    session_id: Annotated[SessionId, Input()] = None
    """The session to continue; an empty string means none. Default: a new one. Agent apps and
    dialog workflows. `input.session_id`."""

    image_list: Annotated[Images, Input()] = ()
    """Images: URLs, Data URLs, `bytes`, or a `pathlib.Path` for a file on this machine, which is
    read when the request is sent. At most 7.5 MiB each. Default: none. Apps with a vision model.
    `input.image_list`."""

    file_list: Annotated[Files, Input()] = ()
    """URLs of files. Default: none. All apps. `input.file_list`."""

    doc_tag_codes: Annotated[Ids, Input()] = ()
    """Tags that limit which documents are searched. Default: none. Older agent apps.
    `input.doc_tag_codes`."""

    doc_reference_type: Annotated[Literal["simple", "indexed"] | None, Input()] = None
    """How the answer marks its sources. Default: not at all. Older agent apps.
    `input.doc_reference_type`."""

    @field_serializer("image_list")
    def _shortened(self, value: tuple[Any, ...]) -> tuple[str, ...]:
        return tuple(map(str, value))

    @model_validator(mode="after")
    def _check_input(self) -> Self:
        path = masked_path(self.biz_params, "biz_params")
        path = path or masked_path(self.extra_body, "extra_body")
        if path is not None:
            raise InvalidInputError(
                path,
                "is masked: a dump or a pickle holds no secrets",
                "Pass the value again, or pass it as a SecretStr if it is the value itself",
            )
        if self.messages is None:
            if self.prompt is None or not self.prompt.strip():
                raise InvalidInputError("prompt", "is empty", "Pass the user's prompt")
        elif not self.messages or self.messages[-1].role != "user":
            raise InvalidInputError("messages", "must end with a user message")
        elif self.prompt is not None:
            raise InvalidInputError(
                "prompt", "cannot be combined with messages", "Put it into the last message"
            )
        elif self.session_id is not None:
            raise InvalidInputError(
                "session_id",
                "cannot be combined with messages, because the cloud would ignore it",
                "Pass either a prompt and a session_id, or messages",
            )
        return self

    def input(self) -> dict[str, Any]:
        """Return the `input` object of the body without empty fields, and without `extra_body`.

        It reads the images of this machine.

        Raises:
            InvalidInputError: One cannot be read, is not an image, or is too large.
        """
        return self._marked(Input)

    def sent(self, name: str) -> Any:
        """Return a field as it is sent: what `extra_body` holds under its name wins."""
        parts: Iterable[dict[str, Any]] = (self.extra_body or {}).values()
        return next((part[name] for part in parts if name in part), getattr(self, name))

    @property
    def has_inline_images(self) -> bool:
        """Whether `input` reads or encodes images, which can take a while."""
        return any(isinstance(image, InlineImage) for image in self.image_list)

    @property
    def has_oss_address(self) -> bool:
        """Whether an image or a file has an `oss://` address, which needs a header of its own."""
        lists: list[Any] = [self.sent("image_list"), self.sent("file_list")]
        sent = [
            item for each in lists if isinstance(each, (list, tuple)) for item in cast("Any", each)
        ]
        return any(isinstance(each, str) and each[:6].lower() == "oss://" for each in sent)

    def parameters(self) -> dict[str, Any]:
        """Return the `parameters` object; as `input`. It always asks for deltas."""
        return {"incremental_output": True, **self._marked(Parameter)}

    def _marked(self, kind: type[Input | Parameter]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for name, wire_name in _places(type(self), kind):
            value = getattr(self, name)
            if value not in (None, "", (), {}):
                fields[wire_name] = _as_json(value)
        return fields


@functools.cache
def _places(model: type[BaseModel], kind: type[Input | Parameter]) -> Sequence[tuple[str, str]]:
    """Return the fields with a mark of this kind, each with its name in the body."""
    return [
        (name, mark.name or name)
        for name, info in model.model_fields.items()
        for mark in info.metadata
        if isinstance(mark, kind)
    ]


def _as_json(value: object) -> object:
    if not isinstance(value, tuple):
        return reveal(value)
    items = cast("tuple[object, ...]", value)
    return [_item_as_json(item) for item in items]


def _item_as_json(item: object) -> object:
    if isinstance(item, InlineImage):
        return item.data_url()
    return item.model_dump() if isinstance(item, BaseModel) else item
