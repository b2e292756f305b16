"""The contracts of import-linter hold for the source, and each of them fails when it is violated."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# -S leaves out the .pth file of the editable install, through which `events` would be this checkout.
LINT = """
import sys
sys.path[:0] = sys.argv.pop(1).split(":")
from importlinter.cli import lint_imports_command
sys.argv[1:] = ["--no-logo", "--no-cache"]
lint_imports_command()
"""


def lint(checkout: Path) -> subprocess.CompletedProcess[str]:
    paths = f"{sysconfig.get_path('purelib')}:{sysconfig.get_path('platlib')}:{checkout / 'src'}"
    return subprocess.run(
        [sys.executable, "-S", "-c", LINT, paths],
        cwd=checkout,
        text=True,
        capture_output=True,
        check=False,
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("floors")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_source_keeps_every_contract(checkout: Path) -> None:
    done = lint(checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("domain/event.py", "import events.integration.event", "The house"),
        ("integration/event.py", "import events.domain", "The house"),
        ("errors.py", "import events.domain", "The house"),
        ("redis.py", "import events.memory", "The house"),
        ("redis.py", "import events.testing", "The house"),
        ("integration/bus.py", "import events.memory", "The house"),
        ("domain/event.py", "import events.domain.dispatcher", "The floors of events.domain"),
        ("integration/message.py", "import events.integration.bus", "The floors of events.integ"),
        ("integration/new.py", "", "The floors of events.integration"),
        (
            "integration/transport.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import events.integration.bus",
            "The floors of events.integration",
        ),
        (
            "integration/__init__.py",
            "import events.integration.implementation.memory",
            "Nothing imports an implementation",
        ),
        (
            "domain/__init__.py",
            "import events.domain.implementation.dishka",
            "Nothing imports an implementation",
        ),
        (
            "integration/implementation/base.py",
            "import events.integration.implementation.memory",
            "Implementations share base alone",
        ),
        (
            "integration/implementation/dishka.py",
            "import events.integration.implementation.memory",
            "Implementations share base alone",
        ),
    ],
)
def test_a_violation_is_found(checkout: Path, module: str, line: str, broken: str) -> None:
    path = checkout / "src" / "events" / module
    before = path.read_text(encoding="utf-8") if path.exists() else None
    path.write_text(f"{before or ''}\n{line}\n", encoding="utf-8")
    try:
        done = lint(checkout)
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before, encoding="utf-8")
    assert done.returncode == 1, done.stdout + done.stderr
    report = done.stdout.partition("Broken contracts")[2]
    assert broken in report
