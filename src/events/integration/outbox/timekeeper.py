"""Puts scheduled and recurring events when they are due, beside a relay or a bus.

It asks the database for the time and the next schedule in one small query, now and then, when this
process has scheduled something, and when the next is due. Rows that are sent at once cost it
nothing, and it costs them nothing. Any number of timekeepers may run: the database decides
who releases what. All times are the database's, so it does not matter what the clocks of the
machines say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from events.integration.message import Message
from events.integration.observation import current_observer
from events.integration.outbox.scheduling import SchedulingStore
from events.integration.pipeline.cancelling import answered, failure_of
from events.integration.pipeline.retry import describe
from events.integration.serialization import Serializer
from events.integration.topology import RetryPolicy

if TYPE_CHECKING:  # it needs an extra, and those who have none of it do not
    from events.integration.outbox.recurring import Recurring
else:
    Recurring = object  # for who resolves annotations at run time, as containers do

T = TypeVar("T")

logger = logging.getLogger("events.integration")

_POLLS = 5  # of the relay's or the bus's, to one look of its own
_MOST = 500  # events that one transaction moves
_BACKOFF = RetryPolicy(delay=0.2, factor=2.0, max_delay=5.0)
_CLOCKS = 60.0  # seconds that put no occurrence in doubt
_SHORTEST_REST = 0.01  # seconds; the two clocks do not go alike


def check_recurring(given: Iterable[Recurring]) -> tuple[Recurring, ...]:
    """Return them; raise where two have one name, or what was given is something else."""
    recurring = tuple(given)
    names: list[object] = [getattr(each, "name", None) for each in recurring]
    for each, name in zip(recurring, names, strict=True):
        if not callable(getattr(each, "next_after", None)):
            raise TypeError(f"recurring takes Recurring of events.recurring, not {each!r}")
        if names.count(name) > 1:
            raise ValueError(f"two recurrences are named {name!r}: give each a name of its own")
    return recurring


class Timekeeper:
    """Puts what is scheduled and what recurs when it is due. `released` is called after each move.

    Args:
        who: The relay or bus, as the log names it.
        store: What is scheduled.
        poll_interval: Seconds between two polls of the relay or bus; here it is five of these.
        timeout: Seconds that the database may take to answer.
        released: Called after each transaction that moved something.
        recurring: What is put again and again.
        source: The source of its events, where they name none.
    """

    def __init__(
        self,
        who: str,
        store: SchedulingStore,
        *,
        poll_interval: float,
        timeout: float,
        released: Callable[[], None],
        recurring: Iterable[Recurring] = (),
        source: str = "/events",
    ) -> None:
        self._who = who
        self._store = store
        self._poll_interval = poll_interval
        self._longest_rest = _POLLS * poll_interval
        self._timeout = timeout
        self._released = released
        self._recurring = tuple(recurring)
        self._source = source
        self._put_until: dict[str, datetime] = {}
        self._failing = set[str]()
        self._ticking = asyncio.Lock()
        self._woken = asyncio.Event()
        self._calling = asyncio.Lock()

    async def run(self, calling: asyncio.Lock) -> None:
        """Go on until it is cancelled; it holds the lock while it asks the store."""
        self._calling = calling
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(self._woken.set)

        with self._store.listen_for_schedules(wake):
            await self._run()

    async def _run(self) -> None:
        failures = 0
        while True:
            self._woken.clear()
            try:
                rest = await self.tick()
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - as the store raises
                failure = failure_of(error)  # what its library does
                failures += 1
                if failures == 1:
                    logger.warning(
                        "%s cannot release scheduled events and will retry: %s",
                        self._who,
                        describe(failure),
                    )
                rest = _BACKOFF.delay_after(failures)
            else:
                if failures:
                    logger.info("%s releases scheduled events again", self._who)
                failures = 0
            with suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self._woken.wait()

    async def tick(self) -> float:
        """Put what is due, and return the seconds until it is to look again."""
        async with self._ticking:
            found = await self._asked(self._store.next_schedule)
            rests = [await self._recur(each, found.now) for each in self._recurring]
            rests.append(self._longest_rest)
            if found.due_at is not None:
                wait = (found.due_at - found.now).total_seconds()
                rests.append(await self._release() if wait <= 0 else wait)
            return max(min(rests), _SHORTEST_REST)

    async def _asked(self, question: Callable[[], Awaitable[T]]) -> T:
        async with self._calling:
            return await answered(question(), self._timeout)

    async def _release(self) -> float:
        while True:
            moved = await self._asked(lambda: self._store.release(_MOST))
            if moved:
                self._released()
            if moved < _MOST:
                # Nothing moved: what is due is locked, perhaps by who cancels it.
                return 0.0 if moved else self._poll_interval

    async def _recur(self, recurring: Recurring, now: datetime) -> float:
        """Put the occurrences that are due, and return the seconds until the next."""
        name = recurring.name
        since = self._put_until.get(name)
        if since is None:
            since = await self._learn(name, now)
        due = recurring.due(since, now)
        if due is not None:
            try:
                messages = [self._message(recurring, each) for each in due.occurrences]
            except Exception:
                if name not in self._failing:
                    logger.exception(
                        "%s cannot make the event of %r and will retry", self._who, recurring
                    )
                self._failing.add(name)
                return self._poll_interval
            self._failing.discard(name)
            put = partial(self._store.recur, name, since, due.until, messages)
            if await self._asked(put):
                self._put_until[name] = due.until
                if messages:
                    self._released()
                else:
                    logger.warning(
                        "%s skipped %r up to %s: no relay was running then",
                        self._who,
                        recurring,
                        due.until,
                    )
            else:  # another process has put them
                await self._learn(name, now)
        after = recurring.next_after(self._put_until[name])
        return self._longest_rest if after is None else (after - now).total_seconds()

    async def _learn(self, name: str, now: datetime) -> datetime:
        until = await self._asked(lambda: self._store.recurred(name))
        if (until - now).total_seconds() > _CLOCKS:
            logger.warning(
                "%s: %r was put up to %s, and the database's clock says %s: it was set back, and "
                "nothing is put until then. To restart it, delete its row in the table of "
                "recurrences",
                self._who,
                name,
                until,
                now,
            )
        self._put_until[name] = until
        return until

    def _message(self, recurring: Recurring, occurrence: datetime) -> Message:
        message = Serializer(recurring.source or self._source).encode(
            recurring.topic.name,
            recurring.make(occurrence),
            key=recurring.key,
            id=recurring.id_of(occurrence),
        )
        observer = current_observer()
        return message if observer is None else observer.created(message)
