"""What type checkers find in programs of users: nothing where all is right, and each mistake.

The programs are copied to an empty folder, as those of users are, and are also run.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bailian_apps.core.keywords import AppCallKeywords, CallKeywords
from bailian_apps.core.request import AppRequest
from bailian_apps.core.settings import AppSettings
from bailian_apps.emulator import Call, Emulator, Failure
from bailian_apps.langchain import (
    BailianAppRetriever,
    BailianAppRunnable,
    ChatBailianApp,
    signatures,
)
from bailian_apps.llamaindex import BailianAppLLM
from bailian_apps.llamaindex.keywords import LLMKeywords

HERE = Path(__file__).parent
PROGRAMS = sorted(path.stem for path in HERE.glob("*_program.py"))
CACHE = HERE.parents[1] / ".mypy_cache" / "users"


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=folder,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def pyright(folder: Path) -> set[tuple[str, int]]:
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    found = json.loads(_run(folder, "pyright", "--outputjson", "--pythonpath", sys.executable))
    return {
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1)
        for each in found["generalDiagnostics"]
    }


def mypy(folder: Path, *plugins: str) -> set[tuple[str, int]]:
    settings = f"[mypy]\nstrict = true\nplugins = {', '.join(plugins)}\n"
    (folder / "mypy.ini").write_text(settings)
    cache = CACHE / "-".join(("mypy", *plugins))
    found = _run(folder, "mypy", "--no-error-summary", "--cache-dir", str(cache), ".")
    return {(name, int(line)) for name, line in re.findall(r"(?m)^(\w+\.py):(\d+): error", found)}


def mypy_with_plugin(folder: Path) -> set[tuple[str, int]]:
    return mypy(folder, "pydantic.mypy")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "find_errors",
    [
        pytest.param(pyright, marks=pytest.mark.process),
        pytest.param(mypy, marks=pytest.mark.slow),
        pytest.param(mypy_with_plugin, marks=pytest.mark.slow),
    ],
)
def test_a_type_checker_finds_each_mistake_and_nothing_else(
    find_errors: Callable[[Path], set[tuple[str, int]]], tmp_path: Path
) -> None:
    pytest.importorskip(find_errors.__name__.partition("_")[0])
    for name in (*PROGRAMS, "mistakes"):
        shutil.copy(HERE / f"{name}.py", tmp_path)
    lines = enumerate((HERE / "mistakes.py").read_text(encoding="utf-8").splitlines(), 1)
    marks = "# wrong" if find_errors is mypy_with_plugin else ("# wrong", "# wrong type")
    wrong = {("mistakes.py", number) for number, line in lines if line.endswith(marks)}
    assert len(wrong) > 50
    assert find_errors(tmp_path) == wrong


@pytest.fixture(scope="module")
def cloud() -> Iterator[Emulator]:
    def app(call: Call) -> Any:
        return Failure(status=429, code="Throttling") if call.prompt == "fail" else "hello"

    with Emulator(apps={"a": app, "b": app, "json": lambda _: '{"city": "Hangzhou"}'}) as cloud:
        yield cloud


# An agent of LlamaIndex reads deprecated attributes of pydantic's when it is made.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", PROGRAMS)
def test_what_type_checkers_accept_runs(
    name: str, cloud: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    importlib.import_module(name).main(cloud.base_url)


def test_each_keyword_of_a_call_is_a_setting_an_option_or_the_classs_own() -> None:
    names = AppSettings.model_fields.keys() | AppRequest.model_fields.keys()
    assert AppCallKeywords.__annotations__.keys() == names - {"prompt"}
    calls = names - {"prompt", "messages"}
    assert CallKeywords.__annotations__.keys() == calls
    own = {
        signatures.AppKeywords: (BailianAppRunnable, {"model"}),
        signatures.BoundChatKeywords: (ChatBailianApp, {"model", "stop", "max_tokens"}),
        signatures.RetrieverKeywords: (BailianAppRetriever, {"model", "k", "documents"}),
    }
    for keywords, (kind, added) in own.items():
        assert keywords.__annotations__.keys() == calls | added
        assert added - {"model"} <= kind.model_fields.keys()


def test_the_keywords_of_llamaindexs_factories_are_fields_of_the_llm() -> None:
    fields = set(BailianAppLLM.__annotations__) - {"model_config", "_listener"}
    assert LLMKeywords.__annotations__.keys() == {
        *AppSettings.model_fields,
        *fields,
        "rate_limiter",
    }
