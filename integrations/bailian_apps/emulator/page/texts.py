"""The texts of the page, in English and Chinese."""

from typing import Literal, TypeAlias

Language: TypeAlias = Literal["en", "zh-CN"]

_TEXTS: dict[str, tuple[str, str]] = {
    "emulator": ("Emulator", "模拟器"),
    "recorder": ("Recorder", "录制代理"),
    # The list
    "requests": ("Requests", "请求"),
    "filter": ("Filter: words, -word", "筛选：词语、-词语"),
    "clear_list": ("Clear", "清空"),
    "follow": ("Follow", "跟随"),
    "number": ("#", "#"),
    "time": ("Time", "时间"),
    "app": ("App", "应用"),
    "prompt": ("Prompt", "提示词"),
    "biz_params": ("biz_params", "biz_params"),
    "status": ("Status", "状态"),
    "fault": ("Fault", "故障"),
    "session": ("Session", "会话"),
    "size": ("Size", "大小"),
    "duration": ("Duration", "耗时"),
    "running": ("running", "进行中"),
    "cut": ("cut off", "中断"),
    "no_requests": ("No requests yet", "还没有请求"),
    "no_requests_hint": ("Calls to this address appear here:", "对此地址的调用会显示在这里："),
    "no_match": ("No request matches the filter", "没有符合筛选条件的请求"),
    "count": ("{shown} of {all} requests", "{shown} / {all} 个请求"),
    "count_running": ("{n} running", "{n} 个进行中"),
    "gone": ("{n} older ones are gone", "更早的 {n} 个已丢弃"),
    "connected": ("live", "实时"),
    "disconnected": ("disconnected, trying again", "连接已断开，正在重试"),
    # One request
    "details": ("Details", "详情"),
    "run": ("Run", "运行"),
    "request": ("Request", "请求"),
    "response": ("Response", "响应"),
    "headers": ("Headers", "请求头"),
    "body": ("Body", "正文"),
    "copy_curl": ("Copy as curl", "复制为 curl"),
    "copied": ("Copied", "已复制"),
    "again": ("Edit and run", "编辑并运行"),
    "close": ("Close", "关闭"),
    "choose": ("Choose a request to see its run", "选择一个请求以查看其运行"),
    "is_running": ("The run is drawn when it ends", "运行结束后显示"),
    "left_out": ("… {n} more characters", "……还有 {n} 个字符"),
    "is_cut": ("… the rest is too long and not kept", "……其余部分过长，未保留"),
    "gone_one": ("This request is gone", "此请求已丢弃"),
    "frames": ("frames: {n}", "{n} 帧"),
    # The playground
    "playground": ("Playground", "试运行"),
    "stream_mode": ("Answer", "应答方式"),
    "stream_deltas": ("stream of deltas", "增量流"),
    "stream_whole": ("stream, each frame has all so far", "全量流"),
    "json": ("JSON", "JSON"),
    "default": ("default", "默认"),
    "thoughts": ("with steps", "返回步骤"),
    "session_new": ("empty for a new one", "留空则新建"),
    "session_keep": ("keep the session", "保持会话"),
    "continue": ("Continue", "继续会话"),
    "run_it": ("Run", "运行"),
    "stop": ("Stop", "停止"),
    "answer": ("Answer", "回答"),
    "bad_json": ("biz_params is not JSON: ", "biz_params 不是 JSON："),
    "not_object": ("biz_params must be a JSON object", "biz_params 必须是 JSON 对象"),
    "no_prompt": ("Enter a prompt", "请输入提示词"),
    "lost": ("The connection was lost", "连接中断"),
    "show_entry": ("Show request", "查看请求"),
    # Faults
    "faults": ("Faults", "故障"),
    "pending": ("Staged", "待触发"),
    "none_pending": ("No fault is staged", "没有待触发的故障"),
    "clear_faults": ("Clear all", "全部清除"),
    "stage": ("Stage", "设置"),
    "times": ("Times", "次数"),
    "any_app": ("any app", "任意应用"),
    "left": ("{n} left", "剩 {n} 次"),
    "find_fault": ("Find a fault", "查找故障"),
    # Sessions
    "sessions": ("Sessions", "会话"),
    "clock": ("Clock", "时钟"),
    "clock_now": ("{n} ahead", "已快进 {n}"),
    "clock_none": ("not moved", "未快进"),
    "advance": ("Advance", "快进"),
    "forget": ("Forget", "忘记"),
    "forget_all": ("Forget all", "全部忘记"),
    "rounds": ("rounds: {n}", "{n} 轮"),
    "no_sessions": ("No session", "没有会话"),
    "newest_sessions": ("The newest {n} are shown", "仅显示最新的 {n} 个"),
    # Apps and recordings
    "apps": ("Apps", "应用"),
    "no_apps": ("No app is served", "没有应用"),
    "kind": ("Kind", "类型"),
    "source": ("Source", "来源"),
    "modes": ("Stream modes", "流模式"),
    "try": ("Try", "试运行"),
    "recordings": ("Recordings", "录制"),
    "no_recordings": ("No recording", "没有录制"),
    "file": ("File", "文件"),
    "help": (
        "↑ ↓ choose · Enter open · Esc close · / filter · c copy as curl",
        "↑ ↓ 选择 · Enter 打开 · Esc 关闭 · / 筛选 · c 复制 curl",
    ),
    "help_playground": (" · p playground", " · p 试运行"),
    # The list of steps
    "no_steps": ("The answer lists no steps", "应答中没有步骤"),
    "not_rendered": ("The run cannot be drawn", "无法绘制运行"),
}


def language_of(accepted: str) -> Language:
    """Return the language for an `Accept-Language`; its first one counts."""
    return "zh-CN" if accepted.strip().lower().startswith("zh") else "en"


def texts_in(language: Language) -> dict[str, str]:
    """Return the texts in a language, by their names."""
    index = 0 if language == "en" else 1
    return {name: texts[index] for name, texts in _TEXTS.items()}
