"""The package's description on PyPI: README.md, whose relative links lead to the repository.

Hatchling runs this whenever it builds or installs the package. The repository's address is that of
`[project.urls]`; the links lead to the files of the version that is built.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

README = "README.md"
_CODE = re.compile(r"^(`{3,}|~{3,}).*?^\1 *$|`[^`\n]+`", re.M | re.S)
# `[text](target "title")` and `![…](…)`, `[name]: target`, and the attributes of HTML.
_TARGET = re.compile(
    r"(?P<before>"
    r"\]\(\s*<?"
    r"|^[ ]{0,3}\[[^\]]+\]:\s*<?"
    r"|\b(?:href|src|srcset)=[\"']"
    r")(?P<target>[^\s<>()\"']+)",
    re.M,
)
_ABSOLUTE = re.compile(r"[a-z][a-z\d+.-]*:|//", re.I)
_IMAGES = (".gif", ".jpg", ".jpeg", ".png", ".svg", ".webp")


def with_absolute_links(text: str, page: str, root: Path, address: str, tag: str) -> str:
    """Lead the relative links of a page in the repository's root to the files of a tag.

    Args:
        text: The page, or a part of it.
        page: The name of the page.
        root: The folder of the repository.
        address: Where the repository is on the web.
        tag: The tag.

    Raises:
        FileNotFoundError: A link leads to a file that the repository does not have.
    """

    def absolute(link: re.Match[str]) -> str:
        target = link["target"]
        if _ABSOLUTE.match(target):
            return link[0]
        path, _, fragment = target.partition("#")
        path = path.removeprefix("./") or page  # PyPI gives headings no anchors
        file = root / path
        if not file.exists():
            raise FileNotFoundError(f"{page} has a link to {path}, which does not exist.")
        kind = "tree" if file.is_dir() else "raw" if path.lower().endswith(_IMAGES) else "blob"
        fragment = f"#{fragment}" if fragment else ""
        return f"{link['before']}{address}/{kind}/{tag}/{path}{fragment}"

    parts: list[str] = []
    end = 0
    for code in _CODE.finditer(text):
        parts += [_TARGET.sub(absolute, text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, _TARGET.sub(absolute, text[end:])])


class PyPIDescription(MetadataHookInterface):
    """Gives the metadata its field `readme`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Read README.md and put it into the metadata."""
        root = Path(self.root)
        text = with_absolute_links(
            (root / README).read_text(encoding="utf-8"),
            README,
            root,
            metadata["urls"]["Repository"].rstrip("/"),
            f"v{metadata['version']}",
        )
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
