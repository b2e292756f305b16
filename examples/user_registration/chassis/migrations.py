"""Alembic for an async engine: what each service's `env.py` does, and running it from a program.

At a terminal it is Alembic's own command line, with the service's file:

    alembic -c examples/user_registration/user_service/alembic.ini upgrade head
"""

import asyncio
from pathlib import Path

from alembic import command, context
from alembic.config import Config
from sqlalchemy import Connection, MetaData

from events.sqlalchemy import enable_wal
from examples.user_registration.chassis.database import open_database
from examples.user_registration.chassis.logs import configure_logs


def migrate(metadata: MetaData, url: str) -> None:
    """Bring the database to the revision that Alembic was asked for; for `env.py`."""
    if context.config.cmd_opts is not None:  # started by a person, who wants to see what it does
        configure_logs("alembic")
    if context.is_offline_mode():
        context.configure(url=url, target_metadata=metadata, literal_binds=True)
        with context.begin_transaction():
            context.run_migrations()
    else:
        asyncio.run(_online(metadata, url))


async def _online(metadata: MetaData, url: str) -> None:
    async with open_database(url) as engine:
        if engine.dialect.name == "sqlite":
            await enable_wal(engine)  # the file remembers it
        async with engine.begin() as connection:
            await connection.run_sync(_run, metadata)


def _run(connection: Connection, metadata: MetaData) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",  # it can alter little in place
    )
    with context.begin_transaction():
        context.run_migrations()


async def upgrade(ini: Path, url: str) -> None:
    """Bring a service's database to its newest revision, from inside an event loop."""
    await asyncio.to_thread(command.upgrade, config(ini, url), "head")


def config(ini: Path, url: str) -> Config:
    """Return Alembic's configuration of a service, for this database."""
    made = Config(ini)
    made.attributes["url"] = url
    return made
