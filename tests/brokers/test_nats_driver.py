"""A nats-py whose private places have moved: slower, and as right. Each is moved in turn.

The package is copied with the place renamed throughout, so it works as before, and another process
runs contracts with the copy.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nats
import pytest

pytestmark = pytest.mark.timeout(240)

ROOT = Path(__file__).parents[2]
DRIVER = ROOT / "src/events/integration/implementation/nats/_driver.py"
PLACES = (
    "_connect_command", "_current_server", "_flush_pending", "_flush_queue", "_id", "_pending",
    "_pending_data_size", "_process_msg", "_remove_sub", "_send_command", "_server_info",
)  # fmt: skip
SOME = "test_01 or test_11_a or test_18"


def move(folder: Path, *places: str) -> None:
    moved = re.compile(rf"\b({'|'.join(places)})\b")
    package = Path(nats.__file__).parent
    for path in package.rglob("*.py"):
        copy = folder / "nats" / path.relative_to(package)
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8")
        copy.write_text(moved.sub(r"\1_has_moved", text), encoding="utf-8")


def contracts(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (folder, ROOT / "src", ROOT)))
    return subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider",
            "tests/contracts/test_nats_bus.py", *options,
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip


def test_the_places_are_those_that_the_driver_s_room_uses() -> None:
    room = DRIVER.read_text(encoding="utf-8")
    used = set(re.findall(r"(?:self|super\(\))\.(_[a-z]\w*)", room))
    used |= set(re.findall(r'(?:get|has)attr\(\w+, "(_[a-z]\w*)"', room))
    used -= {"_hear"}  # our own
    assert used == set(PLACES)


@pytest.mark.parametrize("place", PLACES)
def test_a_driver_of_which_one_place_has_moved_does_as_well(tmp_path: Path, place: str) -> None:
    move(tmp_path, place)
    ran = contracts(tmp_path, "-k", SOME)
    assert ran.returncode == 0, ran.stdout[-3_000:]


def test_a_driver_of_which_every_place_has_moved_fulfils_the_contracts(tmp_path: Path) -> None:
    move(tmp_path, *PLACES)
    ran = contracts(tmp_path)
    assert ran.returncode == 0, ran.stdout[-3_000:]


def test_the_copy_is_what_runs(tmp_path: Path) -> None:
    move(tmp_path, "_client_id")
    (tmp_path / "nats" / "errors.py").write_text("raise RuntimeError('the copy')\n")
    ran = contracts(tmp_path, "-k", SOME)
    assert ran.returncode != 0
    assert "the copy" in ran.stdout + ran.stderr
