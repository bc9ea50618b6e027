"""Finds the runs that an object holds: results, errors, messages, responses and recordings.

The frameworks are not imported: their objects are known by the fields that our adapters fill.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

from bailian_apps.core.errors import BailianError
from bailian_apps.core.language import N_
from bailian_apps.core.result import SUCCESS, AppResult, DocReference, ModelUsage, Step, Usage
from bailian_apps.core.values import as_text
from bailian_apps.inspector.recordings import runs_in
from bailian_apps.inspector.view import JsonObject, Run

Source: TypeAlias = "AppResult | BailianError | str | os.PathLike[str] | object"
"""What holds a run; see `bailian_apps.inspector.render`."""

_ACCEPTED = N_(
    "pass an AppResult, a BailianError, an AIMessage or a ToolMessage of LangChain, a list of "
    "messages or a state with them, a response of LlamaIndex, or the path of a recording or a "
    "folder of them"
)


def runs_of(obj: Source) -> list[Run]:
    """Return the runs that an object holds, oldest first; at least one.

    Raises:
        TypeError: It holds none.
        ValueError: A recording cannot be read.
        OSError: A file cannot be read.
    """
    if isinstance(obj, Run):
        return [obj]
    if isinstance(obj, AppResult):
        return [Run(result=obj, finished=obj.finish_reason is not None)]
    if isinstance(obj, BailianError):
        result = obj.partial or AppResult(session_id=obj.session_id, request_id=obj.request_id)
        error = (getattr(obj, "code", None), obj.message)
        return [Run(result=result, error=error, finished=False)]
    if isinstance(obj, (str, os.PathLike)):
        return runs_in(Path(cast("str", obj)))
    values: Any = obj
    is_mapping = isinstance(obj, Mapping)
    messages: Any = values.get("messages") if is_mapping else getattr(obj, "messages", obj)
    if isinstance(messages, Sequence):
        runs = [*_conversation(cast("Sequence[object]", messages))]
        if not runs:
            raise TypeError(
                N_("the conversation holds no run of an app: {accepted}").format(accepted=_ACCEPTED)
            )
        return runs
    run = _of_object(obj)
    if run is None:
        raise TypeError(
            N_("{type} holds no run of an app: {accepted}").format(
                type=type(obj).__name__, accepted=_ACCEPTED
            )
        )
    return [run]


def _conversation(messages: Sequence[object]) -> Iterator[Run]:
    prompt: str | None = None
    for message in messages:
        if getattr(message, "type", None) == "human":
            prompt = _text(message)
        elif run := _of_object(message, prompt=prompt):
            yield run


def _of_object(obj: Any, *, prompt: str | None = None) -> Run | None:
    """Read one message, artifact or response; None if it holds no run."""
    if isinstance(obj, Mapping):
        return _of_artifact(cast("JsonObject", obj), None)
    artifact: Any = getattr(obj, "artifact", None)
    if isinstance(artifact, Mapping):  # LangChain's ToolMessage
        return _of_artifact(cast("JsonObject", artifact), _text(obj))
    metadata: Any = getattr(obj, "response_metadata", None)
    if isinstance(metadata, Mapping):
        metadata = cast("JsonObject", metadata)
        is_ours = metadata.get("model_provider") == "bailian"
        return _of_ai_message(obj, metadata, prompt) if is_ours else None
    raw: Any = getattr(obj, "raw", None) or getattr(obj, "metadata", None)
    if isinstance(raw, Mapping) and "steps" in raw:  # LlamaIndex's responses
        return _of_response(obj, cast("JsonObject", raw))
    output: Any = getattr(obj, "raw_output", None)  # LlamaIndex's ToolOutput
    return None if output is None else _of_object(output)


def _of_artifact(artifact: JsonObject, content: str | None) -> Run | None:
    """Read the artifact of our LangChain tool, or a LlamaIndex `raw`, by itself."""
    if not {"steps", "usage", "session_id"} <= artifact.keys():
        return None
    text = artifact.get("answer")
    result = _result(artifact, text=as_text(content if text is None else text))
    return Run(result=result, prompt=as_text(artifact.get("prompt")) or None)


def _of_ai_message(message: Any, metadata: JsonObject, prompt: str | None) -> Run:
    extra = cast("JsonObject", message.additional_kwargs)
    content: object = message.content
    fields: dict[str, Any] = {**metadata, **extra, "reasoning": extra.get("reasoning_content")}
    if isinstance(content, list):  # `output_version="v1"`
        fields |= _of_blocks(cast("list[Any]", content))
    fields["usage"] = {"models": metadata.get("model_usage") or ()}
    result = _result(fields, text=_text(message))
    return Run(result=result, app_id=metadata.get("app_id"), prompt=prompt)


def _of_blocks(blocks: Sequence[Any]) -> dict[str, Any]:
    """Read the steps, the reasoning and the citations of standard content blocks."""
    steps: dict[str, dict[str, Any]] = {}
    reasoning: list[str] = []
    references: list[dict[str, Any]] = []
    for block in map(_fields, blocks):
        kind, value = block.get("type"), _fields(block.get("value"))
        if kind == "reasoning":
            reasoning.append(as_text(block.get("reasoning")))
        elif kind == "non_standard" and "id" in value:
            steps[value["id"]] = {**value, "type": value.get("node_type")}
        elif kind == "server_tool_call":
            call = {"id": block["id"], "name": block["name"], "input": block.get("args")}
            steps[block["id"]] = {**call, "kind": "tool", "status": SUCCESS}
        elif kind == "server_tool_result" and (step := steps.get(block["tool_call_id"])):
            said = as_text(block.get("output"))
            is_error = block.get("status") == "error"
            step.update({"error": said, "status": "fail"} if is_error else {"output": said})
        elif kind == "text":
            references += map(_of_citation, block.get("annotations") or ())
    read = {"steps": [*steps.values()], "reasoning": "".join(reasoning)}
    return {**read, "references": references} if references else read


def _of_citation(citation: Any) -> dict[str, Any]:
    known = {"title": citation.get("title"), "doc_url": citation.get("url")}
    return {**known, "text": citation.get("cited_text") or "", **_fields(citation.get("extras"))}


def _of_response(response: Any, raw: JsonObject) -> Run:
    said: Any = getattr(response, "message", None) or getattr(response, "response", None)
    said = getattr(response, "text", None) if said is None else said
    text = said if isinstance(said, str) else as_text(getattr(said, "content", None))
    fields = dict(raw)
    nodes: Any = getattr(response, "source_nodes", None)
    if "references" not in fields and nodes:
        fields["references"] = [*map(_of_node, nodes)]
    return Run(result=_result(fields, text=text), app_id=raw.get("app_id"))


def _of_node(scored: Any) -> dict[str, Any]:
    node = scored.node
    return {**node.metadata, "text": node.text, "score": scored.score}


def _result(fields: JsonObject, *, text: str) -> AppResult:
    """Return the result that stored fields describe. What they leave out is not known."""
    usage = _fields(fields.get("usage"))
    names = ("session_id", "request_id", "final_text", "history_format")
    same: dict[str, Any] = {n: fields.get(n) for n in (*names, "first_token_ms", "elapsed_ms")}
    return AppResult(
        text=text,
        reasoning=as_text(fields.get("reasoning")),
        steps=tuple(map(Step.from_dict, fields.get("steps") or ())),
        references=tuple(map(_reference, fields.get("references") or ())),
        usage=Usage(models=tuple(map(_model, usage.get("models") or ()))),
        finish_reason=fields.get("finish_reason") or "stop",  # what is stored has ended
        attempts=fields.get("attempts") or 1,
        context_lost=bool(fields.get("context_lost")),
        whole_history=bool(fields.get("whole_history")),
        **same,
    )


def _fields(value: object) -> dict[str, Any]:
    return dict(cast("JsonObject", value)) if isinstance(value, Mapping) else {}


def _reference(fields: JsonObject) -> DocReference:
    known = {name: value for name, value in fields.items() if name in DocReference.__slots__}
    for name in ("images", "page_number"):
        value = known.get(name)
        known[name] = tuple(cast("list[Any]", value)) if isinstance(value, (list, tuple)) else ()
    return DocReference(**known)


def _model(fields: JsonObject) -> ModelUsage:
    return ModelUsage(
        model_id=as_text(fields.get("model_id")),
        input_tokens=fields.get("input_tokens") or 0,
        output_tokens=fields.get("output_tokens") or 0,
    )


def _text(message: Any) -> str:
    """Return the text of a message, whose content may be blocks."""
    content: object = message.content
    if isinstance(content, str):
        return content
    parts: list[str] = []
    for block in cast("list[Any]", content):
        if isinstance(block, str):
            parts.append(block)
        elif block.get("type") == "text":
            parts.append(as_text(block.get("text")))
    return "".join(parts)
