"""The bus on NATS JetStream under the contracts of every bus."""

from events.testing.contracts import DeliveryContracts, FailureContracts, LifecycleContracts
from tests.contracts.nats_harness import NatsHarness


class TestDelivery(DeliveryContracts):
    harness = NatsHarness


class TestFailure(FailureContracts):
    harness = NatsHarness


class TestLifecycle(LifecycleContracts):
    harness = NatsHarness
