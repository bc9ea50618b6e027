"""What is published: the wheel, the source distribution, and their page on PyPI."""

from __future__ import annotations

import io
import re
import runpy
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

hatchling: Any = pytest.importorskip("hatchling.builders.wheel")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
URLS: dict[str, str] = PROJECT["urls"]
VERSION: str = PROJECT["version"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = str(tmp_path_factory.mktemp("wheel"))
    (path,) = hatchling.WheelBuilder(str(ROOT)).build(directory=folder, versions=["standard"])
    with zipfile.ZipFile(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return message_from_bytes(wheel.read(f"bailian_apps-{VERSION}.dist-info/METADATA"))


def targets(markdown: str) -> list[str]:
    """All that a page links to or shows, as a Markdown parser reads it."""
    found: list[str] = []
    html: list[str] = []
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown)
    while tokens:
        token = tokens.pop()
        tokens += token.children or []
        found += [str(v) for k, v in token.attrs.items() if k in ("href", "src")]
        html += [token.content] if token.type.startswith("html_") else []
    return found + re.findall(r"\b(?:href|src|srcset)=[\"']([^\"']+)", "\n".join(html))


def test_every_link_of_the_page_on_pypi_leads_to_a_file_of_this_version(metadata: Message) -> None:
    found = targets(str(metadata.get_payload()))
    assert len(found) == len(targets((ROOT / "README.md").read_text(encoding="utf-8"))) > 40
    own = re.compile(re.escape(URLS["Repository"]) + f"/(raw|blob|tree)/v{VERSION}/([^#]+)")
    kinds: set[str] = set()
    for link in found:
        assert "://" in link
        if URLS["Repository"] in link:
            kind, path = own.findall(link)[0]
            kinds.add(kind)
            assert (ROOT / path).is_dir() if kind == "tree" else (ROOT / path).is_file(), link
    assert kinds >= {"raw", "blob"}


def test_links_of_every_form_become_absolute_and_code_stays(tmp_path: Path) -> None:
    hook: Any = runpy.run_path(str(ROOT / "hatch_build.py"))
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/a.md", "docs/a.svg"):
        (tmp_path / name).touch()
    page = (
        '[a](docs/a.md#part "title") [b][b] [own](#part) [web](https://example.com/a.md)\n'
        "[mail](mailto:a@example.com) [folder](<docs>) [![image](docs/a.svg)](./docs/a.md)\n\n"
        "[b]: docs/a.md\n\n"
        '<picture><source srcset="docs/a.svg"><img src="docs/a.svg"></picture>\n\n'
    )
    code = "`[a](docs/gone.md)`\n\n```md\n[a](docs/gone.md)\n```\n"
    made = hook["with_absolute_links"](page + code, "README.md", tmp_path, "https://host/o/n", "v1")
    files = "https://host/o/n/blob/v1"
    image = "https://host/o/n/raw/v1/docs/a.svg"
    assert sorted(targets(made)) == sorted(
        [
            *(f"{files}/docs/a.md#part", *[f"{files}/docs/a.md"] * 2, f"{files}/README.md#part"),
            *("https://example.com/a.md", "mailto:a@example.com", "https://host/o/n/tree/v1/docs"),
            *[image] * 3,
        ]
    )
    assert made.endswith(code)
    with pytest.raises(FileNotFoundError, match=r"docs/gone\.md"):
        hook["with_absolute_links"]("[a](docs/gone.md)", "README.md", tmp_path, "", "v1")


def test_the_project_has_one_address() -> None:
    address = URLS["Repository"]
    assert {"Homepage", "Documentation", "Changelog", "Issues"} < set(URLS)
    assert [url for url in URLS.values() if not url.startswith(address)] == []
    for name, url in URLS.items():
        if "/blob/main/" in url:
            assert (ROOT / url.partition("/blob/main/")[2]).is_file(), name


@pytest.mark.parametrize("name", ["CHANGELOG.md", "docs/zh/changelog.md"])
def test_the_changelog_has_a_dated_section_of_this_version(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.findall(rf"^## {re.escape(VERSION)} - \d{{4}}-\d\d-\d\d$", text, re.M)


def test_the_wheel_has_the_package_alone_with_its_translations(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {name.split("/")[0] for name in names} == {
        "bailian_apps",
        f"bailian_apps-{VERSION}.dist-info",
    }
    assert "bailian_apps/py.typed" in names
    assert "bailian_apps/locale/zh_CN/LC_MESSAGES/bailian_apps.mo" in names
    assert [name for name in names if "__pycache__" in name] == []


def test_the_source_distribution_has_every_file_of_the_repository(tmp_path: Path) -> None:
    builder: Any = pytest.importorskip("hatchling.builders.sdist")
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    (path,) = builder.SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(fileobj=io.BytesIO(Path(path).read_bytes())) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    files = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    assert names == files | {"PKG-INFO"}


def release(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / ".github/release.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.process
def test_a_release_has_the_tag_the_address_and_the_notes_of_the_project() -> None:
    address = URLS["Repository"]
    done = release(f"v{VERSION}", address)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert all("://" in link for link in targets(done.stdout))
    assert "\n## " not in done.stdout

    other_tag = release("v0.0.1", address)
    assert other_tag.returncode == 1
    assert f"but the version in pyproject.toml is {VERSION}" in other_tag.stderr
    other_place = release(f"v{VERSION}", "https://github.com/someone/fork")
    assert other_place.returncode == 1
    assert f"[project.urls] in pyproject.toml has {address}" in other_place.stderr


def test_the_licences_of_all_that_is_required_are_listed_in_both_languages() -> None:
    script = runpy.run_path(str(ROOT / "docs/licences.py"))
    pages = [
        (ROOT / f"docs/{language}/licences.md").read_text("utf-8") for language in ("en", "zh")
    ]
    english, chinese = (
        re.findall(r"^\| `([\w-]+)` \| (.+?) \| (.+) \|$", page, re.M) for page in pages
    )
    assert [row[:2] for row in english] == [row[:2] for row in chinese]
    assert [row for row in english if script["refused"](row[1])] == []
    extras = {name: by for name, _, by in english}
    for extra, required in script["declared"]().items():
        for each in required:
            assert extras[each.name] == "every install" or f"`[{extra}]`" in extras[each.name]


@pytest.mark.parametrize("licence", ["", "UNKNOWN", "GPL-3.0-only", "MIT AND AGPL-3.0", "LGPLv3"])
def test_a_licence_that_is_unknown_or_not_permitted_is_found(licence: str) -> None:
    assert runpy.run_path(str(ROOT / "docs/licences.py"))["refused"](licence)
