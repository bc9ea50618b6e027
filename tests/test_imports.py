"""Who loads what: an import is paid for by whoever needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import bailian_apps

pytestmark = pytest.mark.process

HEAVY = ["langchain_core", "llama_index", "dashscope", "aiohttp", "requests", "starlette", "typer"]


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("module", "loads"),
    [
        ("bailian_apps", set()),
        ("bailian_apps.langchain", {"langchain_core"}),
        ("bailian_apps.llamaindex", {"llama_index"}),
        ("bailian_apps.emulator", {"starlette"}),
    ],
)
def test_an_import_loads_only_its_own(module: str, loads: set[str]) -> None:
    allowed = loads | {"aiohttp", "requests"} if loads else set()  # the frameworks load these
    loaded = loaded_by(f"import {module}")
    assert loads <= loaded <= allowed


@pytest.mark.parametrize("module", ["bailian_apps", "bailian_apps.pytest_plugin"])
def test_pytest_starts_without_paying_for_the_core(module: str) -> None:
    code = f"import pytest, sys; before = 'pydantic' in sys.modules; import {module}\n"
    loaded_by(code + "assert not before and 'pydantic' not in sys.modules")


def test_every_public_name_is_found() -> None:
    named: dict[str, object] = {}
    exec("from bailian_apps import *", named)
    assert set(bailian_apps.__all__) <= named.keys() & set(dir(bailian_apps))
    assert bailian_apps.Step is named["Step"]
    with pytest.raises(AttributeError, match="no attribute 'Stepp'"):
        _ = bailian_apps.Stepp  # type: ignore[attr-defined]


def test_making_an_app_does_not_load_the_sdk() -> None:
    code = (
        "import bailian_apps; bailian_apps.BailianApp(app_id='a', api_key='k').stream('hi').close()"
    )
    assert loaded_by(code) == set()


@pytest.mark.parametrize(
    ("extra", "missing"),
    [
        ("langchain", "langchain_core"),
        ("llamaindex", "llama_index.core"),
        ("emulator", "starlette"),
        ("cli", "typer"),
    ],
)
def test_without_its_extra_a_package_names_the_extra_to_install(extra: str, missing: str) -> None:
    script = f"import sys; sys.modules[{missing!r}] = None; import bailian_apps.{extra}"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f'pip install "bailian-apps[{extra}]"' in done.stderr.splitlines()[-1]


def test_without_its_extra_chat_names_the_extra_to_install() -> None:
    script = (
        "import sys; sys.modules['prompt_toolkit'] = None; sys.argv = ['bailian-apps', 'chat', 'a']\n"
        "from bailian_apps.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert 'pip install "bailian-apps[cli]"' in done.stderr.splitlines()[-1]
