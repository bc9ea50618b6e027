"""What the answers of a probe show about an app, as JSON values and as text.

A report holds no prompt, no answer and no value of the settings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from bailian_apps.core.errors import BailianError
from bailian_apps.core.language import N_, _, ngettext, translated
from bailian_apps.core.result import PAUSE
from bailian_apps.terminal import format_tokens, one_line, strip_controls, wrap_words

if TYPE_CHECKING:
    from bailian_apps.cli.probe import Answer

_WORDS = {
    "kind": {
        "workflow": N_("workflow"),
        "agent": N_("agent: it lists no nodes"),
        "agent_2": N_("agent, probably 2.0: it lists no nodes and reads no messages"),
    },
    "session": {
        "remembered": N_("remembers the earlier rounds"),
        "forgotten": N_("does not remember the earlier rounds"),
        "other_session": N_("answers in another session than the one asked for"),
        "refused": N_("refused"),
    },
    "messages": {
        "read": N_("reads them"),
        "ignored": N_("ignores all but the last one"),
        "refused": N_("refused"),
    },
    "system_message": {
        "followed": N_("the answer follows it"),
        "ignored": N_("the answer does not follow it"),
        "refused": N_("refused"),
    },
    "unknown_session": {
        "same_id": N_("answers in a session of that id"),
        "other_id": N_("answers in a new session with another id"),
        "refused": N_("refused"),
    },
    "last_frame": {
        "empty": N_("no text: all of it came before"),
        "whole": N_("the whole answer"),
        "end_node": N_("only the End node's text"),
        "all_at_once": N_("the whole answer, for the first time"),
        "delta": N_("the last piece of the answer"),
        "other": N_("a text that is not what streamed"),
    },
}
"""The values of a report in words."""

_UNKNOWN = {"unclear": N_("not known: the app repeated no number")}

_LABELS = {
    "kind": N_("kind of app"),
    "session": N_("session"),
    "messages": N_("messages"),
    "system_message": N_("system message"),
    "unknown_session": N_("unknown session"),
}
_MODE_QUESTIONS = ("first", "message_format", "message_format_plus")


def is_failure(answer: Answer) -> bool:
    """Whether an error left a question unanswered. A refusal answers all but the first."""
    return answer.error is not None and (answer.question == "first" or not answer.refused)


def report_of(app_id: str, answers: Mapping[str, Answer], numbers: Sequence[str]) -> dict[str, Any]:
    """Return what is known about an app, as JSON values.

    Args:
        app_id: The app.
        answers: The answers so far, by the names of their questions.
        numbers: As `Probe.numbers`.
    """
    in_session, in_messages, in_system = numbers
    # If no number came back at all, their absence shows nothing: the app may not take questions.
    asked = [answers[name] for name in ("messages", "no system", "one prompt") if name in answers]
    repeats = any(answer.has(in_messages) for answer in asked)
    session = answers.get("session")
    repeats = repeats or (session is not None and session.has(in_session))
    steps = answers["first"].result.steps if "first" in answers else ()
    report: dict[str, Any] = {
        "app_id": app_id,
        "bailian_apps": version("bailian-apps"),
        "kind": None,
        "session": _session(session, in_session, repeats),
        **_messages(answers, in_messages, in_system, repeats),
        "unknown_session": _unknown_session(answers.get("unknown session")),
        "steps": [
            {"name": each.name, "type": each.type, "kind": each.kind, "status": each.status}
            for each in steps
        ],
        "modes": {
            answer.mode: _streaming(answer)
            for name in _MODE_QUESTIONS
            if (answer := answers.get(name)) and answer.answered
        },
        "calls": [_call(answer) for answer in answers.values()],
    }
    report["kind"] = _kind(answers, report["messages"])
    report["settings"] = _settings(report)
    return report


def _kind(answers: Mapping[str, Answer], messages: str | None) -> str | None:
    answered = [answer for answer in answers.values() if answer.answered]
    if any(step.kind == "node" for answer in answered for step in answer.result.steps):
        return "workflow"
    if not answered:
        return None
    return "agent_2" if messages in ("ignored", "refused") else "agent"


def _session(answer: Answer | None, number: str, repeats: bool) -> str | None:
    if answer is None or not answer.answered:
        return "refused" if answer and answer.refused else None
    if answer.has(number):
        return "remembered"
    if answer.result.context_lost:
        return "other_session"
    return "forgotten" if repeats else "unclear"


def _messages(
    answers: Mapping[str, Answer], number: str, in_system: str, repeats: bool
) -> dict[str, str | None]:
    with_system, without = answers.get("messages"), answers.get("no system")
    answer = without or with_system
    messages = system = None
    if answer is not None and answer.refused:
        messages = system = "refused"
    elif answer is not None and answer.answered:
        messages = "read" if answer.has(number) else "ignored" if repeats else "unclear"
        if without is not None:
            system = "refused"
        elif answer.has(in_system):
            system = "followed"
        else:
            system = "ignored" if repeats else "unclear"
    return {"messages": messages, "system_message": system}


def _unknown_session(answer: Answer | None) -> str | None:
    if answer is None or not answer.answered:
        return "refused" if answer and answer.refused else None
    return "same_id" if answer.result.session_id == answer.asked_session else "other_id"


def _streaming(answer: Answer) -> dict[str, Any]:
    speaking = [step for step in answer.result.steps if answer.step_frames.get(step.id)]
    return {
        "streams": answer.streams,
        "text_frames": len(answer.streamed),
        "first_text_s": _rounded(answer.first_text_s),
        "seconds": _rounded(answer.seconds),
        "last_frame": _last_frame(answer),
        "steps": [
            {"name": step.name, "type": step.type, "frames": answer.step_frames[step.id]}
            for step in speaking
        ],
    }


def _last_frame(answer: Answer) -> str:
    """What the text of the last frame is."""
    streamed = "".join(answer.streamed)
    output = cast("Mapping[str, Any]", answer.result.raw.get("output") or {})
    text = output.get("text")
    nodes = [step for step in answer.result.steps if step.kind == "node" and step.output]
    end = "".join(step.output for step in nodes if step.type == "End")
    if not text:
        return "empty"
    if not streamed:
        return "all_at_once"
    # In this mode only nodes that speak to the user are listed.
    spoken = "".join(step.output for step in nodes)
    if answer.mode == "message_format" and text == end != spoken:
        return "end_node"
    if text in (spoken, end, streamed):
        return "whole"
    return "other" if nodes else "delta"


def _call(answer: Answer) -> dict[str, Any]:
    usage = answer.result.usage.to_dict()
    return {
        "question": answer.question,
        "answered": answer.answered,
        "error": None if answer.error is None else _error(answer.error),
        "request_id": answer.result.request_id or getattr(answer.error, "request_id", None),
        "frames": answer.frames,
        "seconds": _rounded(answer.seconds),
        "usage": usage,
    }


def _error(error: BailianError) -> dict[str, Any]:
    # Without the message: it may quote what was sent.
    return {"type": type(error).__name__, "code": error.code, "status_code": error.status_code}


def _settings(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that differ from the defaults."""
    settings: dict[str, str] = {}
    if report["session"] in ("forgotten", "other_session", "refused"):
        settings["history_mode"] = "full"
    if report["messages"] in ("ignored", "refused") or report["system_message"] == "refused":
        settings["history_format"] = "prompt"
    modes: Mapping[str, Mapping[str, Any]] = report["modes"]
    streaming = [name for name, mode in modes.items() if mode["streams"]]
    spoken = modes.get("message_format", {}).get("steps", ())
    if "message_format" in streaming and any(step["type"] != "End" for step in spoken):
        settings["flow_stream_mode"] = "message_format"  # it shows which nodes are the answer
    elif streaming and "full_thoughts" not in streaming:
        settings["flow_stream_mode"] = streaming[0]
    return settings


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)


