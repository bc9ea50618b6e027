"""The commands and YAML blocks of the emulator's pages run as a reader pastes them."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.command import environment

from bailian_apps import AppFailedError, BailianApp, RateLimitError
from bailian_apps.emulator import Emulator, load_apps

ROOT = Path(__file__).parents[2]
PAGES = ["emulator", "scenarios", "recorder"]
SERVERS = ("bailian-apps serve", "bailian-apps record ")


def blocks_of(page: str, language: str) -> list[str]:
    text = (ROOT / f"docs/en/{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


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
        self._ports = {"8790": free_port(), "8791": free_port()}

    def paste(self, block: str) -> str:
        """Run a block to its end, or until its server listens; return what it printed."""
        for documented, free in self._ports.items():
            block = block.replace(f":{documented}/", f":{free}/")
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
        command = f"exec {command} --port {self._ports[documented]}"
        self._server = self._stack.enter_context(
            subprocess.Popen(
                ["bash", "-c", command],
                cwd=self._folder,
                env=self._variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        self._stack.callback(self._server.kill)
        assert self._server.stdout is not None
        printed = ""
        while "Press Ctrl-C to stop" not in printed:
            line = self._server.stdout.readline()
            assert line, printed
            printed += line
        return printed


@pytest.mark.process
@pytest.mark.skipif(not shutil.which("bash") or not shutil.which("curl"), reason="no bash or curl")
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_as_pasted(page: str, tmp_path: Path) -> None:
    with (
        Emulator(apps={"mine": lambda call: f"Answer to {call.prompt}"}) as cloud,
        ExitStack() as stack,
    ):
        terminals = Terminals(tmp_path, cloud, stack)
        printed = [terminals.paste(block) for block in blocks_of(page, "bash")]
        terminals.stop()
        prompts = [request.prompt for request in cloud.requests]
    if page == "recorder":
        assert printed.count("Answer to Dishes of Hangzhou\n") == 2
        assert "Dishes of Hangzhou" in printed[2]
        assert prompts == ["Dishes of Hangzhou", "Sights of Hangzhou"]  # the rest was replayed
    elif page == "emulator":
        assert "Ordered: tea\n" in printed[1]
    else:
        assert "3 passed" in printed[0]
        assert prompts == []


def prepare(folder: Path) -> None:
    """Put the recording that a scenario names where it is."""
    (folder / "recordings").mkdir()
    recording = ROOT / "tests/recordings/agent-plain-stream.sse"
    shutil.copyfile(recording, folder / "recordings/old.sse")


def test_the_yaml_of_the_scenarios_page_is_served(tmp_path: Path) -> None:
    prepare(tmp_path)
    answers: dict[str, str] = {}
    for block in blocks_of("scenarios", "yaml"):
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
                        app.invoke("a refund", max_retries=0)
    assert answers == {
        "trip": "Eat: Vinegar fish for two",
        "guide": "Take an umbrella<ref>[1]</ref>.",
        "planner": 'One moment.{"plan": "short"}',
        "desk": "Hello. You said: two",
        "old": "你好！有什么可以帮助你的吗？",
        "greeter": "Hello, you said: two",
        "closed": "Closed",
    }


def test_commands_stand_in_blocks_that_are_run() -> None:
    for page in PAGES:
        text = (ROOT / f"docs/en/{page}.md").read_text(encoding="utf-8")
        outside = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        assert not re.search(r"^    (bailian-apps|export|python|curl) ", outside, re.M), page
