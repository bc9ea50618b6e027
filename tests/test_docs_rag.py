"""What the pages about RAG and about a router print where an app cites its knowledge base."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.pages import LANGUAGES, blocks
from support.scripts import ENVIRONMENT, run_script

from bailian_apps.emulator import Agent, Emulator, Reference, Thought

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent
WARRANTY = Agent(
    thoughts=[Thought(retrieval="handbook")],
    text=["The battery<ref>[1]</ref><re", "f>[2]</ref>."],
    references=[
        Reference(title="Battery", doc_id="d", text="The battery is covered.", score=0.9),
        Reference(title="Screen", doc_id="d", text="The screen is not.", score=0.4),
    ],
)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_shows_answers_with_numbered_sources(language: str, tmp_path: Path) -> None:
    source = "\n".join(blocks("rag", "python", language))
    with Emulator(apps={"mine": WARRANTY}, api_key="sk-mine") as cloud:
        variables = {
            "DASHSCOPE_API_KEY": "sk-mine",
            "BAILIAN_APP_ID": "mine",
            "DASHSCOPE_HTTP_BASE_URL": cloud.base_url,
        }
        done = run_script(source, tmp_path, ENVIRONMENT | variables)
        prompts = [request.prompt for request in cloud.requests]
    assert (done.exit_code, done.stderr) == (0, "")
    numbered = [
        "The battery[1][2].",
        "[1] Battery: The battery is covered.",
        "[2] Screen: The screen is not.",
    ]
    lines = done.stdout.splitlines()
    assert lines[:6] == numbered * 2  # LangChain, LlamaIndex
    # Both passages for another model, and those with a score above 0.5.
    assert lines[6:8] == [f"The battery<ref>[1]</ref><ref>[2]</ref>. {n}" for n in (2, 1)]
    assert lines[8:10] == ["The battery."] * 2  # beside passages of one's own, without marks
    assert any("[1] The battery is covered.\n[2] The screen is not." in each for each in prompts)
    assert lines[-1] == "2"  # one of each source


def test_the_example_shows_which_passages_are_cited(tmp_path: Path) -> None:
    source = (ROOT / "examples/rag_citations.py").read_text(encoding="utf-8")
    shown = run_script(source, tmp_path, ENVIRONMENT).stdout
    assert shown.count("龙井茶产于杭州西湖[1]，清明前采[2]。") == 2
    assert shown.count("[2] 采摘: 西湖龙井在清明前采的最嫩。 (0.71)") == 2
    assert [line.split()[0] for line in shown.splitlines() if "(not cited)" in line] == ["[3]"]


def test_the_router_sends_the_whole_history_where_the_app_changes(tmp_path: Path) -> None:
    source = (ROOT / "examples/langgraph_router.py").read_text(encoding="utf-8")
    shown = run_script(source, tmp_path, ENVIRONMENT).stdout
    assert re.findall(r"^(\w+): I know (\d)", shown, re.M) == [
        ("travel", "1"),
        ("tea", "2"),
        ("tea", "3"),
        ("travel", "4"),
    ]
    assert re.findall(r"\(sent: (.+)\)", shown) == [
        "only this message",
        "the whole history",
        "only this message",
        "the whole history",
    ]
