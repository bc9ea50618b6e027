"""The bodies of requests to the Responses API: checked, and as the apps of the emulator read them.

The fields are those of the vendor's page "Responses API" for apps, and `model` and `metadata`,
which OpenAI's clients may send.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bailian_apps.emulator.errors import suggestion
from bailian_apps.emulator.media import media_problem
from bailian_apps.emulator.models import ReceivedRequest
from bailian_apps.emulator.server.validation import invalid
from bailian_apps.emulator.wire.frames import JsonObject


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class _Text(_Strict):
    type: Literal["input_text", "output_text"]
    text: str


class _Image(_Strict):
    type: Literal["input_image"]
    image_url: str
    detail: str | None = None


class _File(_Strict):
    type: Literal["input_file"]
    file_url: str
    filename: str | None = None


_Part = Annotated[_Text | _Image | _File, Field(discriminator="type")]


class _Message(_Strict):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part]


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())

    input: str | list[_Message]
    stream: bool | None = None
    background: bool | None = None
    biz_params: JsonObject | None = None
    model: str | None = None
    metadata: JsonObject | None = None


def read_body(request: ReceivedRequest, *, strict: bool) -> tuple[_Body, ReceivedRequest]:
    """Return a request's body, and the request as an app of the emulator reads it.

    Args:
        request: The request.
        strict: Whether to refuse unknown fields.

    Raises:
        Failure: The request is refused. The message has the parameter's name but not its value.
    """
    try:
        body = _Body.model_validate(request.body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        first = max(problems, key=lambda each: len(each["loc"]))  # of the types of `input`
        names = [str(part) for part in first["loc"]]
        path = ".".join(name for name in names if name != "str" and "[" not in name)
        raise invalid(f"Required parameter({path}) missing or invalid: {first['msg']}.") from None
    for name in body.model_extra or () if strict else ():
        raise invalid(f"Unknown parameter({name}){suggestion(name, _Body.model_fields)}")
    if body.stream and body.background:
        raise invalid("A background response cannot be streamed.")
    fields = _input(body.input)
    if body.biz_params:
        fields["biz_params"] = body.biz_params
    if problem := media_problem(fields, request.headers):
        raise invalid(problem)
    parameters = {"incremental_output": True, "has_thoughts": True}
    read = ReceivedRequest(
        app_id=request.app_id,
        body={"input": fields, "parameters": parameters},
        headers=request.headers,
        fault=request.fault,
        body_bytes=request.body_bytes,
        method=request.method,
        path=request.path,
    )
    return body, read


def _input(given: str | list[_Message]) -> JsonObject:
    messages = given if isinstance(given, list) else [_Message(role="user", content=given)]
    if not messages or messages[-1].role != "user":
        raise invalid("The last of the messages must have the role user.")
    fields: dict[str, Any] = {}
    read: list[JsonObject] = []
    for message in messages:
        parts = message.content
        if isinstance(parts, str):
            parts = [_Text(type="input_text", text=parts)]
        text = "".join(part.text for part in parts if isinstance(part, _Text))
        role = "system" if message.role == "developer" else message.role
        read.append({"role": role, "content": text})
        for part in parts:
            if isinstance(part, _Image):
                fields.setdefault("image_list", []).append(part.image_url)
            elif isinstance(part, _File):
                fields.setdefault("file_list", []).append(part.file_url)
    if not read[-1]["content"]:
        raise invalid("Required parameter(input) missing or invalid: the last message is empty.")
    if len(read) == 1:
        return {"prompt": read[0]["content"], **fields}
    return {"messages": read, **fields}
