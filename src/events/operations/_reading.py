"""All dead letters of a consumer, in flat memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from events.integration.brokering.dead_letters import HeadSource
from events.integration.brokering.doing import doing
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.message import DeadLetter
from events.integration.transport import ScannedDeadLetters

_FIRST_PAGE, _LARGEST_PAGE = 100, 10_000
_PAGE_BYTES = 8 << 20  # of bodies and errors, about
_OVERHEAD = 1_000  # bytes of a letter beside its body and error, about


async def paged(
    bus: TransportIntegrationEventBus, consumer: str, after: str | None = None
) -> AsyncGenerator[DeadLetter]:
    """Yield those behind the id `after`, oldest first, in pages of about as many bytes each."""
    limit = _FIRST_PAGE
    while True:
        page = await bus.dead_letters(consumer, limit=limit, after=after)
        for letter in page:
            yield letter
        if len(page) < limit:
            return
        after = page[-1].id
        size = sum(len(p.message.body) + len(p.error) + _OVERHEAD for p in page) // len(page)
        limit = max(1, min(_LARGEST_PAGE, _PAGE_BYTES // size))


def scanned(bus: TransportIntegrationEventBus, consumer: str) -> AsyncGenerator[DeadLetter] | None:
    """Yield all in one pass, in any order, where a page may cost as much as all of them."""
    store: object = bus.transport.dead_letters
    if bus.health().started and isinstance(store, ScannedDeadLetters):
        return _scan(store, consumer)
    return None


async def _scan(store: ScannedDeadLetters, consumer: str) -> AsyncGenerator[DeadLetter]:
    with doing(f"read the dead letters of {consumer!r}"):
        async with aclosing(store.scan(consumer)) as letters:
            async for letter in letters:
                yield letter


async def all_of(
    bus: TransportIntegrationEventBus, consumer: str, *, bodies: bool
) -> AsyncGenerator[Sequence[DeadLetter]]:
    """Yield all, some at a time and in any order; their messages are whole only with `bodies`."""
    store: object = bus.transport.dead_letters
    if not bodies and bus.health().started and isinstance(store, HeadSource):
        with doing(f"read the dead letters of {consumer!r}"):
            async with aclosing(store.scan_heads(consumer)) as some:
                async for letters in some:
                    yield letters
        return
    async with aclosing(scanned(bus, consumer) or paged(bus, consumer)) as all_:
        async for letter in all_:
            yield (letter,)
