"""Deleting what has been parked for long."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from events.integration.outbox.port import OutboxStore
from events.integration.pipeline.cancelling import failure_of
from events.integration.pipeline.retry import describe

logger = logging.getLogger("events.integration")

_AT_ONCE = 1_000  # rows that one statement deletes
_EVERY = 60.0  # seconds


async def purge(
    store: OutboxStore, older_than: timedelta, relay: str, calling: asyncio.Lock
) -> None:
    """Delete rows that were parked before so long, from time to time, until it is cancelled."""
    while True:
        try:
            async with calling:
                gone = await store.purge(older_than, limit=_AT_ONCE)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - as the store raises
            failure = failure_of(error)  # what its library does
            logger.warning("%s cannot delete old parked rows: %s", relay, describe(failure))
            gone = 0
        if gone:
            logger.info("%s deleted %d rows parked over %s ago", relay, gone, older_than)
        if gone < _AT_ONCE:
            await asyncio.sleep(_EVERY)
