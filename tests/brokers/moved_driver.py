"""A driver whose private places have moved: a copy with each renamed throughout works as before."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def move(package: ModuleType, folder: Path, *places: str) -> None:
    """Copy the package into the folder, with these places renamed."""
    moved = re.compile(rf"\b({'|'.join(places)})\b")
    assert package.__file__ is not None
    source = Path(package.__file__).parent
    for path in source.rglob("*.py"):
        copy = folder / source.name / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8")
        copy.write_text(moved.sub(r"\1_has_moved", text), encoding="utf-8")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run these tests in another process, with the package in the folder."""
    path = os.pathsep.join(map(str, (folder, ROOT / "src", ROOT)))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
