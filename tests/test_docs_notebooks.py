"""The code in the page about notebooks runs in one, each block as a cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.pages import LANGUAGES, blocks

from bailian_apps.emulator import RECORDINGS, Emulator

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_cells_of_the_notebooks_page_run(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat: Any = pytest.importorskip("nbformat")
    nbclient: Any = pytest.importorskip("nbclient")
    cells = [
        nbformat.v4.new_code_cell(each.replace('app_id="…"', 'app_id="mine"'))
        for each in blocks("notebooks", "python", language)
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    with Emulator(apps={"mine": RECORDINGS / "travel-workflow.jsonl"}, api_key="sk-mine") as cloud:
        monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-mine")
        monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", cloud.base_url)
        resources = {"metadata": {"path": str(tmp_path)}}
        nbclient.NotebookClient(notebook, timeout=240, resources=resources).execute()
    outputs = [output for cell in cells for output in cell.outputs]
    pictures = [each["data"].get("text/html", "") for each in outputs if "data" in each]
    printed = "".join(each["text"] for each in outputs if each["output_type"] == "stream")
    rendered = [each["data"].get("text/markdown", "") for each in outputs if "data" in each]
    answer = rendered[-1]
    assert answer
    assert printed.count(answer) == 2, "awaited and streamed"
    assert sum(picture.startswith("<iframe") for picture in pictures) == 2
    assert not any(each.get("name") == "stderr" for each in outputs)
