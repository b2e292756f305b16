"""The bus on MariaDB under the contracts of every bus."""

from events.testing.contracts import DeliveryContracts, FailureContracts, LifecycleContracts
from tests.contracts.sqlalchemy_bus import MariaDBHarness


class TestDelivery(DeliveryContracts):
    harness = MariaDBHarness


class TestFailure(FailureContracts):
    harness = MariaDBHarness


class TestLifecycle(LifecycleContracts):
    harness = MariaDBHarness
