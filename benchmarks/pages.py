"""Write what a part of the benchmark printed into the pages, in their language."""

from __future__ import annotations

import re
from pathlib import Path

SENTENCES = {
    r"Taken on (\S+) with Python (\S+), (\d+) cores;\n(.+)\.": r"测于 \1，Python \2，\3 核；\4。",
    r"### (\w+): ([\d,]+) B a frame, (\d+) frames": r"### \1：每帧 \2 B，共 \3 帧",
    r"The larger costs ([\d.]+) times as much per byte\.": r"较大的一个，每字节开销为另一个的 \1 倍。",
    r"CPU ([\d.]+), wall ([\d.]+)\.": r"CPU 之比 \1，总耗时之比 \2。",
}
"""Lines as patterns, and the same in Chinese."""

CELLS = {
    r"client": "客户端",
    r"µs a frame": "每帧 µs",
    r"of the bare SDK": "与官方 SDK 之比",
    r"of http\.client": "与 http.client 之比",
    r"bare SDK": "官方 SDK",
    r"call": "调用",
    r"package": "包",
    r"(\S+) of (\S+)": r"\1，\2",
    r"bailian_apps: run, client and concurrency": "bailian_apps 的 run、client 和 concurrency",
    r"(\S+) and (\S+)": r"\1 和 \2",
    r"other": "其他",
    r"workflow": "工作流",
    r"bytes": "字节数",
    r"ns a byte": "每字节 ns",
    r"(\d+) nodes × (\d+) frames": r"\1 个节点 × \2 帧",
    r"(\d+) streams × (\d+) frames, one core": r"\1 路流 × \2 帧，单核",
    r"wall s": "总耗时 s",
    r"first frame p50 ms": "首帧 p50 ms",
    r"threads \+ bare SDK": "线程 + 官方 SDK",
    r"(\d+) open streams": r"同时打开 \1 路流",
    r"RSS a stream, KB": "每路流的 RSS，KB",
    r"(\S+), in threads": r"线程 + \1",
    r"given up by": "放弃方式",
    r"p50 ms of (\d+)": r"\1 次的 p50，ms",
    r"max ms": "最大值，ms",
    r"`break`, and the garbage collector": "`break` 后由垃圾回收关闭",
    r"`close\(\)` from another thread": "从另一线程 `close()`",
    r"a timeout, from when it was due": "超时（从到期时刻算起）",
    r"a cancelled task": "取消任务",
    r"a timeout, async": "超时（异步）",
    r"first frame of a warm connection": "首帧（复用连接）",
    r"median ms": "中位数，ms",
    r"import": "导入",
    r"ms, median of (\d+)": r"ms，\1 次的中位数",
    r"least": "最小值",
    r"path": "路径",
    r"LangChain's own, µs": "LangChain 自身，µs",
    r"ours, µs": "本包，µs",
    r"over": "差值",
    r"LlamaIndex, µs": "LlamaIndex，µs",
    r"Bailian, µs": "百炼，µs",
    r"difference": "差值",
    r"chat engine, (\S+)": r"聊天引擎，\1",
}
"""The cells of tables as patterns, and the same in Chinese. A cell of another kind stays."""


def in_chinese(report: str) -> str:
    """Return the report of a part in Chinese, with the same figures."""
    for pattern, chinese in SENTENCES.items():
        report = re.sub(f"^{pattern}$", chinese, report, flags=re.M)
    return "\n".join(_row(line) if line[:1] == "|" else line for line in report.split("\n"))


def _row(line: str) -> str:
    return " | ".join(map(_cell, line.split(" | ")))


def _cell(text: str) -> str:
    inner = re.fullmatch(r"(\| )?(.*?)( \|)?", text)
    assert inner is not None
    before, words, after = (group or "" for group in inner.groups())
    for pattern, chinese in CELLS.items():
        if found := re.fullmatch(pattern, words):
            words = found.expand(chinese)
            break
    return before + words + after


def parts_of(page: Path) -> dict[str, str]:
    """Return what a page has between the markers of each part."""
    return dict(
        re.findall(r"<!-- ([\w-]+) -->\n\n(.*?)\n\n<!-- end -->", page.read_text("utf-8"), re.S)
    )


def write(page: Path, name: str, report: str) -> None:
    """Put a report between the markers of a part in a page."""
    text = in_chinese(report) if page.parent.name == "zh" else report
    markers = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    page.write_text(
        markers.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page.read_text("utf-8")),
        "utf-8",
    )
