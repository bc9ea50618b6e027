"""What `bailian-apps batch` does: checks its input, runs the batch, writes its output."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bailian_apps.app import BailianApp
from bailian_apps.batch import AsyncBatch, BatchCounts, BatchResult, arun_batch, read_journal
from bailian_apps.batch.call import Call
from bailian_apps.batch.conductor import Conductor
from bailian_apps.cli.batch_files import PromptFile, check_output, json_line, result_file
from bailian_apps.cli.view import error_message, print_note
from bailian_apps.core import errors
from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.language import N_, Message, _
from bailian_apps.core.redaction import MASK, SECRET_FIELDS, redact_biz_params

SOME_FAILED, SOME_UNKNOWN, BUDGET_REACHED, INTERRUPTED = 20, 21, 22, 130
"""The exit codes of a batch, besides those of an error that every prompt would get."""


def batch(
    app: BailianApp,
    source: str,
    target: str,
    console: Console,
    *,
    journal: str | None,
    **options: Any,
) -> int:
    """Run a batch and write its results.

    Args:
        app: The app.
        source: The file of prompts; `-` for standard input.
        target: The file of results; `-` for standard output.
        console: Where everything else goes.
        journal: The path of the journal; by default that of the results with `.journal`, and none
            for standard output.
        **options: Further arguments of `run_batch`.

    Returns:
        The exit code.

    Raises:
        InvalidInputError: A prompt or an argument is not valid, and nothing was sent; or the
            journal cannot be written.
    """
    check_output(target)
    if journal is None and target != "-":
        journal = f"{target}.journal"
    if target != "-" and Path(target).exists() and not Path(str(journal)).exists():
        raise InvalidInputError("OUT", "exists already", "Delete it, or pass another path")
    running = _Running(console, to_stdout=target == "-")
    with PromptFile(source) as prompts:
        running.counts.total = _check(app, prompts, console, **options)
        finished = asyncio.run(running.run(app, _inputs(prompts), journal=journal, **options))
    if finished and target != "-" and journal is not None:
        with result_file(Path(target)) as write:
            for result in read_journal(journal, newest_run=True):
                write(result)
    code = _exit_code(running.counts, running.stopped_by if finished else "stop")
    if code and journal is not None:
        command = _command(sys.argv[1:], app.settings.secret_biz_params)
        print_note(console, _("to go on: {command}").format(command=command))
    return code


def _check(app: BailianApp, prompts: PromptFile, console: Console, **options: Any) -> int:
    """Check all prompts before one is sent; return how many there are.

    Raises:
        InvalidInputError: Some cannot be sent; they were printed.
    """
    arguments = {k: v for k, v in options.items() if k != "progress"}
    checker = Conductor(app, journal=None, **arguments)
    total = wrong = 0
    for number, given in prompts.read():
        total += 1
        problem = _problem(checker, given)
        if problem is not None:
            wrong += 1
            print_note(console, _(_place(prompts, number)) + _(": ") + problem, "red")
    if wrong:
        text = N_("has 1 prompt that cannot be sent; nothing was sent")
        if wrong > 1:
            text = N_("has {count} prompts that cannot be sent; nothing was sent")
        raise InvalidInputError("IN", text.format(count=wrong))
    return total


def _problem(checker: Conductor, given: Mapping[str, Any] | InvalidInputError) -> str | None:
    try:
        if isinstance(given, InvalidInputError):
            raise given
        prompt = checker.read(given)
        call = prompt if isinstance(prompt, BatchResult) else checker.call(prompt, None)
        if isinstance(call, Call):
            checker.run(call)
        elif checker.refusal is not None:
            raise checker.refusal
    except InvalidInputError as error:
        return error_message(error, field=error.field)
    return None


def _place(prompts: PromptFile, number: int) -> Message:
    text = N_("line {number}") if prompts.unit == "line" else N_("row {number}")
    return text.format(number=number)


def _inputs(prompts: PromptFile) -> Iterator[Mapping[str, Any]]:
    for number, given in prompts.read():
        if isinstance(given, InvalidInputError):
            raise InvalidInputError(
                "IN",
                N_("has changed: {place} {problem}").format(
                    place=_place(prompts, number), problem=given.problem
                ),
            )
        yield given


class _Running:
    """A batch in an event loop, which Ctrl-C ends: once cleanly, twice at once."""

    def __init__(self, console: Console, *, to_stdout: bool) -> None:
        self.counts = BatchCounts()
        self.stopped_by: str | None = None
        self._console = console
        self._to_stdout = to_stdout
        self._batch: AsyncBatch | None = None
        self._task: asyncio.Task[Any] | None = None

    async def run(
        self, app: BailianApp, inputs: Iterator[Mapping[str, Any]], **options: Any
    ) -> bool:
        """Run the batch; return whether it ended cleanly."""
        self._batch = batch = arun_batch(app, inputs, **options)
        batch.counts.total = self.counts.total
        self.counts = batch.counts
        self._task = asyncio.current_task()
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            async with batch:
                async for result in batch:
                    if self._to_stdout:
                        sys.stdout.write(json_line(result))
                        sys.stdout.flush()
        except asyncio.CancelledError:
            return False
        finally:
            signal.signal(signal.SIGINT, before)
            self.stopped_by = batch.stopped_by
        return True

    def _interrupt(self, *_args: object) -> None:
        if self._batch is None or self._task is None:
            return
        if self._batch.stopped_by == "stop":
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)
            return
        self._batch.stop()
        text = _("finishing {count} requests in flight; Ctrl-C again ends them")
        print_note(self._console, text.format(count=self.counts.in_flight))


def _exit_code(counts: BatchCounts, stopped_by: str | None) -> int:
    from bailian_apps.cli.main import EXIT_CODES  # it imports the commands

    if stopped_by == "stop":
        return INTERRUPTED
    if stopped_by not in (None, "budget"):
        return EXIT_CODES[getattr(errors, str(stopped_by))]
    if counts.not_started:
        return BUDGET_REACHED
    if counts.unknown:
        return SOME_UNKNOWN
    return SOME_FAILED if counts.failed else 0


def _command(arguments: Sequence[str], names: Sequence[str]) -> str:
    """Return a command with which the batch goes on, without credentials.

    Args:
        arguments: Those of the command.
        names: The setting `secret_biz_params`.
    """
    shown: list[str] = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if equals and option.startswith("--"):
            shown.append(f"{option}={_without_secrets(value, names)}")
        else:
            shown.append(_without_secrets(argument, names))
    return shlex.join(["bailian-apps", *shown])


def _without_secrets(text: str, names: Sequence[str]) -> str:
    """Return an argument: `NAME=VALUE`, `NAME:=JSON`, a JSON text or anything else."""
    left, equals, value = text.partition("=")
    if text.lstrip().startswith("{") or not equals:
        return redact_biz_params({"": text}, names)[""]
    path = left.removesuffix(":")
    parts = path.split(".")
    if parts[0] == "extra_headers" or not {path, *parts}.isdisjoint(names):
        return f"{left}={MASK}"
    name = "" if path in SECRET_FIELDS else path  # the names of secrets are counted from there
    return f"{left}={redact_biz_params({name: value}, names)[name]}"
