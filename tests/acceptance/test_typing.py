"""Both type checkers accept right user code, and reject wrong user code at the marked lines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "typing_tests"

Lines = set[tuple[str, int]]


def marked() -> Lines:
    return {
        (path.relative_to(FOLDER).as_posix(), number)
        for path in FOLDER.rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if line.endswith("# error")
    }


def mypy() -> tuple[Lines, str]:
    # Files that are named are checked although pyproject.toml excludes their folder.
    paths = sorted(path.relative_to(ROOT) for path in FOLDER.rglob("*.py"))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-incremental", *paths],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )
    found = re.findall(r"^typing_tests/(.+?):(\d+): error:", done.stdout, re.MULTILINE)
    return {(path, int(line)) for path, line in found}, done.stdout + done.stderr


def pyright() -> tuple[Lines, str]:
    # pyproject.toml excludes what is rejected, hence a configuration of the folder's own.
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pyright", "--outputjson"),
            *("--project", FOLDER, "--pythonpath", sys.executable),
        ],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == len(list(FOLDER.rglob("*.py"))), done.stdout
    return {
        (
            Path(found["file"]).relative_to(FOLDER).as_posix(),
            found["range"]["start"]["line"] + 1,
        )
        for found in report["generalDiagnostics"]
        if found["severity"] == "error"
    }, done.stdout


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_errors_are_at_the_marked_lines_and_nowhere_else(
    checker: Callable[[], tuple[Lines, str]],
) -> None:
    expected = marked()
    assert expected
    found, output = checker()
    assert found == expected, output
