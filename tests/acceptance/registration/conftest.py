from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.acceptance.registration.scenario import Databases, sqlite
from tests.brokers.rabbitmq_server import RabbitMQServer, private_server
from tests.databases.database import new_database


@pytest.fixture(params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Databases]:
    """Give an empty database for each service."""
    if request.param == "sqlite":
        yield sqlite(tmp_path)
        return
    with new_database("postgresql") as users, new_database("postgresql") as email:
        yield Databases(*(str(each.url("postgresql+asyncpg")) for each in (users, email)))


@pytest.fixture(scope="module")
def broker() -> Generator[RabbitMQServer]:
    with private_server() as server:
        yield server
