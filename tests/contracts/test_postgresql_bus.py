"""The bus on PostgreSQL under the contracts of every bus."""

from events.testing.contracts import DeliveryContracts, FailureContracts, LifecycleContracts
from tests.contracts.sqlalchemy_bus import AsyncpgHarness, PsycopgHarness


class TestDelivery(DeliveryContracts):
    harness = AsyncpgHarness


class TestFailure(FailureContracts):
    harness = AsyncpgHarness


class TestLifecycle(LifecycleContracts):
    harness = AsyncpgHarness


class TestPsycopgDelivery(DeliveryContracts):
    harness = PsycopgHarness
