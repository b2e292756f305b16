"""The RabbitMQ bus under the contracts of every bus, on quorum queues and on classic ones."""

from __future__ import annotations

import pytest

from events.testing.contracts import DeliveryContracts, FailureContracts, LifecycleContracts
from tests.brokers.rabbitmq_server import RabbitMQHarness, rabbitmq_url

__all__ = ["rabbitmq_url"]


class OnRabbitMQ:
    @pytest.fixture(autouse=True)
    def _server(self, rabbitmq_url: str) -> None:
        self.url = rabbitmq_url

    def new_harness(self) -> RabbitMQHarness:
        return RabbitMQHarness(self.url)


class TestDelivery(OnRabbitMQ, DeliveryContracts):
    pass


class TestFailure(OnRabbitMQ, FailureContracts):
    pass


class TestLifecycle(OnRabbitMQ, LifecycleContracts):
    pass


class ClassicHarness(RabbitMQHarness):
    queue_type = "classic"


class OnClassicQueues(OnRabbitMQ):
    def new_harness(self) -> RabbitMQHarness:
        return ClassicHarness(self.url)


class TestDeliveryOnClassicQueues(OnClassicQueues, DeliveryContracts):
    pass


class TestFailureOnClassicQueues(OnClassicQueues, FailureContracts):
    pass


@pytest.mark.confidence  # no connection or channel knows what kind of queue there is
class TestLifecycleOnClassicQueues(OnClassicQueues, LifecycleContracts):
    pass
