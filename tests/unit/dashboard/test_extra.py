"""The page costs nothing to those who do not ask for it."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["integration", "operations", "contracts", "cli", "memory"])
def test_nothing_else_imports_its_libraries(module: str) -> None:
    code = f"import sys, events.{module}; print({{'starlette', 'jinja2'}} & {{*sys.modules}})"
    assert run(code) == "set()"


@pytest.mark.parametrize("library", ["starlette", "jinja2"])
def test_a_missing_extra_is_named(library: str) -> None:
    code = (
        f"import sys; sys.modules['{library}'] = None\n"
        "try: import events.dashboard\n"
        "except ImportError as error: print(error)"
    )
    assert run(code) == (
        "events.dashboard needs the extra 'dashboard': "
        'pip install "integration-events[dashboard]"'
    )


def test_it_needs_no_more_than_its_extra() -> None:
    code = (
        "import sys\n"
        "for name in ('pygments', 'yaml', 'fastapi', 'multipart', 'python_multipart', 'pydantic'):\n"
        "    sys.modules[name] = None\n"
        "from events.dashboard import dashboard\n"
        "from events.memory import MemoryBus\n"
        "print(type(dashboard(MemoryBus(), authorize=lambda request: None)).__name__)"
    )
    assert run(code) == "Starlette"
