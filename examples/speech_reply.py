"""Speak an app's answer while it arrives, sentence by sentence, with CosyVoice.

    pip install "bailian-apps[emulator]"
    python examples/speech_reply.py "龙井茶什么时候采？"

It prints the sentences of the answer.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud, any app, and
writes the speech to answer.mp3. Otherwise it starts the emulator with an app that knows tea, and
only prints. `COSYVOICE_MODEL` and `COSYVOICE_VOICE` choose another voice.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from threading import RLock, Timer
from types import TracebackType
from typing import Any, BinaryIO

from dashscope.audio.tts_v2 import AudioFormat, ResultCallback, SpeechSynthesizer
from typing_extensions import Self

from bailian_apps import AppEvent, BailianApp, BailianError, StepFinished, TextDelta

# A voice belongs to a model: https://help.aliyun.com/zh/model-studio/cosyvoice-voice-list
MODEL = os.environ.get("COSYVOICE_MODEL", "cosyvoice-v3-flash")
VOICE = os.environ.get("COSYVOICE_VOICE", "longanyang")
IDLE_S = 15.0  # The service fails a task that is sent no text for 23 seconds.
LONGEST = 120  # Characters without the end of a sentence; then a comma will do.
LONGEST_LINK = 2000  # Such as the signed URL of an image, which is left out as a whole.

# Not within 3.5 or Node.js, nor after a letter on its own (e.g., U.S.) or a title.
SENTENCE_END = re.compile(
    r"[。！？；…]$|(?<!\b[A-Za-z])(?<!\b(?:Dr|Mr|Ms|No|St|vs))(?<!\b(?:Mrs|etc))"
    r"[.!?][\"')\]’”]*\s$"
)
LETTER = re.compile(r"[^\W\d_]")
IN_LINK = re.compile(r"\]\([^)\s]*$")
FENCE = re.compile(r"\s*(?:```[^`]*|~~~.*)$", re.S)
MARKDOWN = [
    (re.compile(r"!\[[^\]]*\]\([^)]*\)"), ""),  # images
    (re.compile(r"\[([^\]]*)\]\([^)]*\)"), r"\1"),  # links: only their text
    (re.compile(r"^\s*(?:#+|>|[-*+])\s+", re.M), ""),  # headings, quotes, lists
    (re.compile(r"(?<!\d)\*|\*(?!\d)|(?<!\w)_+|_+(?!\w)|`|~~|\|"), ""),  # 3*4 and a_b stay
]


def sentences(pieces: Iterable[str]) -> Iterator[str]:
    """Cut a text that arrives in pieces into sentences, each as soon as it is complete.

    Joined, they are the text. A line ends a sentence too: a heading or a list item.
    """
    text = ""
    for character in chain.from_iterable(pieces):
        text += character
        if character == "\n" or (SENTENCE_END.search(text) and LETTER.search(text)):
            yield text
            text = ""
        elif len(text) >= (LONGEST_LINK if IN_LINK.search(text) else LONGEST):
            comma = max(text.rfind(mark) for mark in ("，", "、", "：", ", ", ": ")) + 1
            cut = comma or text.rfind(" ") + 1 or len(text)
            yield text[:cut]
            text = text[cut:]
    if text:
        yield text


def speakable(parts: Iterable[str]) -> Iterator[str]:
    """Leave out what should not be read aloud: Markdown, and blocks of code."""
    in_code = False
    for part in parts:
        if FENCE.match(part):
            in_code = not in_code
        elif not in_code:
            for pattern, replacement in MARKDOWN:
                part = pattern.sub(replacement, part)
            if re.search(r"\w", part):
                yield part


class SpeechError(Exception):
    """The answer could not be spoken."""


class Task(SpeechSynthesizer):
    """A task of CosyVoice that ends with its connection; the SDK would wait for ten minutes."""

    callback: Any

    def on_message(self, ws: Any, message: Any) -> None:
        """Report a task that fails: before the SDK does, which first wakes who waits for it."""
        if isinstance(message, str) and json.loads(message)["header"]["event"] == "task-failed":
            self.callback.on_error(message)
        super().on_message(ws, message)  # pyright: ignore[reportUnknownMemberType]

    def on_error(self, ws: Any, error: Any) -> None:
        """Report a connection that fails; the headers of a refused one follow after -+-+-."""
        if not self.complete_event.is_set():
            self.callback.on_error(str(error).partition(" -+-+-")[0])

    def on_close(self, ws: Any, close_status_code: Any, close_msg: Any) -> None:
        """Report a connection that ends before the task, and wake who waits for the task."""
        if not self.complete_event.is_set():
            self.callback.on_error("the connection was lost")
        self.start_event.set()
        self.complete_event.set()


class Voice(ResultCallback):
    """Speaks sentences into a file. The SDK calls its `on_…` methods in a thread of its own."""

    def __init__(self, file: BinaryIO, stop_answer: Callable[[], object]) -> None:
        """Take an open file, and what ends the answer if it cannot be spoken."""
        self.error: str | None = None
        self.first_audio_s: float | None = None
        self._file = file
        self._stop_answer = stop_answer
        self._started = time.monotonic()
        self._leaving = False
        self._lock = RLock()
        self._task: Task | None = None
        self._timer = Timer(IDLE_S, self.finish)

    def on_data(self, data: bytes) -> None:
        """Write audio as it arrives. The MP3 of several tasks can stand in one file."""
        if self.first_audio_s is None:
            self.first_audio_s = time.monotonic() - self._started
        self._file.write(data)
        self._file.flush()

    def on_error(self, message: str) -> None:
        """Keep the first error, and end the answer: its next piece may be long in coming."""
        if self.error is not None or self._leaving:
            return
        if message.startswith("{"):  # the event task-failed
            header = json.loads(message)["header"]
            message = f"{header.get('error_code')}: {header.get('error_message')}"
        self.error = message
        self._stop_answer()

    def say(self, text: str) -> None:
        """Send a sentence; the first one, and the first after a long pause, starts a task."""
        with self._lock:
            self._timer.cancel()
            if self.error is not None:
                raise SpeechError(self.error)
            try:
                if self._task is None:
                    audio = AudioFormat.MP3_22050HZ_MONO_256KBPS
                    self._task = Task(model=MODEL, voice=VOICE, format=audio, callback=self)
                self._task.streaming_call(text)
            except Exception as error:
                self.on_error(str(error))
                raise SpeechError(self.error) from error
            self._timer = Timer(IDLE_S, self.finish)
            self._timer.daemon = True
            self._timer.start()

    def finish(self) -> None:
        """Wait for the audio of all that was sent."""
        with self._lock:
            self._timer.cancel()
            if self._task is None or self.error is not None:
                return
            try:
                self._task.streaming_complete()
                self._task = None
            except Exception as error:
                self.on_error(str(error))

    def __enter__(self) -> Self:
        """Return the voice."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cancel what was not finished, and raise an error of the synthesis."""
        self._timer.cancel()
        self._leaving = True
        if (task := self._task) is not None:
            for leave in (task.streaming_cancel, task.close):
                with suppress(Exception):  # the task may not have started, or have failed
                    leave()
        if self.error is not None and (error is None or isinstance(error, BailianError)):
            raise SpeechError(self.error) from error


