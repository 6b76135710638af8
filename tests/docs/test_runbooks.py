"""What a runbook looks for in a log is what our processes say."""

from __future__ import annotations

import re

from tests.docs.documents import ROOT, code_of

SOURCES = "".join(file.read_text(encoding="utf-8") for file in ROOT.glob("workers/**/*.py"))


def test_what_is_looked_for_in_a_log_is_said_somewhere() -> None:
    searches = [
        found
        for page in ROOT.glob("docs/runbooks/*.md")
        for line in code_of(page)
        for found in re.findall(r"\| grep (?:-E )?(\"[^\"]+\"|\S+)", line)
    ]
    words = {word for search in searches for word in search.strip('"').split("|")}
    assert len(searches) >= 10
    assert {word for word in words if word not in SOURCES} == set()
