"""The groups of a consumer on the streams that it reads, made where they are not there.

A stream may be deleted, or the server flushed, while its consumer runs. Its groups are made
again then, which is logged as an error: all that is left in the stream is redelivered.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from events.integration.brokering.problems import Problems
from events.integration.implementation.redis._connecting import DisconnectedError, ReplyError
from events.integration.implementation.redis._entries import Keys, topics_key
from events.integration.implementation.redis._link import Link
from events.integration.implementation.redis._sending import REFUSALS

logger = logging.getLogger("events.integration")

_RETRY_AFTER = 1.0  # seconds
_DECLARING = "declare again"  # a problem


class Groups:
    """The groups of one consumer on one topic: on the topic's stream and on the retry stream."""

    def __init__(self, link: Link, keys: Keys, problems: Problems) -> None:
        self._link = link
        self._keys = keys
        self._problems = problems
        self._missing: set[str] = set()  # streams, until it is said that they are there again

    async def open(self, start: str) -> None:
        """Make what is not there, and list the topic for who reads dead letters.

        If the list has no room for it, the upkeep tries that again.
        """
        await self._make_groups(start)
        try:
            await self._list_topic()
        except ReplyError as error:
            if error.code in REFUSALS:
                raise

    async def declare(self) -> bool:
        """Make what has gone, and log it; return whether something had."""
        made = await self._make_groups("0", is_again=True)
        await self._list_topic()
        return made

    async def _make_groups(self, start: str, *, is_again: bool = False) -> bool:
        made = False
        for stream in self._keys.streams:
            # In each, names and values take turns.
            groups = await self._look("XINFO", "GROUPS", stream) or ()
            if not any(it[it.index(b"name") + 1] == self._keys.group.encode() for it in groups):
                begin = start if stream == self._keys.topic else "0"
                if is_again:
                    self._missing.add(stream)  # also if the answer is lost
                if not await self._make_group(stream, begin):
                    self._missing.discard(stream)
            if stream in self._missing:
                self._missing.discard(stream)
                self._tell(stream)
                made = True
        return made

    def _tell(self, stream: str) -> None:
        if stream == self._keys.topic:
            logger.error(
                "%s: its stream or group was missing and has been recreated from the start: "
                "all entries left in the stream are delivered, including those handled before",
                self._problems.name,
            )
        else:
            logger.error(
                "%s: its stream of retries was missing and has been recreated", self._problems.name
            )

    async def _list_topic(self) -> None:
        topics = topics_key(self._keys.group)
        if not await self._look("SISMEMBER", topics, self._keys.topic):
            await self._link.call("SADD", topics, self._keys.topic)

    async def _look(self, *command: str) -> Any:
        """Look before writing: a full server refuses what writes, and who empties it must start.

        Return None where there is nothing, or it is forbidden to look.
        """
        try:
            return await self._link.call(*command)
        except ReplyError as error:
            if error.code not in {"no", "NOPERM"}:  # such key
                raise
        return None

    async def _make_group(self, stream: str, begin: str) -> bool:
        """Make it; return whether it was not there."""
        try:
            await self._link.call("XGROUP", "CREATE", stream, self._keys.group, begin, "MKSTREAM")
        except ReplyError as error:
            if error.code != "BUSYGROUP":
                raise
            return False
        return True

    async def make_again(self) -> None:
        """Make what has gone, or wait for a while if nothing has."""
        made = False
        try:
            made = await self.declare()
        except DisconnectedError:
            return
        except ReplyError as error:
            self._problems.report(_DECLARING, f"it cannot recreate its stream and group: {error}")
        else:
            self._problems.clear(_DECLARING)
        if not made:
            await asyncio.sleep(_RETRY_AFTER)
