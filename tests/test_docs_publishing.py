"""docs/publishing: what is submitted to other sites runs, and is in the form that they read."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.model_server import Message, ModelServer, calls, says
from support.scripts import ENVIRONMENT, run_script

from bailian_apps import llamaindex
from bailian_apps.emulator import RECORDINGS, Emulator
from bailian_apps.langchain import ChatBailianApp

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "publishing"
MDX = sorted(FOLDER.rglob("*.mdx"))
PAGES = [*MDX, *sorted((FOLDER / "llamaindex").glob("*.md"))]
(NOTEBOOK,) = FOLDER.rglob("*.ipynb")
LISTINGS = sorted((FOLDER / "langchain" / "listings").glob("*.md"))

# Also those in a <CodeGroup>, which are indented.
_BLOCK = re.compile(r"^( *)```(\w*)([^\n]*)\n(.*?)^\1```$", re.M | re.S)
_CODE = re.compile(r"`[^`\n]*`")
_TAG = re.compile(r"<(/?)([A-Za-z]\w*)((?:\s[^<>]*?)?)(/?)>")
_ANY_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FIELD = re.compile(r"^### ([^\n]+)\n\n(.+?)(?=\n\n###|\n*\Z)", re.M | re.S)

FORM = [
    "Display or class name",
    "Language",
    "Component type",
    "PyPI package name",
    "npm package name",
    "Docs URL",
    "Source repository",
    "Short provider description",
    "Capability flags (optional)",
    "Confirmations",
]
"""The labels of the form 06-integration-submission.yml in langchain-ai/docs, as it renders them."""


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    return path.relative_to(FOLDER).as_posix()


def without_code(text: str) -> str:
    return _CODE.sub("", _BLOCK.sub("", text))


def front_matter(path: Path) -> tuple[dict[str, Any], str]:
    yaml: Any = pytest.importorskip("yaml")
    _, head, body = read(path).split("---\n", 2)
    return yaml.safe_load(head), body


def fields_of(path: Path) -> dict[str, str]:
    return dict(_FIELD.findall(read(path)))


def flags_of_the_model() -> dict[str, bool]:
    """What a chat model's row in LangChain's table says, as the class has it."""
    profile = ChatBailianApp(app_id="a", api_key="k").profile
    assert profile
    return {
        "stream": "_stream" in vars(ChatBailianApp),
        "tool_calling": profile.get("tool_calling", False),
        "structured_output": profile.get("structured_output", False),
        "multimodal": profile.get("image_inputs", False),
    }


def answer(messages: list[Message]) -> Message:
    """What the agent's own model does: it calls the app once."""
    if any(message["role"] == "tool" for message in messages):
        return says("Have a good trip!")
    return calls("plan_trip", prompt="Plan a day in Hangzhou")


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """An app in a stand-in of the cloud."""
    with Emulator(apps={"mine": RECORDINGS / "travel-workflow.jsonl"}, api_key="sk-mine") as cloud:
        yield {
            "DASHSCOPE_API_KEY": "sk-mine",
            "BAILIAN_APP_ID": "mine",
            "DASHSCOPE_HTTP_BASE_URL": cloud.base_url,
        }
        assert cloud.requests


@pytest.fixture
def model_url() -> Iterator[str]:
    """The address of the model that calls tools."""
    with ModelServer(answer) as server:
        yield server.base_url


def at(address: str, code: str) -> str:
    return code.replace("https://dashscope.aliyuncs.com/compatible-mode/v1", address)


@pytest.mark.process
@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_the_code_of_a_page_runs(
    path: Path, environment: dict[str, str], model_url: str, tmp_path: Path
) -> None:
    """All blocks, one after the other; the agent's model, which needs another key, is scripted."""
    blocks = [block for _, kind, _, block in _BLOCK.findall(read(path)) if kind == "python"]
    assert blocks
    for name in ("langchain", "llama_index.llms.openai_like"):
        if re.search(rf"^ *from {name}[. ]", read(path), re.M):
            pytest.importorskip(name)
    code = at(model_url, "\n".join(map(textwrap.dedent, blocks)))
    if 'model="claude-sonnet-4-6"' in code:
        example = ROOT / "examples" / "langchain_agent.py"
        code = (
            f"from runpy import run_path\nscripted = run_path({str(example)!r})['scripted']\n"
            + (code.replace('model="claude-sonnet-4-6"', "model=scripted()"))
        )
    done = run_script(code, tmp_path, ENVIRONMENT | environment)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.process
