"""The way of a settlement to the broker: tried again until it is there.

Acks of one stream share a command: those of a millisecond, and those that come while one is on its
way. No handler waits for them: the next event is handled meanwhile. All else is rare, and moves one
entry at a time. A settlement that the server refuses stays here, its entry pending there, and is
tried again with growing pauses; it is among the consumer's problems until it is there.

Each try is a round trip, which an observer sees as such.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from events.integration.brokering.backoff import Backoff
from events.integration.brokering.problems import Problems
from events.integration.implementation.redis._connecting import DisconnectedError, ReplyError
from events.integration.implementation.redis._entries import Entry, Keys, topics_key
from events.integration.implementation.redis._link import Link
from events.integration.implementation.redis._scripts import DONE_AGAIN, MOVE, PARK, Script
from events.integration.message import Retry
from events.integration.observation import current_observer

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
_GATHER = 0.001  # seconds
_AT_ONCE = 1_000  # ids in one command
_ACKING = "acks"  # a problem
_UNOBSERVED = nullcontext()


class Settler:
    """Carry the settlements of one consumer on one topic.

    `settled` is called with the entry when the broker has its settlement.
    """

    def __init__(
        self,
        link: Link,
        keys: Keys,
        me: str,
        problems: Problems,
        settled: Callable[[Entry], None],
    ) -> None:
        self._link = link
        self._keys = keys
        self._me = me
        self._problems = problems
        self._settled = settled
        self._acks: defaultdict[str, list[Entry]] = defaultdict(list)
        self._acking: set[str] = set()
        self._ack_backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._moves: set[asyncio.Task[None]] = set()
        self.lacks_room = False  # at the server, for a settlement that waits
        self._idle = asyncio.Event()
        self._idle.set()

    # --- acks ---------------------------------------------------------------------------------

    def ack(self, entry: Entry) -> None:
        """Acknowledge it."""
        self._idle.clear()
        self._acks[entry.stream].append(entry)
        if entry.stream not in self._acking:
            self._acking.add(entry.stream)
            gather = 0 if entry.taken_over else _GATHER
            asyncio.get_running_loop().call_later(gather, self._flush, entry.stream)

    def _flush(self, stream: str) -> None:
        entries = self._acks[stream][:_AT_ONCE]
        del self._acks[stream][:_AT_ONCE]
        ids = [entry.id for entry in entries]
        around = self._observed(entries)
        around.__enter__()
        if stream == self._keys.again:
            script = DONE_AGAIN.source
            sent = self._link.call("EVAL", script, 1, stream, self._keys.group, *ids)
        else:
            sent = self._link.call("XACK", stream, self._keys.group, *ids)
        sent.add_done_callback(lambda future: self._acked(stream, entries, future, around))

    def _acked(
        self,
        stream: str,
        entries: list[Entry],
        future: asyncio.Future[object],
        around: AbstractContextManager[None],
    ) -> None:
        error = future.exception()
        around.__exit__(None if error is None else type(error), error, None)
        if error is not None:
            if not self._link.is_open:  # for good: the bus was shut down meanwhile
                return
            self._acks[stream][:0] = entries
            self._report(_ACKING, "acknowledge", error)
            pause = self._ack_backoff.take()
            asyncio.get_running_loop().call_later(pause, self._flush, stream)
            return
        if self._ack_backoff.has_begun:
            self._ack_backoff.reset()
            self._problems.clear(_ACKING)
        for entry in entries:
            self._settled(entry)
        if self._acks[stream]:
            asyncio.get_running_loop().call_later(_GATHER, self._flush, stream)
        else:
            self._acking.discard(stream)
            self._check_idle()

    # --- all else -----------------------------------------------------------------------------

    def retry(self, entry: Entry, retry: Retry) -> None:
        """Have it delivered again when its delay is over."""
        due = math.ceil(retry.after * 1000)
        self._move(entry, self._keys.later, due, entry.again(retry.attempt))

    def dead_letter(self, entry: Entry, record: Mapping[str, str]) -> None:
        """Keep it as a dead letter, of which this is known, and list its topic among those."""
        listed = "SADD", topics_key(self._keys.group), self._keys.topic
        self._move(entry, self._keys.dead, -1, entry.dead(record), listed)

    def park(self, entry: Entry) -> None:
        """Return it to the broker as if it had never been delivered."""
        self._begin(entry, PARK, [entry.stream], self._keys.group, self._me, entry.id)

    def _move(
        self,
        entry: Entry,
        target: str,
        delay: int,
        fields: list[bytes],
        first: tuple[str, ...] = (),
    ) -> None:
        keys = [entry.stream, target, self._keys.due]
        args = self._keys.group, self._me, entry.id, delay, 1 if entry.own else 0, *fields
        self._begin(entry, MOVE, keys, *args, first=first)

    def _begin(
        self,
        entry: Entry,
        script: Script,
        keys: list[str],
        *args: object,
        first: tuple[str, ...] = (),
    ) -> None:
        self._idle.clear()
        task = asyncio.create_task(self._carry(entry, script, keys, args, first))
        self._moves.add(task)
        task.add_done_callback(self._moved)

    def _moved(self, task: asyncio.Task[None]) -> None:
        self._moves.discard(task)
        self._check_idle()

    async def _carry(
        self,
        entry: Entry,
        script: Script,
        keys: list[str],
        args: tuple[object, ...],
        first: tuple[str, ...],
    ) -> None:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        problem = " ".join(keys)
        while True:
            try:
                with self._observed([entry]):
                    if first:
                        await self._link.call(*first)
                    await self._link.run_script(script, keys, *args)
            except (ReplyError, DisconnectedError) as error:
                self._report(problem, "settle", error)
                self.lacks_room = isinstance(error, ReplyError) and error.code == "OOM"
            else:
                self.lacks_room = False
                self._problems.clear(problem)
                self._settled(entry)
                return
            await backoff.pause()

    def _observed(self, entries: Sequence[Entry]) -> AbstractContextManager[None]:
        observer = current_observer()
        if observer is None:
            return _UNOBSERVED
        return observer.settling([entry.delivery(self._keys) for entry in entries], "redis")

    # --- the end ------------------------------------------------------------------------------

    def _check_idle(self) -> None:
        if not (self._moves or self._acking):
            self._idle.set()

    async def drain(self, timeout: float) -> bool:  # noqa: ASYNC109 - giving up is no error
        """Wait until all is there, or give up; return whether it is. What is not is redelivered."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            moves = list(self._moves)
            for task in moves:
                task.cancel()
            if moves:
                await asyncio.wait(moves)
            return False
        return True

    def _report(self, problem: str, doing: str, error: BaseException | None) -> None:
        if isinstance(error, ReplyError) and error.code != "READONLY":  # else the link says so
            self._problems.report(problem, f"it cannot {doing} what was handled: {error}")
