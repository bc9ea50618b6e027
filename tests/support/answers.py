"""Answers of apps in the shapes that no recording has, as the vendor's pages and SDK have them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Frame = dict[str, Any]


def message(node: str, type_: str, content: Any, *, last: bool = False) -> Frame:
    """A frame with one node's `workflow_message`."""
    fields = {
        "node_id": node, "node_name": node, "node_type": type_, "node_is_completed": last,
        "node_status": "success" if last else "executing",
        "message": {"role": "assistant", "content": content},
    }  # fmt: skip
    return {"output": {"finish_reason": "null", "workflow_message": fields}}


def listed(node: str, type_: str, result: str, *, last: bool = False) -> Frame:
    """A frame that lists one node in `thoughts`; `result` is its `nodeResult`."""
    fields = {"nodeId": node, "nodeName": node, "nodeType": type_, "nodeResult": result}
    fields["nodeStatus"] = "success" if last else "executing"
    thought = {"response": json.dumps(fields, ensure_ascii=False)}
    return {"output": {"finish_reason": "null", "thoughts": [thought]}}


def stop(text: str, **output: Any) -> Frame:
    """The frame that ends a run."""
    return {"output": {"finish_reason": "stop", "text": text} | output}


@dataclass(frozen=True)
class Answer:
    """What an app sends, and what is right."""

    frames: list[Frame]
    text: str
    mode: str | None = None
    steps: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    final_text: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def ask_with(self) -> dict[str, Any]:
        """The settings to ask with."""
        return {"flow_stream_mode": self.mode, **self.settings}


def _wrapped(result: str, reasoning: str = "") -> str:
    return json.dumps({"result": result, "reasoningContent": reasoning}, ensure_ascii=False)


_OBJECT = '{"city":"杭州","days":2,"id":12345678901234567890,"sights":["西湖"]}'
_OUTPUT = [
    message("Output_1", "Output", "请稍"),
    message("Output_1", "Output", "候。", last=True),
]
_END = [message("End_1", "End", "杭州"), message("End_1", "End", "晴。", last=True)]
_SPOKEN = {"Output_1": ("请稍候。", ""), "End_1": ("杭州晴。", "")}
_SDK_USAGE = {"models": [{"model_id": "m", "input_tokens": 27, "output_tokens": 110}]}
SDK_HIT = {"docId": "d", "docName": "n", "docUrl": "https://127.0.0.1/n.pdf", "indexId": "1",
           "score": 0.12, "text": "取值范围", "title": "t", "titlePath": "t>>>u"}  # fmt: skip
"""What a search finds in the tests of the official SDK."""
_OBSERVED = json.dumps({"data": [SDK_HIT], "status": "SUCCESS"}, ensure_ascii=False)


def _called(
    name: str, arguments: dict[str, Any], observation: Any, response: str, action: str = "api"
) -> Frame:
    """A tool call as the tests of the official SDK have it: with every field at once."""
    return {
        "thought": "增强已开启", "action_type": "api", "action_name": name, "action": action,
        "action_input_stream": json.dumps(arguments), "action_input": arguments,
        "observation": json.dumps(observation, ensure_ascii=False), "response": response,
    }  # fmt: skip


ANSWERS = {
    "output and end": Answer([*_OUTPUT, *_END, stop("请稍候。杭州晴。")], "请稍候。杭州晴。",
                             "message_format", _SPOKEN),
    "end alone at last": Answer([*_OUTPUT, *_END, stop("杭州晴。")], "请稍候。杭州晴。",
                                "message_format_plus", _SPOKEN),
    "output only": Answer([*_OUTPUT, message("End_1", "End", "", last=True), stop("")],
                          "请稍候。", "message_format", {"Output_1": ("请稍候。", "")}),
    "output in thoughts": Answer(
        [listed("Output_1", "Output", '{"result":"请稍候。"}', last=True), stop("杭州晴。")],
        "请稍候。杭州晴。", None, {"Output_1": ("请稍候。", "")}),
    "output as a step": Answer([*_OUTPUT, *_END, stop("请稍候。杭州晴。")], "杭州晴。",
                               "message_format", _SPOKEN, settings={"output_nodes": "steps"}),
    "contradicted": Answer([*_END, stop("杭州雨。")], "杭州晴。", "message_format",
                           final_text="杭州雨。"),
    "snapshots": Answer(
        [*(message("LLM_1", "LLM", _wrapped(text, "想")) for text in ("西湖", "西湖很", "西湖很美")),
         message("LLM_1", "LLM", "", last=True), stop("好。")],
        "好。", "message_format_plus", {"LLM_1": ("西湖很美", "想")}),
    "deltas": Answer(
        [*(message("App_1", "AppComponent", _wrapped(text)) for text in ("西湖", "很", "美")),
         message("App_1", "AppComponent", "", last=True), stop("好。")],
        "好。", "message_format_plus", {"App_1": ("西湖很美", "")}),
    "object": Answer(
        [listed("End_1", "End", '{"result":' + _OBJECT + "}"),
         listed("End_1", "End", '{"result":""}', last=True), stop(_OBJECT)],
        _OBJECT, None, {"End_1": (_OBJECT, "")}),
    "the SDK's retrieval": Answer(
        [stop("范围是(0,1)。", session_id="s",
              doc_references=[{"index_id": "1", "doc_id": "d", "doc_name": "n.pdf",
                               "doc_url": "https://127.0.0.1/n.pdf", "title": "t", "text": "范围",
                               "biz_id": "b", "images": ["http://127.0.0.1/a.png"]}],
              thoughts=[_called("文档检索", {"query": "范围"}, {"data": [SDK_HIT], "status": "SUCCESS"},
                                "范围", "searchDocument")])
         | {"usage": _SDK_USAGE, "request_id": "r"}],
        "范围是(0,1)。", None, {"thought-0": (_OBSERVED, "增强已开启")}),
    "the SDK's plugin": Answer(
        [stop("用电102千瓦时。", thoughts=[_called("plugin", {"user": 1}, {"n": 102}, "用电")])
         | {"usage": _SDK_USAGE, "request_id": "r"}],
        "用电102千瓦时。", None, {"thought-0": ('{"n": 102}', "增强已开启")}),
    "the SDK's nulls": Answer(
        [{"status_code": 200, "code": "", "message": "", "request_id": "r", "usage": _SDK_USAGE}
         | stop("你好", session_id="s", thoughts=None, doc_references=None, workflow_message=None)],
        "你好"),
}  # fmt: skip
"""By what is special about them."""