# ------------------------------------------------------------------------------- as text


def outcome(answer: Answer) -> Text:
    """What one call got, as one line."""
    if answer.error is not None:
        code = one_line(answer.error.code or "")
        status = f"HTTP {answer.error.status_code}" if answer.error.status_code else ""
        facts = ", ".join(filter(None, (type(answer.error).__name__, code, status)))
        return Text(
            f"{'✗' if is_failure(answer) else '·'} {facts}",
            "red" if is_failure(answer) else "yellow",
        )
    usage = answer.result.usage
    tokens = (
        format_tokens(usage.input_tokens, usage.output_tokens) if usage.models else _("no usage")
    )
    frames = ngettext("{count} frame", "{count} frames", answer.frames)
    facts = _(", ").join((f"{answer.seconds:.1f} s", frames, tokens))
    return Text.assemble(("✓ ", "green"), facts)


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Print a report as text, in the width of the console."""
    print_rows(_rows(report), console)


def print_rows(rows: Iterable[tuple[str, str]], console: Console) -> None:
    """Print labels and, beside each, its text, wrapped to the width of the console."""
    rows = list(rows)
    indent = max(cell_len(label) for label, _text in rows) + 2
    for label, text in rows:
        wrapped = wrap_words(strip_controls(text), max(console.width - indent, 20))
        for number, line in enumerate(wrapped.split("\n")):
            row = Text.assemble((set_cell_size("" if number else label, indent), "bold"), line)
            row.rstrip()
            console.print(row, soft_wrap=True)


def _rows(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield _("app"), report["app_id"]
    for field, label in _LABELS.items():
        words = _WORDS[field].get(report[field], _UNKNOWN.get(report[field], N_("not known")))
        yield translated(label), translated(words)
    if report["steps"]:
        yield _("steps"), _list(report["steps"])
    if paused := _paused(report):
        yield _("pauses"), _("it waits for a person: {steps}").format(steps=_list(paused))
    for mode, facts in report["modes"].items():
        yield mode, _streams(facts)
        words = translated(_WORDS["last_frame"][facts["last_frame"]])
        yield "", _("last frame: {what}").format(what=words)
        for text, chosen in ((_("streams: {steps}"), True), (_("at once: {steps}"), False)):
            steps = [step for step in facts["steps"] if (step["frames"] > 1) == chosen]
            if steps:
                yield "", text.format(steps=_list(steps))
    usages = [call["usage"] for call in report["calls"]]
    tokens = [sum(usage[name] for usage in usages) for name in ("input_tokens", "output_tokens")]
    calls = ngettext("{count} call", "{count} calls", len(usages))
    models = dict.fromkeys(model["model_id"] for usage in usages for model in usage["models"])
    used = format_tokens(*tokens) if models else _("no tokens reported")
    yield _("cost"), _(", ").join((calls, used))
    if models:
        yield _("models"), ", ".join(models)
    yield "", ""
    yield from _advice(report)


def _paused(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The steps that wait for a person. What would follow them did not run."""
    return [step for step in report["steps"] if step["status"] == PAUSE]


