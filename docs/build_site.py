"""Build the documentation site: docs/en and docs/zh, and a start page that chooses one of them.

`python docs/build_site.py [FOLDER]` writes it into FOLDER (site), and fails at the first warning
of each language, after it showed all. Without DOCS_SOURCE_URL (see _ext/repository_links.py) the
site holds the files that its pages link to.
"""

from __future__ import annotations

import multiprocessing
import shutil
import sys
from importlib import import_module
from pathlib import Path

from conf import LANGUAGES

DOCS = Path(__file__).parent
# What takes long to import; both builds are forks of a process that has it.
PRELOADED = ("sphinx.cmd.build", "bailian_apps.langchain", "bailian_apps.llamaindex")


def build(language: str, site: Path) -> None:
    """Build the pages of one language; ends the process with Sphinx's exit code."""
    from sphinx.cmd.build import main

    options = ["-q", "-W", "--keep-going", "-D", f"language={LANGUAGES[language][0]}", "-c", DOCS]
    kept = site.absolute().parent / ".doctrees" / site.name / language  # beside what is served
    sys.exit(main([str(each) for each in (*options, "-d", kept, DOCS / language, site / language)]))


def build_site(site: Path) -> bool:
    """Build all pages; says whether there was no warning."""
    site.mkdir(parents=True, exist_ok=True)
    shutil.copy(DOCS / "root.html", site / "index.html")
    for name in PRELOADED:
        import_module(name)
    context = multiprocessing.get_context("fork")
    builds = [context.Process(target=build, args=(each, site)) for each in LANGUAGES]
    for each in builds:
        each.start()
    for each in builds:
        each.join()
    return not any(each.exitcode for each in builds)


if __name__ == "__main__":
    sys.exit(not build_site(Path(*sys.argv[1:] or ["site"])))
