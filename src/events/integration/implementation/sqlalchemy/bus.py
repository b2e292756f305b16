"""The durable bus on the tables of a database: the application's own is enough, without a broker.

A topic is a name, a consumer a set of rows: a publisher writes a row for each consumer that
the topic has. See `_bus.tables` for the layout, `_bus.sharing` for how processes share the work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from sqlalchemy import Table
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
)

from events.errors import BusUnavailableError, InvalidTopologyError
from events.integration.health import Backlog
from events.integration.implementation.base import BusOptions, TransportIntegrationEventBus
from events.integration.implementation.sqlalchemy._bus.dead_letters import TableDeadLetters
from events.integration.implementation.sqlalchemy._bus.handling import RowTransactions
from events.integration.implementation.sqlalchemy._bus.publishing import (
    Publisher,
    largest_statement,
    why_not_written,
)
from events.integration.implementation.sqlalchemy._bus.pump import Pump, PumpOptions
from events.integration.implementation.sqlalchemy._bus.queue import Queue
from events.integration.implementation.sqlalchemy._bus.rows import Rows
from events.integration.implementation.sqlalchemy._bus.seats import Seats
from events.integration.implementation.sqlalchemy._bus.tables import (
    CURE,
    BusTables,
    default_bus_table,
)
from events.integration.implementation.sqlalchemy._calendar import Calendar
from events.integration.implementation.sqlalchemy._checking import check_tables
from events.integration.implementation.sqlalchemy._opening import at_level, connected
from events.integration.implementation.sqlalchemy._wakeup import hearing, nudge
from events.integration.implementation.sqlalchemy.outbox import SQLAlchemyOutbox
from events.integration.implementation.sqlalchemy.sessions import Sessions
from events.integration.limits import LONGEST_NAME
from events.integration.message import Message
from events.integration.outbox import Outbox
from events.integration.outbox.timekeeper import Timekeeper, check_recurring
from events.integration.pipeline.cancelling import Background
from events.integration.pipeline.retry import describe
from events.integration.topology import IntegrationEventBusRegistration
from events.integration.transport import Deliver, Subscription, TransportFeatures

if TYPE_CHECKING:  # it needs an extra
    from events.integration.outbox.recurring import Recurring
else:
    Recurring = object  # for who resolves annotations at run time, as containers do

T = TypeVar("T")

logger = logging.getLogger("events.integration")


class SQLAlchemyTransport:
    """A `Transport` to the tables of a database. Times are in seconds.

    `system` is the database's name, as `postgresql`.
    """

    features = TransportFeatures(
        durability="broker",
        delivery="group",
        before_first_start="gone",
        headers=True,
        delayed_retry=True,
        dead_letters=True,
        ordered=True,
    )

    def __init__(
        self,
        engine: AsyncEngine,
        table: Table | None = None,
        *,
        timeout: float = 10.0,
        poll_interval: float = 2.0,
        lease: float = 20.0,
        recurring: Iterable[Recurring] = (),
        source: str = "/events",
    ) -> None:
        if not isinstance(engine, AsyncEngine):
            raise TypeError(
                f"SQLAlchemyIntegrationEventBus needs an AsyncEngine, not "
                f"{type(engine).__name__}: from sqlalchemy.ext.asyncio import create_async_engine"
            )
        self.system = engine.dialect.name
        self._name = f"SQLAlchemyIntegrationEventBus({engine.url!r})"
        self._timeout = timeout
        self._recurring = check_recurring(recurring)
        self._source = source
        self._options = PumpOptions(poll_interval, lease)
        dialect = engine.dialect.name
        single = engine if dialect == "sqlite" else at_level(engine, "AUTOCOMMIT")
        level = "SERIALIZABLE" if dialect == "sqlite" else "READ COMMITTED"
        self._engine = at_level(engine, level)
        self.tables = tables = BusTables(default_bus_table() if table is None else table)
        self._rows = Rows(self._engine, single, tables)
        self._seats = Seats(self._engine, tables)
        self.calendar = Calendar(self._engine, single, tables.rows, self._nudge)
        self._pump: Pump | None = None
        self._timekeeping: Background | None = None
        self._publisher: Publisher | None = None
        self._largest: int | None = None  # statement
        self.dead_letters = TableDeadLetters(self._engine, tables, self._nudge)

    def __repr__(self) -> str:
        return self._name

    @property
    def connected(self) -> bool:
        """See `Transport`."""
        return self._pump is not None and self._pump.connected

    @property
    def error(self) -> str | None:
        """Return what is wrong with the database, if anything is."""
        return None if self._pump is None else self._pump.error

    async def connect(self) -> None:
        """See `Transport`. Raises `OutboxTableError` if a table is missing."""
        try:
            async with asyncio.timeout(self._timeout), connected(self._engine) as connection:
                await connection.run_sync(check_tables, self.tables, CURE)
                self._largest = await largest_statement(connection)
        except TimeoutError as error:
            reason = f"no answer of the database within {self._timeout:g} s"
            raise BusUnavailableError(self._name, reason) from error
        except (SQLAlchemyError, OSError) as error:
            said = str(error.orig) if isinstance(error, DBAPIError) else describe(error)
            raise BusUnavailableError(self._name, said) from error
        self._publisher = Publisher(
            self._name, self._engine, self._rows, self._timeout, self._nudge
        )
        self._pump = Pump(self._name, self._rows, self._seats, self._options, self._hear)

    def keep_time(self) -> None:
        """Begin to put what is scheduled and recurs, once all consumers are known.

        What was due before would else go to those alone that were registered first.
        """
        if self._timekeeping is None and self._pump is not None:
            timekeeper = Timekeeper(
                self._name,
                self.calendar,
                poll_interval=self._options.poll_interval,
                timeout=self._timeout,
                released=self._nudge,
                recurring=self._recurring,
                source=self._source,
            )
            self._timekeeping = Background(timekeeper.run)

    def removed(self, row: int) -> None:
        """Take note that the handler's own transaction has removed this row."""
        if self._pump is not None:
            self._pump.removed(row)

    def _nudge(self) -> None:
        nudge(self._engine.sync_engine, self.tables.rows)

    def _hear(self, wake: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        return hearing(self._engine, self.tables.rows, wake)

    def publish(self, message: Message) -> asyncio.Future[None]:
        """See `Transport`."""
        if self._publisher is None:
            closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            closed.set_exception(BusUnavailableError(self._name, "it is closed"))
            return closed
        refused = why_not_written(message, self._name, self._largest)
        if refused is not None:
            raise refused
        return self._publisher.publish(message)

    async def backlog(self, consumer: str, topics: Sequence[str]) -> Backlog:
        """See `BacklogSource`."""
        return await self.dead_letters.backlog(consumer, topics)

    async def paused(self, consumers: Collection[str]) -> frozenset[str]:
        """See `PauseStore`."""
        return await self._asked(self._rows.paused(consumers))

    async def set_paused(self, consumer: str, *, paused: bool) -> bool:
        """See `PauseStore`."""
        return await self._asked(self._rows.set_paused(consumer, paused=paused))

    async def _asked(self, answer: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(self._timeout):
                return await answer
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            raise BusUnavailableError(self._name, describe(error)) from error

    async def declare(self, subscription: Subscription) -> None:
        """See `PauseStore`."""
        await self.check(subscription)
        await self._asked(self._rows.consumer(subscription.topic, subscription.consumer))

    async def subscribe(self, subscription: Subscription, deliver: Deliver) -> TableSubscribed:
        """See `Transport`. The consumer gets what is sent from the first time on."""
        await self.check(subscription)
        if self._pump is None:
            raise BusUnavailableError(self._name, "it is closed")
        number = await self._asked(self._rows.consumer(subscription.topic, subscription.consumer))
        queue = self._pump.subscribe(number, subscription, deliver)
        return TableSubscribed(self._pump, queue)

    async def check(self, subscription: Subscription) -> None:
        """See `TopologySource`. The tables are looked at on connecting."""
        for what, name in (("topic", subscription.topic), ("consumer", subscription.consumer)):
            if len(name) > LONGEST_NAME:
                raise InvalidTopologyError(
                    f"{what} {name!r}",
                    f"it has {len(name)} characters, the limit is {LONGEST_NAME}",
                )

    async def close(self) -> None:
        """See `Transport`."""
        publisher, self._publisher = self._publisher, None
        pump, self._pump = self._pump, None
        timekeeping, self._timekeeping = self._timekeeping, None
        async with AsyncExitStack() as closing:  # the last is closed first; an error stops none
            if pump is not None:
                closing.push_async_callback(pump.stop)
            if publisher is not None:
                closing.push_async_callback(publisher.close)
            if timekeeping is not None:
                closing.push_async_callback(timekeeping.end)


class TableSubscribed:
    """A `Subscribed`: one registration's hold on its rows."""

    def __init__(self, pump: Pump, queue: Queue) -> None:
        self._pump = pump
        self._queue = queue

    @property
    def last_poll(self) -> float | None:
        """See `Subscribed`."""
        return self._queue.last_poll

    async def pause(self) -> None:
        """See `Subscribed`."""
        self._queue.paused = True

    async def close(self) -> None:
        """See `Subscribed`."""
        await self._pump.close(self._queue)

    async def wait_closed(self) -> None:
        """See `Subscribed`."""
        await asyncio.shield(self._queue.closed)


class SQLAlchemyIntegrationEventBus(TransportIntegrationEventBus):
    """Carry events through the tables of a database: on SQLite, PostgreSQL, MariaDB and MySQL.

    An event is sent when a row for each consumer of its topic is committed. A consumer gets what is
    sent since it first started. Processes of one consumer name share its rows by partitions, so
    events of one key stay in order. Add the tables with `bus_table(metadata)`.

    Args:
        engine: You own it. Its pool must give each user a separate connection.
        registrations: The consumers.
        sessions: An `async_sessionmaker` on this database, or an async function that returns a
            session. With it each attempt has a session, which `current_session()` returns, and the
            event's row is deleted in its transaction: what the handler writes there happens once.
        table: The result of `bus_table`, if it has another name or a schema.
        poll_interval: Seconds between polls for rows without a notification.
        lease: Seconds after which another process takes over the partitions of a dead one.
        recurring: Recurring events, see `events.recurring`. Pass the same to all buses on the
            database: one of them puts each occurrence.
        **options: See `BusOptions`.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        registrations: Iterable[IntegrationEventBusRegistration] | None = None,
        *,
        sessions: Sessions | None = None,
        table: Table | None = None,
        poll_interval: float = 2.0,
        lease: float = 20.0,
        recurring: Iterable[Recurring] = (),
        **options: Unpack[BusOptions],
    ) -> None:
        transport = SQLAlchemyTransport(
            engine,
            table,
            timeout=options.get("send_timeout", 10.0),
            poll_interval=poll_interval,
            lease=lease,
            recurring=recurring,
            source=options.get("source", "/events"),
        )
        self._shown = repr(transport)
        self._table = transport.tables.rows
        self._scheduling = transport.calendar.scheduling
        self._keep_time = transport.keep_time
        self._source = options.get("source", "/events")
        self._max_body_size = options.get("max_body_size", 1 << 20)
        self._check_events = options.get("check_events", True)
        if sessions is not None:
            own = RowTransactions(sessions, transport.tables, transport.removed)
            options["middlewares"] = [*options.get("middlewares", ()), own]
        super().__init__(transport, registrations, **options)

    async def startup(self) -> None:
        """See `TransportIntegrationEventBus.startup`. Scheduled events are sent from then on."""
        await super().startup()
        self._keep_time()

    def outbox(
        self, session: AsyncSession | async_scoped_session[AsyncSession] | AsyncConnection
    ) -> SQLAlchemyOutbox:
        """Return an outbox whose `put` sends in the session's own transaction, without a relay.

        It is the same as `SQLAlchemyOutbox(session, table=...)` with the bus's table.
        """
        return SQLAlchemyOutbox(
            session,
            table=self._table,
            source=self._source,
            max_body_size=self._max_body_size,
            check_events=self._check_events,
        )

    def scheduling(self) -> AbstractAsyncContextManager[Outbox]:
        """Yield an outbox in a transaction that commits at the exit, to cancel and list schedules.

        For operators; the application uses its own transactions. The bus need not be started.
        """
        return self._scheduling()

    def __repr__(self) -> str:
        return self._shown
