"""What an answer's text holds besides its words: citation marks and `<think>` tags. Pure.

The cloud writes a mark where the answer cites a document (agent-rag-citations.json, in
tests/recordings). A model whose reasoning the app does not report apart writes it between tags.
Either may be cut in pieces over several frames. `AnswerFilter` reads events, not frames, so it is
the same for every kind of app and every stream mode.

A thought that is not closed is reasoning to the end: a model that is cut off, or that leaves out
the tag, has thought until then. A closing tag without an opening one is text: what it would end has
streamed as the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, reduce
from typing import Literal, TypeAlias

from bailian_apps.core.answer import Clock
from bailian_apps.core.events import (
    AppEvent,
    ReasoningDelta,
    StepFinished,
    StepStarted,
    TextDelta,
    fold,
)
from bailian_apps.core.result import SUCCESS, AppResult, Step, reasoning_fields

CitationMarks: TypeAlias = Literal["keep", "strip"]
ThinkTags: TypeAlias = Literal["keep", "reasoning"]

_THINK = "think"
OPENING_TAG = f"<{_THINK}>"
"""What begins a thought."""
# Recorded: `<ref>[1]</ref>`. Several numbers in one mark are read too.
_MARK = (*"<ref>", r"[\[\]\d,，、\s]{1,64}", *"</ref>")
_TAGS = (tuple(OPENING_TAG), tuple(f"</{_THINK}>"))
CITATION = re.compile("".join(_MARK))
"""A citation mark."""


def replace_citation_marks(text: str, replacement: Callable[[str], str]) -> str:
    """Return a text with its citation marks rendered by a function.

    A stream never divides a mark, so this works for a whole answer and for each of its deltas.

    Args:
        text: An answer, or a delta of one.
        replacement: Is called with each number in a mark, which is the `index_id` of a
            `DocReference`; returns what to write in its place.

    Returns:
        The text with every mark replaced.

    Example:
        ```python
        urls = {each.index_id: each.doc_url for each in result.references}
        print(replace_citation_marks(result.text, lambda n: f"[{n}]({urls.get(n)})"))
        ```
    """
    return CITATION.sub(lambda mark: "".join(map(replacement, re.findall(r"\d+", mark[0]))), text)


class AnswerFilter:
    """Keeps citation marks whole or strips them, and makes reasoning of text between think tags.

    Text at the end of a piece that may begin a mark or a tag is held back for the next piece.
    However an answer is divided into pieces, what comes out of them is the same.
    """

    def __init__(
        self,
        citation_marks: CitationMarks = "keep",
        think_tags: ThinkTags = "keep",
        *,
        clock: Clock = lambda: None,
    ) -> None:
        """Start at the beginning of an answer.

        Args:
            citation_marks: The setting of this name.
            think_tags: The setting of this name.
            clock: Is read when a thought begins or ends and when the answer begins.
        """
        self._clock = clock
        self._first_token_ms: float | None = None
        self._ended: dict[str, Step] = {}  # the thoughts that have ended, with their times
        self._settings: tuple[CitationMarks, ThinkTags] = (citation_marks, think_tags)
        self._reads_tags = think_tags == "reasoning"
        self._changes_text = self._reads_tags or citation_marks == "strip"
        self._tokens, self._beginnings = _patterns(citation_marks == "strip", self._reads_tags)
        self._held = ""
        self._thinks = False
        self._thought: Step | None = None  # of the tags that are open, once they hold a word
        self._thought_text: list[str] = []
        self._thoughts = 0
        self._steps = 0  # how many of the app's own have started
        self._places: list[int] = []  # after how many of them each thought began
        self._thinkers: list[str] = []  # the steps that think, the app's own and those of tags
        # Models put line breaks between a tag and what follows it: neither answer nor reasoning.
        # Once the answer has begun, they are its own.
        self._skips_space = False
        self._has_begun = False

    def feed(self, events: list[AppEvent], *, last: bool = False) -> list[AppEvent]:
        """Return the events with the text of the answer filtered.

        Args:
            events: The next events of the run.
            last: Whether no text follows them, so that nothing is held back.
        """
        if not (self._held or self._reads_tags):
            for event in events:
                if type(event) is TextDelta and "<" in event.text:
                    break
            else:
                return events
        filtered: list[AppEvent] = []
        for event in events:
            if type(event) is TextDelta:
                self._push(event.text, filtered)
            else:
                self._steps += type(event) is StepStarted
                if type(event) is ReasoningDelta and event.step_id not in self._thinkers:
                    self._thinkers.append(event.step_id)
                filtered.append(event)
        if last:
            self._push("", filtered, last=True)
            self._end_thought(filtered)
        return filtered

    def result(self, result: AppResult) -> AppResult:
        """Return a result as the filtered events make it; `final_text` stays the wire's own.

        The steps of its thoughts are where they were among the events that `feed` has read, and so
        is their reasoning; later ones are last.
        """
        if not self._changes_text:
            return result
        reader, events = AnswerFilter(*self._settings), list[AppEvent]()
        reader._push(result.text, events, last=True)
        if result.finish_reason is not None:
            reader._end_thought(events)
        read = reduce(fold, events, AppResult())
        if self._reads_tags:  # a thought is not the first text
            result = replace(result, first_token_ms=self._first_token_ms)
        if not read.steps:
            return replace(result, text=read.text)
        thoughts = [self._ended.get(step.id, step) for step in read.steps]
        steps = list(result.steps)
        places = [*self._places, *[len(steps)] * len(thoughts)]
        for place, step in reversed([*zip(places, thoughts, strict=False)]):
            steps.insert(place, step)
        reasoning = reasoning_fields((*self._thinkers, *result.reasoning_steps), steps)
        return replace(result, text=read.text, steps=tuple(steps), **reasoning)

    def _push(self, text: str, events: list[AppEvent], *, last: bool = False) -> None:
        """Add a piece of text; append what is certain."""
        text, self._held = self._held + text, ""
        if not last and (beginning := self._beginnings.search(text)):
            text, self._held = text[: beginning.start()], beginning[0]
        done = 0
        for token in self._tokens.finditer(text) if self._changes_text else ():
            opens, closes = token[0] == OPENING_TAG, token[0] == f"</{_THINK}>"
            if (opens and self._thinks) or (closes and not self._thinks):
                continue  # it opens or closes nothing: text like any other
            self._emit(text[done : token.start()], events)
            done = token.end()
            if opens or closes:
                self._end_thought(events)
                self._thinks = opens
                self._skips_space = opens or not self._has_begun
        self._emit(text[done:], events)

    def _emit(self, text: str, events: list[AppEvent]) -> None:
        if self._skips_space:
            text = text.lstrip()
        if not text:
            return
        self._skips_space = False
        if not self._thinks:
            if not self._has_begun and not text.isspace():
                self._has_begun, self._first_token_ms = True, self._clock()
            events.append(TextDelta(text))
            return
        if self._thought is None:
            self._thoughts += 1
            self._places.append(self._steps)
            step_id = _THINK if self._thoughts == 1 else f"{_THINK}#{self._thoughts}"
            self._thinkers.append(step_id)
            now = self._clock()
            self._thought = Step(
                id=step_id, kind="reasoning", name=_THINK, started_ms=now, first_token_ms=now
            )
            events.append(StepStarted(self._thought))
        self._thought_text.append(text)
        events.append(ReasoningDelta(text, self._thought.id))

    def _end_thought(self, events: list[AppEvent]) -> None:
        if self._thought is not None:
            reasoning, now = "".join(self._thought_text), self._clock()
            thought = replace(self._thought, status=SUCCESS, reasoning=reasoning, ended_ms=now)
            events.append(StepFinished(thought))
            self._ended[thought.id] = thought
            self._thought, self._thought_text = None, []


@lru_cache
def _patterns(strips_marks: bool, reads_tags: bool) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return patterns of what is taken out of a text, and of a text's end that may begin it."""
    tags = _TAGS if reads_tags else ()
    taken = (*((_MARK,) if strips_marks else ()), *tags)
    whole = "|".join("".join(parts) for parts in taken)
    begun = "|".join(
        reduce(lambda rest, part: f"{part}(?:{rest})?", reversed(parts[:-1]))
        for parts in (_MARK, *tags)
    )
    return re.compile(whole), re.compile(rf"(?:{begun})\Z")
