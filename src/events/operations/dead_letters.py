"""The dead letters of a bus's consumers: found, grouped, sent back in batches, discarded.

A redrive takes down first which dead letters there are, so one that dies anew is not sent back
again in the same run. Then

    chosen --canary--> outcome --handled--> batches --> finished
                          '--died again, or not known--> CanaryFailedError

What was not reached stays a dead letter. So a redrive can be ended at any time, by leaving its
loop or by a cancellation, and goes on when it is called again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import islice
from typing import Literal

from msgspec import Struct

from events.errors import (
    BusUnavailableError,
    CanaryFailedError,
    NoSuchDeadLetterError,
    SendOutcomeUnknownError,
    UnsupportedByBusError,
)
from events.integration.brokering.backoff import Backoff
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.message import DeadLetter
from events.integration.topology import IntegrationEventBusRegistration, Topic
from events.operations.audit import Audit, record
from events.operations.groups import Group, Groups
from events.operations.selection import EVERYTHING, Selection

__all__ = ["DeadLetters", "Progress", "without_consumers"]

_SURE = 2  # counts one after the other, of nothing
_FIRST_PAGE, _LARGEST_PAGE = 100, 10_000
_PAGE_BYTES = 8 << 20  # of bodies and errors, about
_OVERHEAD = 1_000  # bytes of a letter beside its body and error, about

_Verb = Callable[[str, Sequence[str]], Awaitable[int]]


class Progress(Struct, frozen=True, kw_only=True):
    """How far a redrive or a discard is, at one consumer.

    `total` were chosen, `done` of them are sent back or removed, `gone` were dead letters no longer
    when their turn came. `canary` is `"waiting"` while the outcome of the first one is waited for.
    """

    action: Literal["redrive", "discard"]
    consumer: str
    total: int
    done: int = 0
    gone: int = 0
    canary: Literal["waiting", "handled", "trusted"] | None = None

    @property
    def finished(self) -> bool:
        """Tell whether none is left."""
        return self.done + self.gone >= self.total


@asynccontextmanager
async def without_consumers(
    bus: TransportIntegrationEventBus,
) -> AsyncGenerator[Sequence[IntegrationEventBusRegistration]]:
    """Start a bus without its consumers, give its registrations, and shut it down.

    So a program that looks at a consumer's messages does not handle them. A bus that is started
    already goes on as it is.
    """
    registrations = tuple(bus.registrations)
    if bus.health().started:
        yield registrations
        return
    bus.registrations.clear()
    try:
        async with bus:
            yield registrations
    finally:
        bus.registrations[:] = registrations


class DeadLetters:
    """Dead letters of a started bus, for an operator.

    `consumers` are the names to look at; by default those that are registered with the bus.
    `actor` is who does what is done here, for the audit record that each write leaves in the log,
    and with `audit` if it is given. While the broker is out of reach a redrive or discard tries on,
    for `outage` seconds.
    """

    def __init__(
        self,
        bus: TransportIntegrationEventBus,
        *,
        actor: str,
        consumers: Sequence[str] | None = None,
        audit: Audit | None = None,
        outage: float = 60.0,
    ) -> None:
        self._bus = bus
        self._actor = actor
        given = [r.consumer.name for r in bus.registrations] if consumers is None else consumers
        self._consumers = tuple(dict.fromkeys(given))
        self._audit = audit
        self._outage = outage

    @property
    def consumers(self) -> tuple[str, ...]:
        """Return the names of the consumers whose dead letters these are."""
        return self._consumers

    # --- reading ------------------------------------------------------------------------------

    async def search(
        self, selection: Selection = EVERYTHING, *, consumer: str | None = None
    ) -> AsyncGenerator[DeadLetter]:
        """Give the dead letters of one consumer, or of each, oldest first, in flat memory."""
        for name in self._names(consumer):
            async with aclosing(self._all(name)) as letters:
                async for letter in letters:
                    if selection.includes(letter):
                        yield letter

    async def show(self, id: str, *, consumer: str | None = None) -> DeadLetter:
        """Return one dead letter. Raises `NoSuchDeadLetterError` if there is none."""
        async with aclosing(
            self.search(Selection(ids=frozenset({id})), consumer=consumer)
        ) as letters:
            async for letter in letters:
                return letter
        raise NoSuchDeadLetterError(", ".join(self._names(consumer)), [id])

    async def groups(
        self, selection: Selection = EVERYTHING, *, consumer: str | None = None
    ) -> list[Group]:
        """Return the groups of dead letters, the largest first, in flat memory.

        Errors beyond the first 1,000 groups are counted as others, which no selection can name.
        """
        groups = Groups()
        async with aclosing(self.search(selection, consumer=consumer)) as letters:
            async for letter in letters:
                groups.add(letter)
        return groups.largest_first()

    def _names(self, consumer: str | None) -> Sequence[str]:
        return self._consumers if consumer is None else (consumer,)

    async def _all(self, consumer: str, after: str | None = None) -> AsyncGenerator[DeadLetter]:
        limit = _FIRST_PAGE
        while True:
            page = await self._bus.dead_letters(consumer, limit=limit, after=after)
            for letter in page:
                yield letter
            if len(page) < limit:
                return
            after = page[-1].id
            size = sum(len(p.message.body) + len(p.error) + _OVERHEAD for p in page) // len(page)
            limit = max(1, min(_LARGEST_PAGE, _PAGE_BYTES // size))

    # --- writing ------------------------------------------------------------------------------

    def redrive(
        self,
        selection: Selection,
        *,
        consumer: str,
        canary: float | None = 30.0,
        trust_silence: bool = False,
        batch: int = 100,
        rate: float | None = None,
    ) -> AsyncGenerator[Progress]:
        """Send dead letters back to their consumer: one first, then the others in batches.

        `canary` is for how many seconds the outcome of the first one is waited for; None sends all
        at once in batches. `CanaryFailedError` is raised if it died again, or if after that time
        it is not known whether it was handled; with `trust_silence`, the latter is no failure.
        `rate` is how many a second. The audit record is written when the loop ends, or is left and
        closed: use `contextlib.aclosing`.
        """
        return self._move("redrive", selection, consumer, canary, trust_silence, batch, rate)

    def discard(
        self,
        selection: Selection,
        *,
        consumer: str,
        batch: int = 100,
        rate: float | None = None,
    ) -> AsyncGenerator[Progress]:
        """Remove dead letters for good, in batches; otherwise as `redrive`, without a canary."""
        return self._move("discard", selection, consumer, None, False, batch, rate)  # noqa: FBT003

    async def _move(
        self,
        action: Literal["redrive", "discard"],
        selection: Selection,
        consumer: str,
        canary: float | None,
        trust_silence: bool,  # noqa: FBT001
        batch: int,
        rate: float | None,
    ) -> AsyncGenerator[Progress]:
        _check(batch=batch, rate=rate, canary=canary)
        verb: _Verb = self._bus.redrive if action == "redrive" else self._bus.discard
        total = done = gone = 0
        outcome: Literal["finished", "stopped", "failed"] = "stopped"
        state: Literal["waiting", "handled", "trusted"] | None = None
        try:
            chosen, known, first = await self._choose(selection, consumer)
            total = len(chosen)

            def now() -> Progress:
                return Progress(
                    action=action,
                    consumer=consumer,
                    total=total,
                    done=done,
                    gone=gone,
                    canary=state,
                )

            yield now()
            ids = iter(chosen)
            if canary is not None and first is not None:
                there = await self._through(verb, consumer, list(islice(ids, 1)))
                done, gone = there, 1 - there
                if there:
                    state = "waiting"
                    yield now()
                    state = await self._outcome(first, known, canary, trust_silence)
                yield now()
            while some := list(islice(ids, batch)):
                if rate is not None and done:
                    await asyncio.sleep(len(some) / rate)
                there = await self._through(verb, consumer, some)
                done += there
                gone += len(some) - there
                yield now()
            outcome = "finished"
        except Exception:
            outcome = "failed"
            raise
        finally:
            if total:
                record(
                    self._audit,
                    actor=self._actor,
                    action=action,
                    target=f"dead letters of {consumer}",
                    selection=str(selection),
                    count=done,
                    outcome=outcome,
                )

    async def _choose(
        self, selection: Selection, consumer: str
    ) -> tuple[list[str], set[str], DeadLetter | None]:
        """Return the ids chosen, the ids of all there are, and the first one chosen."""
        chosen: list[str] = []
        known: set[str] = set()
        first: DeadLetter | None = None
        async with aclosing(self._all(consumer)) as letters:
            async for letter in letters:
                known.add(letter.id)
                if selection.includes(letter):
                    first = first or letter
                    chosen.append(letter.id)
        return chosen, known, first

    async def _through(self, verb: _Verb, consumer: str, ids: Sequence[str]) -> int:
        """Do it to all of these, through an outage, and return how many there were."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._outage
        backoff = Backoff(0.2, 5.0)
        while True:
            try:
                return await verb(consumer, ids)
            except NoSuchDeadLetterError as error:
                # After an outage, those that are gone were done before the answer was lost.
                return len(ids) if backoff.has_begun else len(ids) - len(set(error.ids))
            except (BusUnavailableError, SendOutcomeUnknownError):
                if loop.time() >= deadline:
                    raise
                await backoff.pause()

    async def _outcome(
        self,
        letter: DeadLetter,
        known: set[str],
        seconds: float,
        trust_silence: bool,  # noqa: FBT001
    ) -> Literal["handled", "trusted"]:
        """Return when the event of this letter was handled; raise if it died again.

        It was handled if its consumer has nothing left to handle, and it is no dead letter. A
        message may be on its way between two of the broker's counts, so they are asked for twice.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        backoff = Backoff(0.05, 1.0)
        nothing_left = 0
        while True:
            over = loop.time() >= deadline
            try:
                nothing_left = nothing_left + 1 if await self._has_nothing_left(letter) else 0
                again = await self._died_again(letter, known)
            except BusUnavailableError:
                again, nothing_left = None, 0  # an outage tells nothing
            if again is not None:
                raise CanaryFailedError(letter.consumer, letter.message.id, again.error)
            if nothing_left == _SURE:
                return "handled"
            if over:
                if trust_silence:
                    return "trusted"
                raise CanaryFailedError(letter.consumer, letter.message.id, None)
            await backoff.pause()

    async def _has_nothing_left(self, letter: DeadLetter) -> bool:
        """Tell whether nothing is left to handle, where the broker counts what is in flight."""
        try:
            left = await self._bus.backlog(letter.consumer, topics=[Topic(letter.message.topic)])
        except UnsupportedByBusError:
            return False
        return left.waiting == 0 and left.in_flight == 0 and not left.delayed

    async def _died_again(self, letter: DeadLetter, known: set[str]) -> DeadLetter | None:
        async with aclosing(self._all(letter.consumer, letter.id)) as letters:
            async for each in letters:
                if each.message.id == letter.message.id and each.id not in known:
                    return each
        return None


def _check(*, batch: int, rate: float | None, canary: float | None) -> None:
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    if rate is not None and not rate > 0:
        raise ValueError(f"rate must be above 0 a second, not {rate:g}")
    if canary is not None and not canary >= 0:
        raise ValueError(f"canary must be from 0 seconds on, not {canary:g}")
