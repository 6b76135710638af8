"""The product's documents as text: which there are, what is code in them, what they point to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")])

_FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fenced_lines(page: Path) -> list[str]:
    """Every line of a fenced block."""
    return [line for block in _FENCE.findall(page.read_text(encoding="utf-8")) for line in block.splitlines()]


def code_of(page: Path) -> list[str]:
    """Every line of a fenced block and every inline span."""
    return fenced_lines(page) + _SPAN.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))


def links_of(page: Path) -> list[str]:
    return _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors_of(page: Path) -> set[str]:
    """The fragments that a page's headings make."""
    headings = _HEADING.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings}


def block(page: Path, mark: str) -> str:
    """The code of the fenced block between <!-- mark --> and <!-- /mark -->; where there are several, of all."""
    found = re.findall(rf"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", page.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"{name(page)} has no block {mark}"
    return "".join(str(code) for marked in found for code in _FENCE.findall(marked))


def find_in_code(pattern: str) -> Iterator[tuple[Path, re.Match[str]]]:
    for page in PAGES:
        for line in code_of(page):
            for found in re.finditer(pattern, line):
                yield page, found
