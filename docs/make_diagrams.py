"""Draws the diagrams of the concept pages, in English and in Chinese: docs/images/NAME.LANGUAGE.svg.

python docs/make_diagrams.py
"""

# ruff: noqa: E501 - the texts of a picture
from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from diagram import LANGUAGES, Diagram, Words

IMAGES = Path(__file__).parent / "images"


def sessions(language: str) -> Diagram:
    """Which messages are sent: the next round of a session, and a branch."""
    draw = Diagram(
        language,
        430,
        ("Markers in messages name the session", "消息里的会话标记指向百炼侧的会话"),
    )
    draw.text(20, 30, ("Your messages, in any store", "您的消息（存在任何地方）"), "head")
    draw.text(458, 30, ("Sessions in the cloud", "百炼侧的会话"), "head")
    user, app = ("user", "用户"), ("answer", "回答")
    rows = (
        (user, ("Plan a day in Hangzhou", "帮我安排杭州一日游"), ""),
        (app, ("First, West Lake …", "先去西湖……"), ("marker: s1, round 1", "标记：s1，第 1 轮")),
        (user, ("And a second day?", "第二天呢？"), ""),
        (app, ("Then Lingyin …", "再去灵隐寺……"), ("marker: s1, round 2", "标记：s1，第 2 轮")),
    )
    for number, (who, said, marker) in enumerate(rows):
        y = 44 + 44 * number
        draw.box(20, y, 236, 36)
        draw.text(30, y + 22.5, who, "soft")
        draw.text(88, y + 22.5, said)
        if marker:
            draw.box(262, y + 4, 146, 28, marker, "blue")
    draw.box(20, 220, 236, 36, "", "green")
    draw.text(30, 242.5, user, "green")
    draw.text(88, 242.5, ("And a third day?", "第三天呢？"))
    draw.box(458, 44, 222, 212)
    draw.text(470, 64, ("session s1", "会话 s1"), "head")
    for number in range(3):
        y = 74 + 60 * number
        words = (f"round {number + 1}: prompt and answer", f"第 {number + 1} 轮：提问与回答")
        draw.box(470, y, 198, 40, words, "green" if number == 2 else "blue")
    draw.arrow((408, 194), (436, 194), (436, 154), (470, 154), kind="blue dash")
    draw.arrow((256, 238), (444, 238), (444, 214), (470, 214), kind="green")
    draw.text(268, 231, ("only this message", "只发送这一条"), "green")
    draw.line(20, 276, 680, 276)
    draw.text(
        20,
        300,
        (
            "A branch: round 2 of s1 was used by another call",
            "分支：s1 的第 2 轮已被另一次调用用掉",
        ),
        "head",
    )
    draw.box(20, 314, 270, 46)
    draw.text(
        30, 333, ("messages 1 and 2, with their marker", "第 1、2 条消息，带会话标记"), "soft"
    )
    draw.text(30, 350, ("+ Rather by bus, please", "+ 改成坐公交"))
    draw.box(458, 314, 222, 46, ("a conversation of its own", "自成一段对话"), "amber")
    draw.arrow((290, 337), (458, 337), kind="amber")
    draw.text(300, 330, ("the whole history", "发送全部历史消息"), "amber")
    draw.text(
        20,
        388,
        (
            "The whole history is also sent after an edit, a system message that is new, another app's answer,\n"
            "an hour without a call, 50 rounds, or when the cloud has lost the session.",
            "以下情况也发送全部历史消息：修改过消息、系统消息有变化、其他应用回答过、一小时没有调用、\n已满 50 轮、百炼侧丢失了会话。",
        ),
        "soft",
    )
    return draw


