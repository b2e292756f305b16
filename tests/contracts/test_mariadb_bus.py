"""The bus on MariaDB under the contracts of every bus."""

from collections.abc import AsyncGenerator

import pytest

from events.testing.contracts import DeliveryContracts, FailureContracts, LifecycleContracts
from events.testing.contracts.inbox import InboxContract
from events.testing.contracts.recurring import RecurringContract
from events.testing.contracts.schedules import SchedulesContract
from tests.contracts.sqlalchemy_bus import MariaDBHarness
from tests.contracts.sqlalchemy_bus_outbox import BusOutboxContract
from tests.contracts.sqlalchemy_bus_rows import SQLAlchemyBusDatabase
from tests.contracts.sqlalchemy_bus_schedules import OnBus
from tests.contracts.sqlalchemy_inbox import SQLAlchemyInboxDatabase, on_server


class TestDelivery(DeliveryContracts):
    harness = MariaDBHarness


class TestFailure(FailureContracts):
    harness = MariaDBHarness


class TestLifecycle(LifecycleContracts):
    harness = MariaDBHarness


class TestTransactions(InboxContract):
    @pytest.fixture
    async def database(self) -> AsyncGenerator[SQLAlchemyInboxDatabase]:
        async with on_server("mariadb+asyncmy", SQLAlchemyBusDatabase) as database:
            yield database


class TestOutbox(BusOutboxContract):
    harness = MariaDBHarness


class TestSchedules(OnBus, SchedulesContract, RecurringContract):
    harness = MariaDBHarness
