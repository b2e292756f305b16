"""The bus on SQLite under the contracts of every bus."""

from events.testing.contracts import DeliveryContracts, FailureContracts, LifecycleContracts
from tests.contracts.sqlalchemy_bus import SQLiteHarness


class TestDelivery(DeliveryContracts):
    harness = SQLiteHarness


class TestFailure(FailureContracts):
    harness = SQLiteHarness


class TestLifecycle(LifecycleContracts):
    harness = SQLiteHarness