def steps(language: str) -> Diagram:
    """Steps on a time axis, and in the two frameworks."""
    draw = Diagram(language, 430, ("The steps of one run", "一次运行的步骤"))
    draw.text(20, 30, ("One run of a workflow", "工作流的一次运行"), "head")
    draw.text(680, 30, ("time since the request was sent", "从发出请求起算的时间"), "soft end")
    draw.arrow((160, 40), (680, 40))
    rows = (
        (("start", "开始"), "Start", 170, 0, 180, "box"),
        (("search", "检索"), "Retrieval", 182, 300, 330, "green"),
        (("model_1", "大模型_1"), "LLM", 182, 262, 500, "blue"),
        (("api", "接口"), "API", 500, 540, 556, "amber"),
        (("end", "结束"), "End", 556, 572, 650, "blue"),
    )
    for number, (name, type_, start, first, end, color) in enumerate(rows):
        y = 54 + 32 * number
        draw.text(20, y + 17, name)
        draw.text(148, y + 17, type_, "soft end")
        draw.box(start, y, end - start, 24, "", color)
        if first:
            draw.box(first, y, end - first, 24, "", f"{color} solid")
    for x, name in ((182, "started_ms"), (262, "first_token_ms"), (500, "ended_ms")):
        draw.line(x, 118, x, 224, "dash")
        draw.text(x, 251 if x == 262 else 234, name, "code mid")
    draw.line(262, 224, 262, 238, "dash")
    draw.text(
        346,
        102,
        ("search and model_1 run in parallel", "检索与大模型_1 并行"),
        "soft",
    )
    draw.line(20, 266, 680, 266)
    draw.text(20, 290, ("LangChain: child runs", "LangChain：子 run"), "head")
    draw.text(360, 290, ("LlamaIndex: spans", "LlamaIndex：span"), "head")
    langchain = (
        "ChatBailianApp  (llm)\n├─ {0}  (chain)\n├─ {1}  (retriever)\n├─ {2}  (chain)\n"
        "├─ {3}  (chain)\n└─ {4}  (chain)"
    )
    llamaindex = (
        "BailianAppLLM.chat\n└─ BailianApp.run\n   ├─ node {0}\n   ├─ node {1}  + Retrieval…Event\n"
        "   ├─ node {2}\n   ├─ node {3}\n   └─ node {4}"
    )
    names = [draw.words(row[0]) for row in rows]
    for x, tree in ((20, langchain), (360, llamaindex)):
        for number, line in enumerate(tree.format(*names).split("\n")):
            shown = line.lstrip()
            draw.text(x + 7.3 * (len(line) - len(shown)), 312 + 17 * number, shown, "code")
    return draw


def streaming(language: str) -> Diagram:
    """What the frames of each mode have, and what of it is the answer."""
    draw = Diagram(
        language, 424, ("What of each stream mode is the answer", "各流式模式中哪些内容是回答")
    )
    heads = (
        (168, ("a node computes", "节点执行中")),
        (346, ("the answer is spoken", "正在输出回答")),
        (524, ("last frame", "最后一帧")),
    )
    for x, words in heads:
        draw.text(x + 80, 30, words, "head mid")
    whole = ("text: all again", "text：重复全文")
    rows: tuple[tuple[Words, Words, Words, Words, str], ...] = (
        (
            ("agent app", "智能体应用"),
            "thoughts[]",
            ("text: deltas", "text：增量"),
            ("text: last delta", "text：最后一段增量"),
            "green",
        ),
        (
            "full_thoughts",
            ("thoughts[]: LLM", "thoughts[]：大模型"),
            ("thoughts[]:\nEnd, Output", "thoughts[]：\n结束、流程输出"),
            whole,
            "dash box",
        ),
        (
            "message_format",
            "—",
            ("workflow_message:\nEnd, Output", "workflow_message：\n结束、流程输出"),
            whole,
            "dash box",
        ),
        (
            "message_format_plus",
            ("workflow_message:\nLLM, JSON", "workflow_message：\n大模型，JSON"),
            ("workflow_message:\nEnd, Output", "workflow_message：\n结束、流程输出"),
            whole,
            "dash box",
        ),
        ("agent_format", "—", ("text: deltas", "text：增量"), whole, "dash box"),
        ("thoughts=False", "—", "—", ("text: everything", "text：全文"), "green"),
    )
    for number, (name, before, during, last, kind) in enumerate(rows):
        y = 44 + 54 * number
        draw.text(16, y + 26, name, "" if number == 0 else "code")
        for x, words, color in ((168, before, "blue"), (346, during, "green"), (524, last, kind)):
            if words == "—":
                draw.text(x + 80, y + 26, "—", "soft mid")
            else:
                draw.box(x, y, 160, 44, words, color)
    draw.box(20, 382, 18, 18, "", "green")
    draw.text(46, 396, ("the answer: TextDelta", "回答：TextDelta"))
    draw.box(210, 382, 18, 18, "", "blue")
    draw.text(236, 396, ("a step: StepDelta", "步骤：StepDelta"))
    draw.box(378, 382, 18, 18, "", "dash box")
    draw.text(404, 396, ("adds only what is missing", "只补上缺少的部分"))
    return draw


