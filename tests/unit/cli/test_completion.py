from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = subprocess.run(
    [sys.executable, "-m", "events.cli", "completion", "bash"],
    capture_output=True,
    text=True,
    check=True,
).stdout


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("de", {"dead", "demo", "describe"}),
        ("completion ", {"--help", "bash", "zsh"}),
        ("dead re", {"redrive"}),
        ("dead redrive --canary", {"--canary-wait"}),
        ("dead --app shop:bus redrive --trust", {"--trust-silence"}),
        ("outbox stats --j", {"--json"}),
        ("send users run --ver", {"--version"}),
        ("dead nothing --ver", set[str]()),
    ],
)
def test_what_bash_completes(typed: str, completed: set[str]) -> None:
    words = ["events", *typed.split(" ")]
    array = " ".join(f"'{word}'" for word in words)
    program = f"COMP_WORDS=({array}); COMP_CWORD={len(words) - 1}; _events; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(
        ["bash", "-c", f"{SCRIPT}\n{program}"], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == completed
