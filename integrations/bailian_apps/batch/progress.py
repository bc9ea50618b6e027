"""The progress of a batch on standard error: a bar in a terminal, else a line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Generator
from typing import Any, TypeAlias

from bailian_apps.batch.values import BatchCounts
from bailian_apps.core.language import N_, _, import_error

Progress: TypeAlias = bool | Callable[[BatchCounts], object]
"""Whether to show the progress on standard error; or what is called with it after each result."""

_LINE_EVERY_S = 10.0


@contextlib.contextmanager
def reporting(progress: Progress, counts: BatchCounts) -> Generator[Callable[[], object]]:
    """Yield what has to be called after each result.

    Raises:
        ImportError: A bar is to be shown, and rich is not installed.
    """
    if callable(progress):
        yield lambda: progress(counts)
    elif not progress:
        yield lambda: None
    elif sys.stderr.isatty():
        with _bar(counts) as update:
            yield update
    else:
        with _lines(counts) as update:
            yield update


def describe(counts: BatchCounts) -> str:
    """Return the counts as one line."""
    done = _("{count} done").format(count=counts.done)
    if counts.total is not None:
        done = _("{count} of {total} done").format(count=counts.done, total=counts.total)
    parts = [done, _("{count} answered").format(count=counts.answered)]
    for text, count in (
        (_("{count} failed"), counts.failed),
        (_("{count} unknown"), counts.unknown),
        (_("{count} not started"), counts.not_started),
        (_("{count} from journal"), counts.from_journal),
    ):
        if count:
            parts.append(text.format(count=count))
    parts.append(_("{count} calls").format(count=counts.calls))
    parts.append(_("{count} tokens").format(count=counts.tokens))
    if counts.pause_s > 1:
        parts.append(_("the cloud is busy, {seconds:.0f} s pause").format(seconds=counts.pause_s))
    return _(", ").join(parts)


@contextlib.contextmanager
def _lines(counts: BatchCounts) -> Generator[Callable[[], object]]:
    last = time.monotonic()

    def update() -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_EVERY_S:
            last = time.monotonic()
            print(describe(counts), file=sys.stderr, flush=True)  # noqa: T201

    yield update
    print(describe(counts), file=sys.stderr, flush=True)  # noqa: T201


@contextlib.contextmanager
def _bar(counts: BatchCounts) -> Generator[Callable[[], object]]:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
    except ModuleNotFoundError:
        raise import_error(
            N_('progress needs rich; install it with: pip install "bailian-apps[batch]"')
        ) from None
    columns: list[Any] = [BarColumn(), TextColumn("{task.description}")]
    columns += [TimeElapsedColumn(), TimeRemainingColumn()]
    with Bar(*columns, console=Console(stderr=True), refresh_per_second=4) as bar:
        task = bar.add_task(describe(counts), total=counts.total)

        def update() -> None:
            bar.update(task, completed=counts.done, description=describe(counts))

        yield update
        update()
