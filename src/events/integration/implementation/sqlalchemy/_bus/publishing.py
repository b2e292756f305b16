"""Messages on their way into the tables: those of one moment in one transaction.

publish --> waiting --.
publish --> waiting --+--> one transaction --> committed, all futures are done
                      |       |--> not begun, or rolled back: again until the deadline
                      |       |--> refused by the database: each by itself
                      |       '--> the commit did not answer: outcome unknown
                      '-- while one is under way, the next is gathered
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct
from sqlalchemy import text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from events.errors import (
    BusError,
    BusUnavailableError,
    MessageTooLargeError,
    SendOutcomeUnknownError,
    SendRefusedError,
)
from events.integration.brokering.backoff import Backoff
from events.integration.implementation.sqlalchemy._bus.rows import Rows
from events.integration.implementation.sqlalchemy._opening import connected
from events.integration.limits import LONGEST_NAME
from events.integration.message import Message
from events.integration.pipeline.cancelling import failure_of
from events.integration.pipeline.retry import describe

_MOST = 500  # messages in one transaction
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
# A permission that is missing, a limit that is passed, and what triggers raise.
_REFUSED_STATES = frozenset({"42501", "54000", "P0001"})  # of PostgreSQL
_ESCAPED = (b'"', b"'", b"\\", b"\0", b"\n", b"\r", b"\x1a")  # with one byte more each
_BESIDES = 256 << 10  # bytes of a statement beside the body: headers at their limit, escaped
_REFUSED_NUMBERS = frozenset({1142, 1143, 1153, 1644})  # of MariaDB and MySQL


class _Outgoing(Struct, eq=False):
    message: Message
    done: asyncio.Future[None]
    deadline: float


class Publisher:
    """Writes what is published, in order, in as few transactions as the time allows.

    `published` is called after each commit.
    """

    def __init__(
        self,
        bus: str,
        engine: AsyncEngine,
        rows: Rows,
        timeout: float,
        published: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._engine = engine
        self._rows = rows
        self._timeout = timeout
        self._published = published
        self._waiting: deque[_Outgoing] = deque()
        self._task: asyncio.Task[None] | None = None

    def publish(self, message: Message) -> asyncio.Future[None]:
        """See `Transport.publish`."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append(_Outgoing(message, done, loop.time() + self._timeout))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return done

    async def close(self) -> None:
        """Let what is on its way arrive, as far as its deadline allows."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(_MOST, len(self._waiting)))]
                await self._send(batch)
        finally:
            self._task = None

    async def _send(self, batch: Sequence[_Outgoing]) -> None:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        why: str | None = None
        while True:
            # One whose caller has gone is not sent, if that is still in time.
            batch = [each for each in batch if not each.done.done()]
            if not batch:
                return
            error = await self._attempt(batch, why)
            now = asyncio.get_running_loop().time()
            if isinstance(error, SendRefusedError) and len(batch) > 1:
                for each in batch:
                    await self._send([each])
                return
            if not isinstance(error, BusUnavailableError):
                _end(batch, error)
                return
            why = error.reason
            _end([each for each in batch if each.deadline <= now], error)
            batch = [each for each in batch if each.deadline > now]
            if batch:
                pause = min(backoff.take(), batch[0].deadline - now)
                await asyncio.sleep(pause)

    async def _attempt(self, batch: Sequence[_Outgoing], why: str | None) -> Exception | None:
        """Write them, and return what went wrong; `why` it did before, if it did."""
        committing = False
        try:
            async with (
                asyncio.timeout_at(batch[0].deadline),
                connected(self._engine) as connection,
                connection.begin() as transaction,
            ):
                messages = [each.message for each in batch]
                await connection.run_sync(self._rows.write, messages)
                committing = True
                await transaction.commit()
                committing = False
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - who sent it is to see it
            return self._judged(error, batch[0].message, why, committing=committing)
        self._published()
        return None

    def _judged(
        self,
        error: Exception | asyncio.CancelledError,
        message: Message,
        why: str | None,
        *,
        committing: bool,
    ) -> Exception:
        """Return the error as senders see it: refused for good, down, or unknown."""
        if isinstance(error, DBAPIError) and _is_refusal(error):
            return SendRefusedError(self._bus, message.topic, str(error.orig))
        if isinstance(error, TimeoutError):
            said = f"no answer of the database within {self._timeout:g} s"
        elif isinstance(error, (SQLAlchemyError, OSError)):
            said = str(error.orig) if isinstance(error, DBAPIError) else describe(error)
        elif isinstance(error, asyncio.CancelledError):
            said = describe(failure_of(error))
        else:
            return error
        if committing:
            return SendOutcomeUnknownError(self._bus, message.id, said)
        if why is not None and isinstance(error, TimeoutError):
            said = why  # that the time was up says less
        return BusUnavailableError(self._bus, said)


async def largest_statement(connection: AsyncConnection) -> int | None:
    """Return how many bytes a statement may have, where that is a matter of the server's."""
    if connection.dialect.name not in {"mysql", "mariadb"}:
        return None
    return int((await connection.execute(text("SELECT @@max_allowed_packet"))).scalar_one())


def why_not_written(message: Message, bus: str, largest: int | None) -> BusError | None:
    """Return the error of a message that the tables do not hold, or that would be cut.

    The server closes the connection on a statement that is too large, as if it were down.
    """
    for what, said in (("type", message.type), ("key", message.key)):
        if said is not None and len(said) > LONGEST_NAME:
            reason = f"its {what} has {len(said)} characters, over {LONGEST_NAME}: use a hash of it"
            return SendRefusedError(bus, message.topic, reason)
    body = message.body
    if largest is not None and 2 * len(body) > largest - _BESIDES:
        escaped = len(body) + sum(map(body.count, _ESCAPED))
        if escaped > largest - _BESIDES:
            limit = max(0, largest - _BESIDES)
            return MessageTooLargeError(message.topic, message.type, escaped, limit)
    return None


def _is_refusal(error: DBAPIError) -> bool:
    """Tell whether the database would refuse it again: it is not down."""
    if isinstance(error, (DataError, IntegrityError)):
        return True
    said: object = error.orig
    if getattr(said, "sqlstate", None) in _REFUSED_STATES:
        return True
    return isinstance(said, Exception) and not _REFUSED_NUMBERS.isdisjoint(said.args[:1])


def _end(batch: Sequence[_Outgoing], error: Exception | None) -> None:
    for each in batch:
        if each.done.done():
            continue
        if error is None:
            each.done.set_result(None)
        elif isinstance(error, SendOutcomeUnknownError):
            unknown = SendOutcomeUnknownError(error.bus, each.message.id, error.reason)
            each.done.set_exception(unknown)
        else:
            each.done.set_exception(error)
