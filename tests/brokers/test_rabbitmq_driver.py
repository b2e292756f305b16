"""A pika whose private places have moved: slower, and as right. Each is moved in turn."""

from __future__ import annotations

import re
from pathlib import Path

import pika  # type: ignore[import-untyped]
import pytest

from events.integration.implementation.rabbitmq import _driver
from tests.brokers.moved_driver import ROOT, move, run

ROOM = ROOT / "src/events/integration/implementation/rabbitmq"
CONTRACTS = "tests/contracts/test_rabbitmq_bus.py"
CRASHES = "tests/brokers/test_crash_loops.py"
PLACES = tuple(
    name
    for name in (*_driver.READING, *_driver.FRAMES, *_driver.EMITTING, "_terminate_stream")
    if name.startswith("_")
)
OURS = {
    "_closed", "_closing", "_connection", "_consumer_of", "_emit", "_emit_frames", "_end",
    "_end_turn", "_frames", "_has_sent", "_on_close", "_on_open", "_on_open_error", "_opened",
    "_set_blocked", "_silent_since",
}  # fmt: skip
SOME = "test_01 or test_11_a or test_18"


def test_the_places_are_those_that_the_driver_s_rooms_use() -> None:
    connection = (ROOM / "_connection.py").read_text(encoding="utf-8")
    used = set(re.findall(r"\.(_[a-z]\w*)", connection.split("\nclass ", 1)[1])) - OURS
    rest = "".join(
        path.read_text(encoding="utf-8")
        for path in ROOM.glob("*.py")
        if path.name != "_connection.py"
    )
    used |= set(re.findall(r"channel\.connection\.(_[a-z]\w*)", rest))
    used |= set(re.findall(r'getattr\(connection, "(_[a-z]\w*)"', rest))
    assert used | {"_on_data_available"} == set(PLACES)  # what is overridden is not called


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.confidence  # the next one moves all of them
def test_a_driver_of_which_one_place_has_moved_does_as_well(tmp_path: Path, place: str) -> None:
    move(pika, tmp_path, place)
    ran = run(tmp_path, CONTRACTS, "-k", SOME)
    assert ran.returncode == 0, ran.stdout[-3_000:]


def test_a_driver_of_which_every_place_has_moved_fulfils_the_contracts(tmp_path: Path) -> None:
    move(pika, tmp_path, *PLACES)
    ran = run(tmp_path, CONTRACTS)
    assert ran.returncode == 0, ran.stdout[-3_000:]


def test_an_acknowledgement_leaves_before_the_next_handler_starts_all_the_same(
    tmp_path: Path,
) -> None:
    move(pika, tmp_path, *PLACES)
    ran = run(tmp_path, CRASHES, "-k", "rabbitmq")
    assert ran.returncode == 0, ran.stdout[-3_000:]


def test_the_copy_is_what_runs(tmp_path: Path) -> None:
    move(pika, tmp_path, "_process_callbacks")
    (tmp_path / "pika" / "exceptions.py").write_text("raise RuntimeError('the copy')\n")
    ran = run(tmp_path, CONTRACTS, "-k", SOME)
    assert ran.returncode != 0
    assert "the copy" in ran.stdout + ran.stderr
