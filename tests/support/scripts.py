"""Run a program in a process of its own, which has the frameworks loaded already.

A server with the frameworks forks that process, so that it starts in no time. It is a script to
itself: it is `__main__`, with the environment that it is given.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

FRAMEWORKS = [
    "langchain.agents",
    "langgraph.graph",
    "llama_index.core",
    "bailian_apps.emulator",
    "bailian_apps.langchain",
    "bailian_apps.llamaindex",
]
WITHIN_S = 300


@dataclass(frozen=True)
class Done:
    """What a program printed, and how it ended."""

    exit_code: int | None
    stdout: str
    stderr: str


def run_script(source: str, folder: Path, environment: dict[str, str]) -> Done:
    """Run a program to its end.

    Args:
        source: The program.
        folder: Where it runs and its output is kept; it must exist.
        environment: All variables of its environment.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(FRAMEWORKS)
    outputs = [folder / name for name in ("stdout", "stderr")]
    process = context.Process(target=_main, args=(source, outputs, environment))
    process.start()
    process.join(WITHIN_S)
    process.kill()
    process.join()
    return Done(process.exitcode, *(path.read_text(encoding="utf-8") for path in outputs))


def _main(source: str, outputs: list[Path], environment: dict[str, str]) -> None:
    for number, path in enumerate(outputs, 1):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, buffering=1)
    os.chdir(outputs[0].parent)  # what it writes does not stay in the source tree
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["script"]  # not pytest's
    script = sys.modules["__main__"] = ModuleType("__main__")
    exec(compile(source, "<script>", "exec"), script.__dict__)
    sys.stdout.flush()
