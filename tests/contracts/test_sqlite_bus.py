"""The bus on SQLite under the contracts of every bus."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from events.integration.implementation.sqlalchemy import enable_wal
from events.testing.contracts import DeliveryContracts, FailureContracts, LifecycleContracts
from events.testing.contracts.inbox import InboxContract
from events.testing.contracts.recurring import RecurringContract
from events.testing.contracts.schedules import SchedulesContract
from tests.contracts.sqlalchemy_bus import SQLiteHarness
from tests.contracts.sqlalchemy_bus_outbox import BusOutboxContract
from tests.contracts.sqlalchemy_bus_rows import SQLAlchemyBusDatabase
from tests.contracts.sqlalchemy_bus_schedules import OnBus
from tests.contracts.sqlalchemy_inbox import SQLAlchemyInboxDatabase, created


class TestDelivery(DeliveryContracts):
    harness = SQLiteHarness


class TestFailure(FailureContracts):
    harness = SQLiteHarness


class TestLifecycle(LifecycleContracts):
    harness = SQLiteHarness


class TestTransactions(InboxContract):
    @pytest.fixture
    async def database(self, tmp_path: Path) -> AsyncGenerator[SQLAlchemyInboxDatabase]:
        url = make_url(f"sqlite+aiosqlite:///{tmp_path}/bus.db")
        async with created(url, SQLAlchemyBusDatabase) as database:
            await enable_wal(database.engine)
            yield database


class TestOutbox(BusOutboxContract):
    harness = SQLiteHarness


class TestSchedules(OnBus, SchedulesContract, RecurringContract):
    harness = SQLiteHarness
