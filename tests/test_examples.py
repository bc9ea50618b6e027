"""Every example runs as a script: on its own, and as on the cloud with two variables set."""

from __future__ import annotations

import ast
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.pages import LANGUAGES, blocks_of, page, rows
from support.scripts import ENVIRONMENT, run_script, run_scripts
from support.speech_service import speech_service

from bailian_apps.emulator import RECORDINGS, Emulator

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "examples/notebooks"
# Those that need an AccessKey pair, a cluster or a browser, or end with 1 where an app answers
# badly, have tests of their own: tests/test_session_files.py, tests/batch/test_ray_data.py,
# tests/test_gradio_chat.py and tests/test_evaluation.py.
ELSEWHERE = {
    ROOT / "examples" / name
    for name in ("session_files.py", "ray_batch.py", "gradio_chat.py", "evaluate_app.py")
}
ALL_EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
EXAMPLES = sorted(set(ALL_EXAMPLES) - ELSEWHERE)
TWO_VARIABLES = {"DASHSCOPE_API_KEY", "BAILIAN_APP_ID"}
# The API that uploads files takes no API key, but an AccessKey pair and a workspace.
FILES_API = {
    *("ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET", "BAILIAN_WORKSPACE_ID")
}
# Run by tests/batch/test_ray_data.py, tests/test_docs_notebooks.py, tests/test_docs_tracing.py,
# tests/test_evaluation.py, and tests/test_tutorials.py, which does what they say: their code is
# files that import each other.
PAGES_ELSEWHERE = {
    *("ray.md", "notebooks.md", "tracing.md", "evaluation.md"),
    *("first-app.md", "tested-app.md", "two-apps.md"),
}
# The pages of one name, in both languages: their code runs in one process, one after the other.
NAMES = sorted({path.name for path in (ROOT / "docs").glob("*/*.md")} - PAGES_ELSEWHERE)
PAGES = {name: sorted((ROOT / "docs").glob(f"*/{name}")) for name in NAMES} | {
    "README": [ROOT / "README.md", ROOT / "README.zh-CN.md"]
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_needs_no_key(path: Path, tmp_path: Path) -> None:
    done = run_script(path.read_text(encoding="utf-8"), tmp_path, ENVIRONMENT)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout


def required_variables(source: str) -> set[str]:
    """The variables without which a program fails: those that it reads as `os.environ[...]`."""
    return {
        str(node.slice.value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Subscript)
        and isinstance(node.ctx, ast.Load)
        and ast.unparse(node.value) == "os.environ"
        and isinstance(node.slice, ast.Constant)
    }


@pytest.mark.parametrize("path", ALL_EXAMPLES, ids=lambda path: path.stem)
def test_an_example_needs_no_variable_but_two(path: Path) -> None:
    needed = required_variables(path.read_text(encoding="utf-8")) - TWO_VARIABLES
    assert needed == (FILES_API if path.stem == "session_files" else set())


def test_a_required_variable_is_found() -> None:
    source = "os.environ['A'] + os.environ.get('B', '')\nos.environ['C'] = 'set'"
    assert required_variables(source) == {"A"}


@pytest.mark.parametrize("path", ALL_EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_how_to_run_it_what_it_prints_and_which_app_it_needs(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert re.search(rf"^    python (-m pytest )?examples/{path.name}", text, re.M)
    assert "    pip install " in text
    assert "It prints " in text
    if path.stem.endswith("_test"):
        assert "never calls the cloud" in text
    else:
        assert all(f"`{name}`" in text for name in TWO_VARIABLES)
        assert "in the cloud" in text


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_lists_every_example_once(language: str) -> None:
    listed = [cells[1] for cells in rows(page("examples", language))]
    names = re.findall(r"\(\.\./\.\./examples/([^)]+)\)", "\n".join(listed))
    notebooks = [f"notebooks/{path.name}" for path in NOTEBOOKS.glob("*.ipynb")]
    assert sorted(names) == sorted([*(path.name for path in ALL_EXAMPLES), *notebooks, "service"])


def outputs_of(path: Path, folder: Path) -> list[Any]:
    """Run a notebook, which is stored without outputs; give those of its cells."""
    nbformat: Any = pytest.importorskip("nbformat")
    nbclient: Any = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell for cell in cells if cell.outputs or cell.execution_count] == []
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=240, resources=resources).execute()
    return [output for cell in cells for output in cell.outputs]


def pictures_in(outputs: list[Any]) -> list[str]:
    found = [output["data"].get("text/html", "") for output in outputs if "data" in output]
    return [each for each in found if re.match("<iframe srcdoc=['\"]&lt;!doctype html&gt;", each)]


@pytest.mark.parametrize(
    ("name", "nodes"),
    [("see_a_run", [("大模型_1",)]), ("two_apps", [("排行程",), ("差旅制度",), ("杭州", "苏州")])],
)
def test_a_notebook_shows_the_pictures_of_its_runs(
    name: str, nodes: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("DASHSCOPE_API_KEY", "BAILIAN_APP_ID"):
        monkeypatch.delenv(variable, raising=False)
    outputs = outputs_of(NOTEBOOKS / f"{name}.ipynb", tmp_path)
    pictures = pictures_in(outputs)
    assert len(pictures) == len(nodes)
    for picture, names in zip(pictures, nodes, strict=True):
        assert all(each in picture for each in names)
    assert not any(output.get("name") == "stderr" for output in outputs)
    if name == "two_apps":
        printed = "".join(each["text"] for each in outputs if each["output_type"] == "stream")
        assert "600 元[1]。\n  [1] 差旅制度 3.2：" in printed
        assert "| 绍兴 | 上午去鲁迅故里" in outputs[-1]["data"]["text/markdown"]


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_on_the_cloud_with_two_variables(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Emulator(apps={"mine": RECORDINGS / "travel-workflow.jsonl"}, api_key="sk-mine") as cloud:
        monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-mine")
        monkeypatch.setenv("BAILIAN_APP_ID", "mine")
        monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", cloud.base_url)
        outputs = outputs_of(path, tmp_path)
        assert {request.app_id for request in cloud.requests} == {"mine"}
    assert all("大模型_1" in picture for picture in pictures_in(outputs))


def run_with_two_variables(sources: list[str], folder: Path) -> list[Emulator]:
    """Run programs that find an app and a key; give what stood for the cloud of each."""
    with ExitStack() as stack:
        clouds = [
            stack.enter_context(
                Emulator(apps={"mine": RECORDINGS / "travel-workflow.jsonl"}, api_key="sk-mine")
            )
            for _ in sources
        ]
        variables = {"DASHSCOPE_API_KEY": "sk-mine", "BAILIAN_APP_ID": "mine"}
        if any("dashscope.audio" in source for source in sources):
            speech = stack.enter_context(speech_service())
            variables["DASHSCOPE_WEBSOCKET_BASE_URL"] = speech.base_url
        environments = [
            # where "the cloud" is, for this test
            ENVIRONMENT | variables | {"DASHSCOPE_HTTP_BASE_URL": cloud.base_url}
            for cloud in clouds
        ]
        done = run_scripts(list(zip(sources, environments, strict=True)), folder)
    assert [(each.exit_code, each.stderr) for each in done] == [(0, "")] * len(sources)
    return clouds


@pytest.mark.parametrize(
    "path",
    [path for path in EXAMPLES if not path.stem.endswith("_test")],
    ids=lambda path: path.stem,
)
def test_an_example_runs_on_the_cloud_with_two_variables(path: Path, tmp_path: Path) -> None:
    (cloud,) = run_with_two_variables([path.read_text(encoding="utf-8")], tmp_path)
    assert cloud.requests
    assert {request.app_id for request in cloud.requests} == {"mine"}


def code_of(path: Path) -> str:
    blocks = blocks_of(path.read_text(encoding="utf-8"), "python")
    return "\n".join(blocks).replace('app_id="…"', 'app_id="mine"')


WITH_CODE = {
    name: with_code
    for name, paths in PAGES.items()
    if (with_code := [path for path in paths if code_of(path)])
}


@pytest.mark.parametrize("name", WITH_CODE)
def test_the_code_in_a_page_runs(name: str, tmp_path: Path) -> None:
    """All blocks of a page, one after the other, with the two variables set; in each language."""
    run_with_two_variables([code_of(path) for path in WITH_CODE[name]], tmp_path)


def test_the_typed_example_shows_objects_and_an_answer_that_does_not_fit(tmp_path: Path) -> None:
    source = (ROOT / "examples/typed_output.py").read_text(encoding="utf-8")
    done = run_script(source, tmp_path, ENVIRONMENT)
    assert "LangChain: Hangzhou: West Lake, Lingyin Temple" in done.stdout
    assert "LlamaIndex: Trip(city='Hangzhou', days=2" in done.stdout
    with Emulator(apps={"mine": lambda call: '{"days": 2}'}) as cloud:
        variables = {
            "DASHSCOPE_API_KEY": "sk-mine",
            "BAILIAN_APP_ID": "mine",
            "DASHSCOPE_HTTP_BASE_URL": cloud.base_url,
        }
        done = run_script(source, tmp_path, ENVIRONMENT | variables)
    assert "city is missing" in done.stdout
    assert len(cloud.requests) == 1