def _streams(facts: Mapping[str, Any]) -> str:
    if not facts["streams"]:
        text = _("the answer comes at once, after {seconds:.1f} s")
        return text.format(seconds=facts["seconds"])
    text = _("the answer streams, in {count} frames, from {begin:.1f} s to {end:.1f} s")
    begin, end = facts["first_text_s"], facts["seconds"]
    return text.format(count=facts["text_frames"], begin=begin, end=end)


def _list(steps: Sequence[Mapping[str, Any]]) -> str:
    names = Counter(
        step["name"] if step["type"] in (None, step["name"]) else f"{step['name']} ({step['type']})"
        for step in steps
    )
    return ", ".join(name if count == 1 else f"{name} x{count}" for name, count in names.items())


def _advice(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    settings: Mapping[str, str] = report["settings"]
    if not settings:
        yield _("settings to use"), _("the defaults")
    for number, (name, value) in enumerate(settings.items()):
        yield "" if number else _("in Python"), f'{name}="{value}",'
    for number, (name, value) in enumerate(settings.items()):
        yield "" if number else _("in a terminal"), f"--set {name}={value}"
    if report["kind"] == "workflow" and report["messages"] == "ignored":
        yield (
            _("or"),
            _(
                "put the variable historyList into the prompt of its LLM node, and publish the "
                "app: then it reads messages"
            ),
        )
    modes = report["modes"].values()
    silent = modes and not any(mode["streams"] for mode in modes)
    if report["kind"] == "workflow" and silent and not _paused(report):
        what = _("switch on the streaming of its End node, and publish the app")
        yield _("to stream"), what
