"""Run programs in a process of their own, which has the frameworks loaded already.

A server with the frameworks forks that process, so that it starts in no time. It is a script to
itself: it is `__main__`, with the environment that it is given.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
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
ENVIRONMENT = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")} | {
    "PYTHONUTF8": "1",
    "BAILIAN_LANG": "en",  # what the tests read
}
"""The environment of a user who has set nothing."""


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
    (done,) = run_scripts([(source, environment)], folder)
    return done


def run_scripts(scripts: Sequence[tuple[str, dict[str, str]]], folder: Path) -> list[Done]:
    """Run programs one after the other in one process; what one imports, the next need not.

    Each is `__main__` in a namespace, a folder and an environment of its own.

    Args:
        scripts: The programs and all variables of their environments.
        folder: Where they run and their output is kept; it must exist.

    Returns:
        What each did. Where one fails, it and those after it have the exit code of the process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(FRAMEWORKS)
    folders = [Path(mkdtemp(dir=folder)) for _ in scripts]
    process = context.Process(target=_main, args=(list(scripts), folders))
    process.start()
    process.join(WITHIN_S * len(scripts))
    process.kill()
    process.join()
    ended = [0 if (each / "ended").exists() else process.exitcode for each in folders]
    if process.exitcode:  # also where the process fails as it ends, or is killed
        ended[-1] = process.exitcode
    return [
        Done(code, _text(each / "stdout"), _text(each / "stderr"))
        for code, each in zip(ended, folders, strict=True)
    ]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _main(scripts: list[tuple[str, dict[str, str]]], folders: list[Path]) -> None:
    sys.argv = ["script"]  # not pytest's
    for (source, environment), folder in zip(scripts, folders, strict=True):
        for number, name in enumerate(("stdout", "stderr"), 1):
            with (folder / name).open("wb") as file:
                os.dup2(file.fileno(), number)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, buffering=1)
        os.chdir(folder)  # what it writes does not stay in the source tree
        os.environ.clear()
        os.environ.update(environment)
        if (sdk := sys.modules.get("dashscope")) is not None:  # read when it was imported
            sdk.base_http_api_url = environment.get("DASHSCOPE_HTTP_BASE_URL")
            sdk.base_websocket_api_url = environment.get("DASHSCOPE_WEBSOCKET_BASE_URL")
            sdk.api_key = environment.get("DASHSCOPE_API_KEY")
        script = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(source, "<script>", "exec"), script.__dict__)
        sys.stdout.flush()
        (folder / "ended").touch()