def texts(events: Iterable[AppEvent]) -> Iterator[str]:
    """The pieces of the answer. What an Output node says is complete when the node has ended."""
    for event in events:
        if isinstance(event, TextDelta):
            yield event.text
        elif isinstance(event, StepFinished) and event.step.type == "Output":
            yield "\n"


def speak(app: BailianApp, question: str, path: Path) -> None:
    """Ask an app, and write its answer to a file as speech."""
    with (
        path.open("wb") as file,
        app.stream(question) as events,
        Voice(file, events.close) as voice,
    ):
        for sentence in speakable(sentences(texts(events))):
            voice.say(sentence)
            print(sentence.strip())
        voice.finish()
    if voice.first_audio_s is not None:
        print(f"{path}: the first audio came {voice.first_audio_s:.1f} s after the question")


def main() -> None:
    """Speak in the cloud, or print what would be spoken."""
    question = sys.argv[1] if len(sys.argv) > 1 else "龙井茶什么时候采？"
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        try:
            speak(
                BailianApp(citation_marks="strip", think_tags="reasoning"),
                question,
                Path("answer.mp3"),
            )
        except (BailianError, SpeechError, OSError) as error:
            sys.exit(f"{type(error).__name__}: {error}")
        except KeyboardInterrupt:
            sys.exit(130)
        return
    from bailian_apps.emulator import Agent, Emulator

    text = [
        "**龙井茶**产于杭州西湖<re",
        "f>[1]</ref>。清明前",
        "采的最嫩，一斤约 3.5 万个",
        "芽头。\n- 明前茶",
    ]
    with Emulator(apps={"tea": Agent(text=[*text, "最贵\n- 雨前茶", "也不错"])}) as cloud:
        app = BailianApp(
            app_id="tea", api_key="any", base_url=cloud.base_url, citation_marks="strip"
        )
        for sentence in speakable(sentences(texts(app.stream(question)))):
            print(sentence.strip())


if __name__ == "__main__":
    main()