def test_the_notebook_runs(
    environment: dict[str, str], model_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat: Any = pytest.importorskip("nbformat")
    nbclient: Any = pytest.importorskip("nbclient")
    pytest.importorskip("llama_index.llms.openai_like")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell for cell in cells if cell.outputs or cell.execution_count] == []
    (install,) = [cell for cell in cells if cell.source.startswith("%pip")]
    notebook.cells.remove(install)
    for cell in cells:
        cell.source = at(model_url, cell.source)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=240, resources=resources).execute()
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert {output.get("name") for output in outputs} == {"stdout"}
    assert outputs[-1]["text"] == "Have a good trip!\n"


@pytest.mark.parametrize("path", MDX, ids=name_of)
def test_an_mdx_page_is_well_formed(path: Path) -> None:
    head, body = front_matter(path)
    assert (
        {"title", "description"}
        <= head.keys()
        <= {*("title", "sidebarTitle", "description", "integration")}
    )
    open_tags: list[str] = []
    for closing, tag, _, self_closing in _TAG.findall(without_code(body)):
        if closing:
            assert open_tags.pop() == tag
        elif not self_closing:
            open_tags.append(tag)
    assert open_tags == []
    rest = _TAG.sub("", without_code(body))
    assert not re.findall(r"<(?!/?[A-Z])|[{}]|^(?:import|export)\b", rest, re.M)
    assert all(kind for _, kind, _, _ in _BLOCK.findall(body))
    assert body.count("```") == 2 * len(_BLOCK.findall(body))
    assert not re.search(r"^# ", without_code(body), re.M)  # the title is the heading


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_link_is_absolute_or_to_a_page_of_the_other_site(path: Path) -> None:
    links = _ANY_LINK.findall(without_code(read(path)))
    ours = "https://github.com/bailian-apps/bailian-apps/blob/main/"
    assert links
    assert [
        each for each in links if not each.startswith(("https://", "/oss/", "/langsmith/"))
    ] == []
    files = [each.removeprefix(ours) for each in links if each.startswith(ours)]
    assert [each for each in files if not (ROOT / each).is_file()] == []
    pages = [each for each in links if each.startswith("/oss/") and "bailian" in each]
    here = FOLDER / "langchain"
    assert [
        each
        for each in pages
        if not (here / each.removeprefix("/oss/integrations/")).with_suffix(".mdx").is_file()
    ] == []


def test_the_flags_of_the_chat_model_are_true() -> None:
    head, body = front_matter(FOLDER / "langchain" / "chat" / "bailian_apps.mdx")
    integration = head["integration"]
    flags = flags_of_the_model()
    assert {name: integration[name] for name in flags} == flags
    listing = fields_of(FOLDER / "langchain" / "listings" / "chat.md")
    assert listing["Capability flags (optional)"] == "\n".join(
        f"{name}: {str(flag).lower()}" for name, flag in flags.items()
    )
    profile = ChatBailianApp(app_id="a", api_key="k").profile or {}
    (row,) = re.findall(r"^\| (?:[✅❌] \| ){8}[✅❌] \|$", body, re.M)
    names = ("tool_calling", "structured_output", "image_inputs", "audio_inputs", "video_inputs")
    marks = row.strip("| ").split(" | ")
    assert marks[: len(names)] == ["✅" if profile.get(name) else "❌" for name in names]


@pytest.mark.parametrize("path", LISTINGS, ids=name_of)
def test_a_listing_fills_in_the_form(path: Path) -> None:
    fields = fields_of(path)
    assert list(fields) == FORM
    assert fields["Component type"] == path.stem
    page = FOLDER / "langchain" / path.stem / "bailian_apps.mdx"
    assert fields["Display or class name"] == front_matter(page)[0]["integration"]["name"]
    project = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]
    assert fields["PyPI package name"] == project["name"]
    repository = f"https://github.com/{fields['Source repository']}"
    docs = fields["Docs URL"].removeprefix(f"{repository}/blob/main/")
    assert (ROOT / docs).is_file()


def test_llamahub_names_the_classes_of_llamaindex() -> None:
    table = tomllib.loads(read(ROOT / "pyproject.toml"))["tool"]["llamahub"]
    public = [name for name in llamaindex.__all__ if inspect.isclass(getattr(llamaindex, name))]
    events = {"BailianAppStepEvent", "BailianAppStepStream"}
    assert table["import_path"] == llamaindex.__name__
    assert table["class_authors"].keys() == set(public) - events
