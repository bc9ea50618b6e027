"""The commands and YAML blocks of the emulator's pages run as a reader pastes them."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.command import environment, on_ports, served
from support.pages import LANGUAGES, blocks, page, without_blocks

from bailian_apps import AppFailedError, BailianApp, RateLimitError
from bailian_apps.emulator import Emulator, load_apps

ROOT = Path(__file__).parents[2]
PAGES = ["emulator", "recorder", "testing"]
SERVERS = ("bailian-apps serve", "bailian-apps record ")
DISHES = {"en": "Dishes of Hangzhou", "zh": "杭州有哪些美食？"}
SIGHTS = {"en": "Sights of Hangzhou", "zh": "杭州有哪些景点？"}
ORDERED = {"en": "Ordered: tea", "zh": "已下单：龙井茶"}


class Terminals:
    """Terminals of one user: a server has one of its own, until the next one is started."""

    def __init__(self, folder: Path, cloud: Emulator, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._variables = environment(
            DASHSCOPE_HTTP_BASE_URL=cloud.base_url,
            BAILIAN_APP_ID="mine",
            PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin",
        )
        self._server: subprocess.Popen[str] | None = None
        self._ports: dict[str, str] = {}

    def paste(self, block: str) -> str:
        """Run a block, and return what it printed; a server is only started."""
        block = on_ports(block, self._ports)
        *_, last = block.strip().splitlines()
        if last.startswith(SERVERS):
            return self._serve(last)
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", block],
            cwd=self._folder,
            env=self._variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, (block, done.stdout, done.stderr)
        return done.stdout

    def stop(self) -> None:
        """Press Ctrl-C."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            assert self._server.wait(60) == 0
            self._server = None

    def _serve(self, command: str) -> str:
        self.stop()
        documented = "8791" if "record " in command else "8790"
        self._server, self._ports[documented] = served(
            command, self._folder, self._variables, self._stack
        )
        return ""


@pytest.mark.process
@pytest.mark.skipif(not shutil.which("bash") or not shutil.which("curl"), reason="no bash or curl")
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page_run_as_pasted(name: str, language: str, tmp_path: Path) -> None:
    with (
        Emulator(apps={"mine": lambda call: f"Answer to {call.prompt}"}) as cloud,
        ExitStack() as stack,
    ):
        terminals = Terminals(tmp_path, cloud, stack)
        printed = [terminals.paste(block) for block in blocks(name, "bash", language)]
        terminals.stop()
        prompts = [request.prompt for request in cloud.requests]
    if name == "recorder":
        dishes = DISHES[language]
        assert printed.count(f"Answer to {dishes}\n") == 2
        assert dishes in printed[2]
        assert prompts == [dishes, SIGHTS[language]]  # the rest was replayed
    elif name == "emulator":
        assert ORDERED[language] + "\n" in printed[1]
    else:
        assert "3 passed" in printed[0]
        assert "3 passed" in printed[1]  # again, with pytest-socket
        assert prompts == []


@pytest.mark.process
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_tests_of_the_page_about_tests_pass(language: str, tmp_path: Path) -> None:
    file = tmp_path / "test_page.py"
    code = "\n".join(blocks("testing", "python", language))
    file.write_text(code, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(rf"^{code.count('def test_') + 2} passed", done.stdout, re.M)  # 3 parameters


def prepare(folder: Path) -> None:
    """Put the recording that a scenario names where it is."""
    (folder / "recordings").mkdir()
    recording = ROOT / "tests/recordings/agent-plain-stream.sse"
    shutil.copyfile(recording, folder / "recordings/old.sse")


ANSWERS = {
    "en": {
        "trip": "Eat: Vinegar fish for two",
        "guide": "Take an umbrella<ref>[1]</ref>.",
        "planner": 'One moment.{"plan": "short"}',
        "desk": "Hello. You said: two",
        "old": "你好！有什么可以帮助你的吗？",
        "greeter": "Hello, you said: two",
        "closed": "Closed",
    },
    "zh": {
        "trip": "推荐：two：西湖醋鱼",
        "guide": "请带伞<ref>[1]</ref>。",
        "planner": '请稍等。{"plan": "精简版"}',
        "desk": "您好。您说的是：two",
        "old": "你好！有什么可以帮助你的吗？",
        "greeter": "您好，您说的是：two",
        "closed": "已打烊",
    },
}
REFUND = {"en": "a refund", "zh": "我要退款"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_yaml_of_the_scenarios_page_is_served(language: str, tmp_path: Path) -> None:
    prepare(tmp_path)
    answers: dict[str, str] = {}
    for block in blocks("scenarios", "yaml", language):
        path = tmp_path / "apps.yaml"
        path.write_text(block, encoding="utf-8")
        with Emulator(apps=load_apps(path)) as cloud:
            for app_id in cloud.apps:
                app = BailianApp(app_id=app_id, api_key="any", base_url=cloud.base_url)
                try:
                    answers[app_id] = app.invoke("two", biz_params={"city": "Hangzhou"}).text
                except AppFailedError as error:
                    answers[app_id] = error.message
                if app_id == "desk":
                    with pytest.raises(RateLimitError):
                        app.invoke(REFUND[language], max_retries=0)
    assert answers == ANSWERS[language]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", [*PAGES, "scenarios"])
def test_commands_stand_in_blocks_that_are_run(name: str, language: str) -> None:
    outside = without_blocks(page(name, language))
    assert not re.search(r"^    (bailian-apps|export|python|curl) ", outside, re.M)
