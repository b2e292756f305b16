"""The application that the command `events` works on: pyproject.toml names it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

%% if broker
from events.integration import OutboxRelay
from {{bus_module}} import {{bus}}
from events.sqlalchemy import SQLAlchemyInbox, SQLAlchemyOutboxStore
%% else
from events.sqlalchemy import SQLAlchemyBus
%% end
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from {{package}}.database import {{database_names}}
from {{package}}.receipts import registration
from {{package}}.settings import Settings


%% if broker
def make_bus(settings: Settings, engine: AsyncEngine) -> {{bus}}:
    inbox = SQLAlchemyInbox(async_sessionmaker(engine))
    return {{bus}}(
        settings.broker_url,
        [registration],
        middlewares=[inbox],
        source="/{{name}}",
    )


@asynccontextmanager
async def app() -> AsyncGenerator[tuple[{{bus}}, OutboxRelay]]:
    settings = Settings.from_environment()
    async with connect(settings.database_url) as engine:
        bus = make_bus(settings, engine)
        yield bus, OutboxRelay(SQLAlchemyOutboxStore(engine), bus)
%% else
def make_bus(engine: AsyncEngine) -> SQLAlchemyBus:
    return SQLAlchemyBus(
        engine,
        [registration],
        sessions=async_sessionmaker(engine),
        table=bus,
        source="/{{name}}",
    )


@asynccontextmanager
async def app() -> AsyncGenerator[SQLAlchemyBus]:
    settings = Settings.from_environment()
    async with connect(settings.database_url) as engine:
        yield make_bus(engine)
%% end
