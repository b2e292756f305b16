"""The index of the decisions names each page by its title and status."""

from __future__ import annotations

import re
from pathlib import Path

DECISIONS = Path(__file__).parents[2] / "docs" / "decisions"
PAGES = sorted(DECISIONS.glob("0*.md"))


def _row(page: Path) -> str:
    text = re.sub(r"\[(\d+)\]\([^)]*\)", r"\1", page.read_text(encoding="utf-8"))
    heading = re.match(r"# (\d{4}): (.+)\n", text)
    status = re.search(r"^Status: ((?:in force|replaced by)[^.;,]*)", text, re.MULTILINE)
    assert heading is not None, f"{page.name} begins with no heading like '# 0001: ...'"
    assert status is not None, f"{page.name} has no status"
    number, title = heading.groups()
    return f"| [{number}]({page.name}) | {title} | {status[1]} |".lower()


def test_the_index_lists_each_decision_by_its_title_and_status() -> None:
    index = (DECISIONS / "README.md").read_text(encoding="utf-8").lower()
    listed = [line for line in index.splitlines() if line.startswith("| [")]
    assert len(listed) > 35
    assert listed == [_row(page) for page in PAGES]