def requests(language: str) -> Diagram:
    """From the call to the result, and what is sent again."""
    draw = Diagram(language, 520, ("What is sent when", "何时发送，何时重发"))
    column, width = 210, 250
    boxes: tuple[tuple[float, Words, str], ...] = (
        (20, "invoke / stream", "box"),
        (76, ("check all arguments", "检查全部参数"), "box"),
        (132, ("plan: new message, or whole history", "决定：新消息，还是全部历史消息"), "box"),
        (188, ("wait for a slot, claim the round", "等待并发名额，占用会话轮次"), "box"),
        (250, ("attempt: key, connection, one POST", "发送：获取 Key、建立连接、POST"), "blue"),
        (342, ("first frame", "首帧"), "green"),
        (398, ("frames → events → chunks", "数据帧 → 事件 → chunk"), "green"),
        (454, ("last frame → AppResult, marker", "最后一帧 → AppResult、会话标记"), "green"),
    )
    for y, words, kind in boxes:
        draw.box(column, y, width, 36, words, kind)
    middle = column + width / 2
    for (y, _, _), (to_y, _, _) in itertools.pairwise(boxes):
        draw.arrow((middle, y + 36), (middle, to_y))
    draw.text(
        20,
        92,
        ("InvalidInputError:\nnothing was sent", "InvalidInputError：\n请求没有发出"),
        "soft",
    )
    draw.arrow((column, 94), (150, 94), kind="red")
    draw.box(
        496,
        206,
        188,
        110,
        (
            "sent again\nnot connected, 429, 503;\nif idempotent=True also:\nlost, timeout, 500\n(max_retries times)",
            "重新发送\n未建立连接、429、503；\nidempotent=True 时还有：\n断线、超时、500\n（最多 max_retries 次）",
        ),
        "amber",
    )
    draw.arrow((column + width, 262), (496, 262), kind="amber")
    draw.arrow((496, 278), (column + width, 278), kind="amber")
    draw.box(
        20,
        224,
        150,
        88,
        (
            "sent again once\n401, if the key\nis a callable;\n400, wants a prompt",
            "只重发一次\n401：Key 来自函数\n400：应用要 prompt",
        ),
        "amber",
    )
    draw.arrow((column, 262), (170, 262), kind="amber")
    draw.arrow((170, 278), (column, 278), kind="amber")
    draw.line(20, 326, 680, 326, "dash red")
    draw.text(496, 348, ("from here on: never\nsent again", "从这里起：绝不重发"), "red")
    draw.text(
        496,
        402,
        (
            "An error has what had\narrived in error.partial.",
            "出错时，已收到的内容在\nerror.partial 中。",
        ),
        "soft",
    )
    return draw


def failures(language: str) -> Diagram:
    """Where an attempt fails, and what is certain then."""
    draw = Diagram(language, 412, ("What is certain after a failure", "失败后能确定什么"))
    columns = (16, 146, 290, 416, 566, 684)
    events: tuple[Words, ...] = (
        ("call", "调用"),
        ("request sent", "请求发出"),
        ("HTTP head", "HTTP 响应头"),
        ("first frame", "首帧"),
        ("last frame", "最后一帧"),
    )
    draw.arrow((16, 54), (684, 54))
    for x, words in zip(columns, events, strict=False):
        draw.line(x, 46, x, 62)
        draw.text(x + 4, 40, words, "soft")
    lost = "ConnectionLost-\nError\nRequestTimeout-\nError"
    broken = (
        "StreamInterrupted-\nError\nRequestTimeout-\nError, error event",
        "StreamInterrupted-\nError\nRequestTimeout-\nError、错误事件",
    )
    zones: tuple[tuple[Words, Words, Words, Words, str], ...] = (
        ("ConnectError", "not_sent", ("certainly not", "肯定没有"), ("yes", "会"), "green"),
        (lost, "unknown", ("perhaps", "可能"), ("if idempotent", "仅当幂等"), "amber"),
        (
            (
                "an APIError:\nRateLimitError,\nServerError …",
                "APIError：\nRateLimitError、\nServerError……",
            ),
            "answered",
            ("429, 503: no\n500: perhaps", "429、503：没有\n500：可能"),
            ("429, 503: yes\n500: if idem-\npotent", "429、503：会\n500：仅当幂等"),
            "blue",
        ),
        (broken, "unknown", ("yes, in part", "是，一部分"), ("never", "不会"), "red"),
        (
            ("no error: a\nlost connection\nchanges nothing", "没有异常：\n此后断线\n不影响结果"),
            "—",
            ("yes", "是"),
            "—",
            "box",
        ),
    )
    for (words, state, ran, again, kind), x, to_x in zip(zones, columns, columns[1:], strict=False):
        width = to_x - x
        draw.box(x + 3, 66, width - 6, 84, words, kind)
        draw.text(x + width / 2, 202, state, "code mid")
        draw.text(x + width / 2, 258, ran, "mid")
        draw.text(x + width / 2, 330, again, "mid")
    for y, name in (
        (182, "request_state"),
        (238, ("Did the app run?", "应用运行了吗？")),
        (310, ("Is the request sent again by itself?", "会自动重发吗？")),
    ):
        draw.line(16, y - 17, 684, y - 17)
        draw.text(20, y, name, "soft")
    draw.line(16, 376, 684, 376)
    draw.text(20, 396, "error.partial", "soft")
    draw.text(420, 396, ("text, steps and usage so far", "已收到的文本、步骤、用量"), "red")
    return draw


DIAGRAMS: dict[str, Callable[[str], Diagram]] = {
    "sessions": sessions,
    "steps": steps,
    "streaming": streaming,
    "requests": requests,
    "failures": failures,
}


def main(folder: Path = IMAGES) -> None:
    """Draw all diagrams."""
    for name, draw in DIAGRAMS.items():
        for language in LANGUAGES:
            path = folder / f"{name}.{language}.svg"
            path.write_text(draw(language).svg(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
