"""Each contract fails, by itself and for the right reason, on a bus that breaks it."""

import re
from dataclasses import replace

import pytest

from events.testing.contracts import (
    ContractDeadlineError,
    ContractSuite,
    DeliveryContracts,
    FailureContracts,
    LifecycleContracts,
)
from tests.unit.testing.sabotage import FaultyHarness, Replay
from tests.unit.testing.saboteurs import SABOTEURS, Saboteur

TESTS: dict[str, type[ContractSuite]] = {
    name: suite
    for suite in (DeliveryContracts, FailureContracts, LifecycleContracts)
    for name in dir(suite)
    if name.startswith("test_")
}


WAITS = "test_07_what_was_sent_before_the_first_start_waits"
# In-memory buses do not; that it passes is in test_contracts_for_strangers.py.
BROADCAST = "test_04_each_registration_gets_everything"


def number_of(test: str) -> int:
    return int(test.split("_")[1])


def run(test: str, harness: FaultyHarness) -> None:
    suite = TESTS[test]()
    suite.new_harness = lambda: harness  # type: ignore[method-assign]
    getattr(suite, test)()


def test_every_property_has_a_saboteur() -> None:
    assert {number_of(saboteur.test) for saboteur in SABOTEURS} == {*range(1, 22), 38}


def test_every_test_of_a_property_has_a_saboteur() -> None:
    assert {saboteur.test for saboteur in SABOTEURS} == set(TESTS)


@pytest.mark.parametrize(
    "saboteur", SABOTEURS, ids=[f"{s.test}-{s.says.split('|')[0]}" for s in SABOTEURS]
)
def test_a_broken_bus_fails(saboteur: Saboteur) -> None:
    message = failure_of(saboteur)
    if not re.search(saboteur.says, message):
        # On a busy machine it may be the little timeout that failed, before the fault was seen, or
        # the fault may not have shown.
        message = failure_of(replace(saboteur, timeout=10.0))
    assert message.startswith(f"contract {number_of(saboteur.test)} (")
    assert re.search(saboteur.says, message), message


def failure_of(saboteur: Saboteur) -> str:
    """Return what the failure says, nothing if it passes."""
    try:
        run(saboteur.test, saboteur.harness())
    except ContractDeadlineError:
        raise
    except AssertionError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("test", sorted(TESTS.keys() - {BROADCAST}))
def test_the_same_bus_passes_without_the_fault(test: str) -> None:
    if test == WAITS:
        harness = FaultyHarness(Replay(), declares={"before_first_start": "waits"})
    else:
        harness = FaultyHarness()
    harness.timeout, harness.deadline = 120.0, 240.0  # it is right, on a busy machine as well
    run(test, harness)
