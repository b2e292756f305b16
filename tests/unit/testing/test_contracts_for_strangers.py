"""The contracts hold for a transport that we did not write, run as its author would run them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import events.testing.contracts


def documented_test_file() -> str:
    doc = events.testing.contracts.__doc__ or ""
    indented = re.search(r"\n(    .*\n(?:    .*\n|\n)*)", doc)
    assert indented is not None
    return dedent(indented[1])


# A right bus takes its time on a busy machine.
UNHURRIED = """
from events.testing.contracts import Harness

Harness.timeout, Harness.deadline = 120.0, 240.0
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("stranger")
    shutil.copy(Path(__file__).with_name("stranger.py"), folder)
    (folder / "test_stranger.py").write_text(documented_test_file(), encoding="utf-8")
    (folder / "conftest.py").write_text(UNHURRIED, encoding="utf-8")
    # No configuration and no plugins of ours: theirs may be none at all.
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n", encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-rs", "-p", "no:asyncio", "-p", "no:timeout"],
        cwd=folder,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_the_documented_file_passes(report: str) -> None:
    passed = set(re.findall(r"::(test_\d+_\w+) PASSED", report))
    assert {
        "test_01_a_batch_arrives_whole",
        "test_04_each_registration_gets_everything",
        "test_11_attempts_are_bounded_in_place",
        "test_12_bad_input_is_given_up_at_once",
        "test_14_many_failures_lose_nothing",
        "test_17_shutdown_lets_running_handlers_end",
        "test_19_registering_a_hundred_times_leaks_nothing",
    } <= passed


@pytest.mark.parametrize(
    "reason",
    [
        "contract 2 (50 concurrent senders and 5 competing consumers: exactly the sent set, "
        "none twice) needs delivery='group', which this transport does not declare",
        "contract 7 (what was sent before the consumer first started waits or is gone, as "
        "declared) needs before_first_start='waits', which this transport does not declare",
        "contract 11 (a handler that always fails: bounded attempts, growing delays, then a dead "
        "letter) needs delayed_retry=True, which this transport does not declare",
        "contract 15 (a dead-letter target that refuses: the event stays with the broker, no "
        "loss, no spin) needs dead_letters=True, which this transport does not declare and a "
        "harness that implements `break_dead_letters`",
    ],
)
def test_what_it_does_not_promise_is_skipped_with_the_reason(report: str, reason: str) -> None:
    assert reason in report


def test_what_users_need_without_pytest_does_not_import_it() -> None:
    program = "import sys, events.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
