"""A nats-py whose private places have moved: slower, and as right. Each is moved in turn."""

from __future__ import annotations

import re
from pathlib import Path

import nats
import pytest

from tests.brokers.moved_driver import ROOT, move, run

DRIVER = ROOT / "src/events/integration/implementation/nats/_driver.py"
CONTRACTS = "tests/contracts/test_nats_bus.py"
PLACES = (
    "_connect_command", "_current_server", "_flush_pending", "_flush_queue", "_id", "_pending",
    "_pending_data_size", "_process_msg", "_remove_sub", "_send_command", "_server_info",
)  # fmt: skip
SOME = "test_01 or test_11_a or test_18"


def test_the_places_are_those_that_the_driver_s_room_uses() -> None:
    room = DRIVER.read_text(encoding="utf-8")
    used = set(re.findall(r"(?:self|super\(\))\.(_[a-z]\w*)", room))
    used |= set(re.findall(r'(?:get|has)attr\(\w+, "(_[a-z]\w*)"', room))
    used -= {"_hear"}  # our own
    assert used == set(PLACES)


@pytest.mark.parametrize("place", PLACES)
def test_a_driver_of_which_one_place_has_moved_does_as_well(tmp_path: Path, place: str) -> None:
    move(nats, tmp_path, place)
    ran = run(tmp_path, CONTRACTS, "-k", SOME)
    assert ran.returncode == 0, ran.stdout[-3_000:]


def test_a_driver_of_which_every_place_has_moved_fulfils_the_contracts(tmp_path: Path) -> None:
    move(nats, tmp_path, *PLACES)
    ran = run(tmp_path, CONTRACTS)
    assert ran.returncode == 0, ran.stdout[-3_000:]


def test_the_copy_is_what_runs(tmp_path: Path) -> None:
    move(nats, tmp_path, "_client_id")
    (tmp_path / "nats" / "errors.py").write_text("raise RuntimeError('the copy')\n")
    ran = run(tmp_path, CONTRACTS, "-k", SOME)
    assert ran.returncode != 0
    assert "the copy" in ran.stdout + ran.stderr
