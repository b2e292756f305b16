"""The dead letters of a bus's consumers: found, grouped, sent back in batches, discarded.

A redrive takes down first which dead letters there are, so one that fails again is not sent back
again in the same run. Then

    chosen --canary--> outcome --handled--> batches --> finished
                          '--failed, or not known-----> CanaryFailedError

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
    NoSuchDeadLetterError,
    SendOutcomeUnknownError,
)
from events.integration.brokering.backoff import Backoff
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.message import DeadLetter
from events.integration.topology import IntegrationEventBusRegistration
from events.operations._canary import Canary
from events.operations._reading import all_of, paged, scanned
from events.operations.audit import Audit, recorded
from events.operations.groups import Group, Groups
from events.operations.selection import EVERYTHING, Selection

_Verb = Callable[[str, Sequence[str]], Awaitable[int]]


class Progress(Struct, frozen=True, kw_only=True):
    """The progress of a redrive or a discard, at one consumer.

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
        """Return whether none is left."""
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
    and with `audit` if it is given. While the broker is out of reach a redrive or discard retries,
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
        self,
        selection: Selection = EVERYTHING,
        *,
        consumer: str | None = None,
        after: str | None = None,
    ) -> AsyncGenerator[DeadLetter]:
        """Yield the dead letters of one consumer, or of each, oldest first, in flat memory.

        `after` is the id of the one of this consumer behind which to begin.
        """
        if after is not None and consumer is None:
            raise ValueError("after is an id of one consumer: name it, as in consumer='mails'")
        for name in self._names(consumer):
            async with aclosing(paged(self._bus, name, after)) as letters:
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
        for name in self._names(consumer):
            bodies = selection.text is not None
            async with aclosing(all_of(self._bus, name, bodies=bodies)) as some:
                async for letters in some:
                    for letter in letters:
                        if selection.includes(letter):
                            groups.add(letter)
        return groups.largest_first()

    def _names(self, consumer: str | None) -> Sequence[str]:
        return self._consumers if consumer is None else (consumer,)

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
        at once in batches. `CanaryFailedError` is raised if it failed again, or if after that time
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
        gone = 0
        state: Literal["waiting", "handled", "trusted"] | None = None
        target = f"dead letters of {consumer}"
        with recorded(
            self._audit, actor=self._actor, action=action, target=target, selection=selection
        ) as written:
            chosen, known, first = await self._choose(selection, consumer)
            written.chosen = len(chosen)

            def now() -> Progress:
                return Progress(
                    action=action,
                    consumer=consumer,
                    total=written.chosen,
                    done=written.count,
                    gone=gone,
                    canary=state,
                )

            yield now()
            ids = iter(chosen)
            if canary is not None and first is not None:
                sent = Canary(self._bus, first, known)
                there = await self._through(sent.redrive, consumer, list(islice(ids, 1)))
                written.count, gone = there, 1 - there
                if there:
                    state = "waiting"
                    yield now()
                    state = await sent.outcome(canary, trust_silence=trust_silence)
                yield now()
            while some := list(islice(ids, batch)):
                if rate is not None and written.count:
                    await asyncio.sleep(len(some) / rate)
                there = await self._through(verb, consumer, some)
                written.count += there
                gone += len(some) - there
                yield now()

    async def _choose(
        self, selection: Selection, consumer: str
    ) -> tuple[list[str], set[str], DeadLetter | None]:
        """Return the ids chosen, the ids of all there are, and the first one chosen."""
        chosen: list[str] = []
        known: set[str] = set()
        first: DeadLetter | None = None
        letters = scanned(self._bus, consumer)
        async with aclosing(letters or paged(self._bus, consumer)) as all_:
            async for letter in all_:
                known.add(letter.id)
                if selection.includes(letter):
                    if first is None or (letters is not None and letter.id < first.id):
                        first = letter
                    chosen.append(letter.id)
        if letters is not None:
            chosen.sort()  # as pages are
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


def _check(*, batch: int, rate: float | None, canary: float | None) -> None:
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    if rate is not None and not rate > 0:
        raise ValueError(f"rate must be above 0 a second, not {rate:g}")
    if canary is not None and not canary >= 0:
        raise ValueError(f"canary must be from 0 seconds on, not {canary:g}")
