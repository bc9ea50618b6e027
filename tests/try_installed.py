"""Try an installed package with one extra: `python -I try_installed.py EXTRA`.

It needs no other package, so that it runs in an environment that has only what users install. The
cloud is at DASHSCOPE_HTTP_BASE_URL.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import bailian_apps

ROOT = Path(__file__).parents[1]
READMES = ["README.md", "README.zh-CN.md"]
# What each extra is for. A call of `bailian_apps` needs `app`.
USES = {
    "langchain": "import bailian_apps.langchain",
    "llamaindex": "import bailian_apps.llamaindex",
    "emulator": "import bailian_apps.emulator",
    "cli": "import bailian_apps.cli",
    "background": "print(app.submit('hi').wait().result().text)",
    "batch": "from bailian_apps.batch import run_batch\nprint(*run_batch(app, ['hi'], progress=True))",
    "ray": "import bailian_apps.batch.ray_data",
}
# Pages and examples whose code needs an extra.
PROGRAMS = {
    "background": ["docs/en/background.md", "docs/zh/background.md"],
    "batch": ["docs/en/batch.md", "docs/zh/batch.md"],
    "ray": ["examples/ray_batch.py"],
}
COMMANDS = {
    "cli": ["bailian-apps --version", "bailian-apps run hi", "bailian-apps doctor"],
    "all": ["bailian-apps demo --pace 0"],
}
MAKE_APP = "from bailian_apps import BailianApp\napp = BailianApp()\n"


def blocks(text: str) -> list[str]:
    """Return the Python code of a page."""
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def readme_programs(extras: set[str]) -> Iterator[tuple[str, str]]:
    """Yield the code of each section of the READMEs for which these extras are enough."""
    for name in READMES:
        for section in (ROOT / name).read_text(encoding="utf-8").split("\n## "):
            code = "\n".join(blocks(section))
            needed = set(re.findall(r"\bbailian_apps\.(\w+) import", code))
            if code and needed <= extras:
                yield f"{name}, {section.splitlines()[0]}", code


def programs(extras: set[str]) -> Iterator[tuple[str, str]]:
    """Yield the name and the source of what must run with these extras."""
    yield from readme_programs(extras)
    for extra in sorted(extras & USES.keys()):
        yield f"[{extra}]", MAKE_APP + USES[extra]
    for name in (each for extra in sorted(extras) for each in PROGRAMS.get(extra, ())):
        text = (ROOT / name).read_text(encoding="utf-8")
        yield name, blocks(text)[0].replace("…", "mine") if name.endswith(".md") else text


def run(source: str) -> subprocess.CompletedProcess[str]:
    """Run a program, or, where it has a test, pytest on it; in a folder of its own."""
    command = [sys.executable, "-I", "-c", source]
    with tempfile.TemporaryDirectory() as folder:
        if "def test_" in source:
            Path(folder, "test_readme.py").write_text(source, encoding="utf-8")
            command = [sys.executable, "-I", "-m", "pytest", "-q", "test_readme.py"]
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, encoding="utf-8"
        )


def main(extra: str) -> None:
    """Run what the extra is for, and see that the rest names the extra that it needs."""
    assert Path(bailian_apps.__file__).is_relative_to(sys.prefix), bailian_apps.__file__
    every = set(USES) - {"ray"}
    extras = every | {"all"} if extra == "all" else {extra} - {"none"}
    for name, source in programs(extras):
        print("ran:", name)
        done = run(source)
        assert done.returncode == 0, done.stdout + done.stderr
    for command in (each for one in sorted(extras) for each in COMMANDS.get(one, ())):
        print("ran:", command)
        program, *arguments = command.split()
        found = Path(sys.executable).with_name(program)
        subprocess.run([found, *arguments], check=True, stdout=subprocess.PIPE)
    for other in sorted(USES.keys() - extras):
        done = run(MAKE_APP + USES[other])
        if done.returncode == 0:
            print(f"[{extra}] includes what [{other}] needs")
        else:
            last = done.stderr.strip().splitlines()[-1]
            print(last)
            assert f'pip install "bailian-apps[{other}]"' in last, done.stderr


if __name__ == "__main__":
    main(sys.argv[1])
