"""The tutorials, done as a reader does them: files are saved and commands are run, in order.

A block whose first line is a comment with a file's name is that file. A command that serves or
records runs in a terminal of its own until the page has been walked through.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.command import BAILIAN, environment, on_ports, served
from support.pages import LANGUAGES, every_block, page

from bailian_apps.emulator import RECORDINGS, Emulator

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("bash") is None, reason="the commands are for a shell"),
]

_FILE = re.compile(r"# ([\w.-]+\.(?:py|yaml))\n")
_SERVER = re.compile(r"bailian-apps (?:serve|record) ")
# Nothing is installed here; a virtual environment would be without this package.
_PRELUDE = 'set -eu\npip() { :; }\npython() { if [ "$*" != \'-m venv .venv\' ]; then command python "$@"; fi; }\n'


class Reader:
    """Somebody with a folder, a terminal, and further terminals for servers."""

    def __init__(self, folder: Path, cloud: Emulator, servers: ExitStack) -> None:
        self.folder = folder
        self.servers = servers
        self.variables = environment(
            HOME=str(folder / "home"),
            PATH=f"{Path(BAILIAN).parent}:/usr/bin:/bin",
            DASHSCOPE_HTTP_BASE_URL=cloud.base_url,
            BAILIAN_APP_ID="APP_ID",
        )
        self.ports: dict[str, str] = {}
        self.exports: list[str] = []
        activate = folder / ".venv/bin/activate"
        activate.parent.mkdir(parents=True)
        activate.touch()

    def walk(self, name: str, language: str) -> str:
        """Do what a page says; give what the commands print."""
        printed: list[str] = []
        for kind, text in every_block(page(name, language)):
            file = _FILE.match(text)
            if file:
                (self.folder / file[1]).write_text(text, encoding="utf-8")
            elif kind == "sh" and _SERVER.match(text):
                self.serve(text)
            elif kind == "sh":
                printed.append(self.run(text))
            elif kind == "text":
                assert text in printed[-1], f"{name} shows {text}, and {printed[-1]} was printed"
            else:
                assert kind not in ("python", "yaml"), f"{name}: nobody runs {text!r}"
        return "".join(printed)

    def run(self, commands: str) -> str:
        """Run commands in the first terminal, which keeps the variables that they export."""
        script = _PRELUDE + "\n".join([*self.exports, self.with_ports(commands)])
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        self.exports += re.findall(r"^(?:export|unset) .+", self.with_ports(commands), re.M)
        return done.stdout

    def serve(self, command: str) -> None:
        """Start a server in another terminal, and wait until it listens."""
        documented = "8790" if " serve " in command else "8791"
        _, self.ports[documented] = served(command, self.folder, self.variables, self.servers)

    def with_ports(self, commands: str) -> str:
        """Commands with the ports of the servers that run, in place of the page's."""
        return on_ports(commands, self.ports)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with (
        Emulator(apps={"APP_ID": RECORDINGS / "travel-workflow.jsonl"}) as cloud,
        ExitStack() as servers,
    ):
        yield Reader(tmp_path, cloud, servers)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_first_app(language: str, reader: Reader) -> None:
    reader.walk("first-app", language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_tested_app(language: str, reader: Reader) -> None:
    printed = reader.walk("tested-app", language)
    assert re.findall(r"(\d+) passed", printed) == ["2", "4", "5"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_agent_with_two_apps(language: str, reader: Reader) -> None:
    printed = reader.walk("two-apps", language)
    assert re.findall(r"(\d+) passed", printed) == ["2"]
