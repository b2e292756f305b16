"""Nothing here signals a process that it did not start, such as a server of the machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(
    path
    for folder in ("tests", "scripts", "benchmarks", "examples", "src", ".ci")
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and path.suffix in {"", ".py", ".sh"}
    if path != Path(__file__) and "__pycache__" not in path.parts
)
# By its name, by what it has open, or by a number that may be another's by now. To itself is fine.
BLIND = re.compile(
    r"\b(?:pkill|killall|fuser|skill)\b"
    r"|\bos\.kill\((?!os\.getpid\(\))"
    r"|\bos\.killpg\((?!group, number\))"
    r"|^\s*kill\s",
    re.MULTILINE,
)


def test_it_finds_what_it_looks_for() -> None:
    for line in ("pkill mariadbd", "os.kill(pid, 15)", "os.killpg(0, 15)", "    kill $pid"):
        assert BLIND.search(line), line
    assert not BLIND.search("os.kill(os.getpid(), signal.SIGKILL)")


@pytest.mark.parametrize("folder", ["tests", "scripts", "benchmarks", "examples", "src", ".ci"])
def test_no_process_is_signalled_blindly(folder: str) -> None:
    files = [path for path in FILES if (ROOT / folder) in path.parents]
    assert files
    found = [
        f"{path.relative_to(ROOT)}: {match[0].strip()}"
        for path in files
        for match in BLIND.finditer(path.read_text(errors="replace"))
    ]
    assert found == []
