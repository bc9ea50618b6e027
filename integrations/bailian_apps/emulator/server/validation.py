"""Refuses the requests that cannot be answered and, if strict, those that hold a mistake.

The cloud takes unknown names and flags as text. Strict is for those who want to find a misspelt
name, a wrong type or a value out of range. A new request parameter is one field of a model below.
The fields are those of the vendor's API reference for application calls, of its SDKs, and those
that public clients send.
"""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from bailian_apps.emulator.errors import suggestion
from bailian_apps.emulator.media import media_problem
from bailian_apps.emulator.models import Failure, ReceivedRequest
from bailian_apps.emulator.wire.frames import MAX_NESTING, JsonObject, as_list
from bailian_apps.emulator.wire.rendering import FLOW_MODES

_MAX_FILE_IDS = 100


def _text_or_parts(value: Any) -> Any:
    parts = as_list(value)
    if isinstance(value, str) or (value == parts and all(isinstance(part, dict) for part in parts)):
        return value
    raise ValueError("Input should be a string or a list of objects")


def _flag_of_text(value: Any) -> Any:
    flags = {"true": True, "false": False}
    return flags.get(value.lower(), value) if isinstance(value, str) else value


_Flag: TypeAlias = Annotated[bool, BeforeValidator(_flag_of_text)]
_Count: TypeAlias = Annotated[int, Field(ge=0)]


class _Documented(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class _Message(_Documented):
    role: Literal["system", "user", "assistant"]
    content: Annotated[Any, AfterValidator(_text_or_parts)]


class _BizParams(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    user_prompt_params: JsonObject | None = None
    user_defined_params: dict[str, JsonObject] | None = None
    user_defined_tokens: dict[str, JsonObject] | None = None


class _Input(_Documented):
    prompt: str | None = None
    messages: list[_Message] | None = None
    history: list[JsonObject] | None = None
    session_id: str | None = None
    memory_id: str | None = None
    biz_params: _BizParams | None = None
    image_list: list[str] | None = None
    file_list: list[str] | None = None
    doc_tag_codes: list[str] | None = None
    doc_reference_type: Literal["simple", "indexed"] | None = None
    app_id: str | None = None  # in no reference; public clients send it


class _RagOptions(_Documented):
    pipeline_ids: list[str] | None = None
    file_ids: Annotated[list[str], Field(max_length=_MAX_FILE_IDS)] | None = None
    session_file_ids: list[str] | None = None
    tags: list[str] | None = None
    metadata_filter: JsonObject | None = None
    structured_filter: JsonObject | None = None


class _Parameters(_Documented):
    incremental_output: _Flag | None = None
    has_thoughts: _Flag | None = None
    flow_stream_mode: str | None = None
    enable_thinking: _Flag | None = None
    model_id: str | None = None
    temperature: Annotated[float, Field(ge=0, lt=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: _Count | None = None
    seed: _Count | None = None
    rag_options: _RagOptions | None = None
    enable_web_search: _Flag | None = None
    enable_system_time: _Flag | None = None
    dialog_round: _Count | None = None
    # Only the vendor's Java SDK sends these.
    mcp_servers: list[str] | None = None
    enable_premium: _Flag | None = None
    cip_service_codes: JsonObject | None = None
    # In no reference; public clients send them.
    stream: _Flag | None = None
    debug: Any = None
    thinking_budget: _Count | None = None
    max_tokens: _Count | None = None


class _Body(_Documented):
    model: str | None = None
    input: _Input
    parameters: _Parameters | None = None
    debug: JsonObject | None = None
    resources: Any = None
    app_id: str | None = None  # in no reference; public clients send it


_MODELS: dict[tuple[str, ...], type[BaseModel]] = {
    (): _Body,
    ("input",): _Input,
    ("parameters",): _Parameters,
    ("parameters", "rag_options"): _RagOptions,
}


def check(request: ReceivedRequest, *, strict: bool) -> None:
    """Refuse a request before any app runs; for `strict` see `Emulator`.

    Raises:
        Failure: The request is refused. The message has the parameter's name but not its value.
    """
    if not request.body:
        levels = f"nested at most {MAX_NESTING} levels deep"
        raise invalid(f"The request body must be a JSON object, {levels}.")
    if not request.prompt:
        raise invalid(
            "Required parameter(prompt or messages) missing or invalid, "
            "please check the request parameters."
        )
    roles = [message.get("role") for message in request.messages]
    if roles and roles[-1] != "user":
        raise invalid("The last of the messages must have the role user.")
    if problem := media_problem(request.input, request.headers):
        raise invalid(problem)
    if not strict:
        return
    mode = request.parameters.get("flow_stream_mode")
    if mode and mode not in list(FLOW_MODES):
        raise invalid(f"flow_stream_mode must be one of {', '.join(FLOW_MODES)}.")
    try:
        _Body.model_validate(request.body)
    except ValidationError as error:
        raise invalid(_problem(error)) from None
    if "system" in roles[1:]:
        raise invalid("A message with the role system must be the first of the messages.")


def invalid(message: str) -> Failure:
    """Return the cloud's answer to an invalid request."""
    return Failure(status=400, code="InvalidParameter", message=message)


def _problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    *parents, name = map(str, first["loc"])
    path = ".".join([*parents, name])
    if first["type"] != "extra_forbidden":
        reason = first["msg"].removeprefix("Value error, ")
        return f"Required parameter({path}) missing or invalid: {reason}."
    model = _MODELS.get(tuple(parents))
    return f"Unknown parameter({path}){suggestion(name, model.model_fields if model else ())}"
