"""The bus on PostgreSQL under the contracts of every bus."""

from collections.abc import AsyncGenerator

import pytest

from events.testing.contracts import DeliveryContracts, FailureContracts, LifecycleContracts
from events.testing.contracts.inbox import InboxContract
from events.testing.contracts.recurring import RecurringContract
from events.testing.contracts.schedules import SchedulesContract
from tests.contracts.sqlalchemy_bus import AsyncpgHarness, PsycopgHarness
from tests.contracts.sqlalchemy_bus_outbox import BusOutboxContract
from tests.contracts.sqlalchemy_bus_rows import SQLAlchemyBusDatabase
from tests.contracts.sqlalchemy_bus_schedules import OnBus
from tests.contracts.sqlalchemy_inbox import SQLAlchemyInboxDatabase, on_server


class TestDelivery(DeliveryContracts):
    harness = AsyncpgHarness


class TestFailure(FailureContracts):
    harness = AsyncpgHarness


class TestLifecycle(LifecycleContracts):
    harness = AsyncpgHarness


class TestPsycopgDelivery(DeliveryContracts):
    harness = PsycopgHarness


class TestTransactions(InboxContract):
    @pytest.fixture
    async def database(self) -> AsyncGenerator[SQLAlchemyInboxDatabase]:
        async with on_server("postgresql+asyncpg", SQLAlchemyBusDatabase) as database:
            yield database


class TestOutbox(BusOutboxContract):
    harness = AsyncpgHarness


class TestSchedules(OnBus, SchedulesContract, RecurringContract):
    harness = AsyncpgHarness


@pytest.mark.confidence  # the statements are those of asyncpg
class TestPsycopgSchedules(OnBus, SchedulesContract, RecurringContract):
    harness = PsycopgHarness
