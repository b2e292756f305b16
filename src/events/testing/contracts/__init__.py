"""The contracts of a bus, as suites to subclass in its test file. They need pytest, but no plugin.

For your transport, write a harness that makes a bus on it, and subclass each suite:

    from events.integration.implementation.base import TransportIntegrationEventBus
    from events.testing.contracts import (
        DeliveryContracts,
        FailureContracts,
        Harness,
        LifecycleContracts,
    )

    from stranger import Loudspeaker, LoudspeakerTransport


    class LoudspeakerHarness(Harness):
        def __init__(self):
            self.loudspeaker = Loudspeaker()

        def new_bus(self, **options):
            transport = LoudspeakerTransport(self.loudspeaker)
            return TransportIntegrationEventBus(transport, **options)


    class TestDelivery(DeliveryContracts):
        harness = LoudspeakerHarness


    class TestFailure(FailureContracts):
        harness = LoudspeakerHarness


    class TestLifecycle(LifecycleContracts):
        harness = LoudspeakerHarness

A property that the transport's declared features exclude is skipped, and pytest's `-rs` shows why.
"""

from __future__ import annotations

import pytest

# Before they are imported, so that a bare `assert` shows what it saw, as in your own tests.
pytest.register_assert_rewrite(
    "events.testing.contracts.delivery",
    "events.testing.contracts.failure",
    "events.testing.contracts.inbox",
    "events.testing.contracts.lifecycle",
    "events.testing.contracts.outbox",
    "events.testing.contracts.recurring",
    "events.testing.contracts.relays",
    "events.testing.contracts.scenario",
    "events.testing.contracts.schedules",
    "events.testing.contracts.sessions",
)

from events.testing.contracts.delivery import DeliveryContracts  # noqa: E402
from events.testing.contracts.failure import FailureContracts  # noqa: E402
from events.testing.contracts.harness import Harness  # noqa: E402
from events.testing.contracts.lifecycle import LifecycleContracts  # noqa: E402
from events.testing.contracts.probe import Numbered, Other, Probe  # noqa: E402
from events.testing.contracts.scenario import Scenario  # noqa: E402
from events.testing.contracts.suite import (  # noqa: E402
    ContractBrokenError,
    ContractDeadlineError,
    ContractSuite,
    contract,
)

__all__ = [
    "ContractBrokenError",
    "ContractDeadlineError",
    "ContractSuite",
    "DeliveryContracts",
    "FailureContracts",
    "Harness",
    "LifecycleContracts",
    "Numbered",
    "Other",
    "Probe",
    "Scenario",
    "contract",
]
