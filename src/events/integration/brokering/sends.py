"""Sends in flight: each from the call until its outcome is known.

    in line --up--> waiting for its place --made--> written --taken--> returns
       ^                              | '--cannot be made--> its error      '--refused--> its error
       '----------- down -------------+--------------------------'
    past its deadline: never written --> BusUnavailableError, else --> SendOutcomeUnknownError

A place is what must exist at the broker before a message is written to it, as an exchange or a
stream. It is made once for all that wait for it. What goes again, because a connection was lost or
its place was gone, goes in the order of its calls, with the same id, and its deadline runs on: the
broker may have it twice then, or know it by its id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from events.errors import BusError, BusUnavailableError, SendOutcomeUnknownError
from events.integration.brokering.backoff import Backoff

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


class NotMadeYetError(Exception):
    """Raised where a place cannot be made now and may be made soon."""


class Send(Protocol):
    """One send. A broker's own class has what is to be written as well."""

    future: asyncio.Future[None]
    place: Hashable | None
    number: int  # by which the table knows it; 0 before `add`, and when its outcome is known
    deadline: float

    @property
    def may_be_there(self) -> bool:
        """Return whether the broker may have it, because it was written at least once."""
        ...

    @property
    def message_id(self) -> str:
        """Return the id under which to send it again."""
        ...


S = TypeVar("S", bound=Send)
S_contra = TypeVar("S_contra", bound=Send, contravariant=True)


class SendPort(Protocol[S_contra]):
    """The port of a broker for its sends."""

    def write(self, send: S_contra) -> None:
        """Write it. `Sends.taken` or `Sends.refused` gets the outcome."""
        ...

    async def make(self, place: Hashable) -> None:
        """Have the place exist; raise `NotMadeYetError` to be asked again, else a `BusError`."""
        ...

    def why_not(self) -> str | None:
        """Return why nothing is written at this moment, if that is known."""
        ...


class Sends(Generic[S]):
    """The sends of one bus, in the order of their calls, with one timeout for all."""

    def __init__(self, port: SendPort[S], name: str, timeout: float) -> None:
        self._port = port
        self._name = name
        self._timeout = timeout
        self._last = 0
        self._open: dict[int, S] = {}
        self._is_up = False
        self._in_line: dict[int, S] = {}
        self._made: set[Hashable] = set()
        self._waiting: dict[Hashable, dict[int, S]] = {}  # for their places
        self._making: dict[Hashable, asyncio.Task[None]] = {}
        self._not_made: dict[Hashable, str] = {}  # and why
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[S]:
        """Go over those whose outcome is not known, oldest first."""
        return iter(self._open.values())

    def get(self, number: int) -> S | None:
        """Return the send of this number, if its outcome is not known."""
        return self._open.get(number)

    # --- the way there ------------------------------------------------------------------------

    def add(self, send: S) -> asyncio.Future[None]:
        """Send it; return its future, which ends when the outcome is known."""
        self._last = send.number = self._last + 1
        self._open[send.number] = send
        loop = asyncio.get_running_loop()
        send.deadline = loop.time() + self._timeout
        if self._timer is None:
            self._timer = loop.call_at(send.deadline, self._expire)
        if self._is_up and send.place in self._made:  # the usual case
            self._port.write(send)
        else:
            self.submit(send)
        return send.future

    def submit(self, send: S) -> None:
        """Write it, or write it again, once that can be and its place is there."""
        place = send.place
        if not self._is_up:
            self._in_line[send.number] = send
        elif place is None or place in self._made:
            self._port.write(send)
        else:
            self._wait_for(place, send)

    def wait(self, send: S) -> None:
        """Write it when what is to come comes up, as it cannot be written now."""
        self._in_line[send.number] = send

    def _wait_for(self, place: Hashable, send: S, pause: float = 0.0) -> None:
        if place in self._waiting:
            self._waiting[place][send.number] = send
            return
        self._waiting[place] = {send.number: send}
        task = asyncio.create_task(self._make(place, pause), name=f"{self._name} makes {place}")
        self._making[place] = task

    def gone(self, send: S, pause: float) -> None:
        """Write it again when its place, which was not there, is made, after the pause."""
        self._made.discard(send.place)
        self._wait_for(send.place, send, pause)

    def forget(self, place: Hashable) -> None:
        """Make this place again before the next message to it."""
        self._made.discard(place)

    def up(self) -> None:
        """Write what is in line, and what comes."""
        self._is_up = True
        in_line, self._in_line = self._in_line, {}
        for number in sorted(in_line):
            self.submit(in_line[number])

    def hold(self) -> None:
        """Write nothing more until `up`; what is written will be answered."""
        self._is_up = False

    def down(self, unanswered: Iterable[S]) -> None:
        """Put these, and what waits for its place, in line again: what was written to is lost."""
        self._is_up = False
        for task in self._making.values():
            task.cancel()
        self._making.clear()
        self._in_line |= {send.number: send for send in unanswered if not send.future.done()}
        for waiting in self._waiting.values():
            self._in_line |= waiting
        self._waiting.clear()
        self._made.clear()

    # --- places -------------------------------------------------------------------------------

    async def _make(self, place: Hashable, pause: float) -> None:
        failure: BusError | None
        failure = BusUnavailableError(self._name, f"{place} was not declared")
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        try:
            await asyncio.sleep(pause)
            while any(not send.future.done() for send in self._waiting[place].values()):
                try:
                    await self._port.make(place)
                    failure = None
                    break
                except NotMadeYetError as error:
                    self._not_made[place] = str(error)
                await backoff.pause()
        except BusError as error:
            failure = error
        finally:  # whatever ended it, but `down`
            if self._making.get(place) is asyncio.current_task():
                del self._making[place]
                self._is_made_or_not(place, failure)

    def _is_made_or_not(self, place: Hashable, failure: BusError | None) -> None:
        self._not_made.pop(place, None)
        waiting = self._waiting.pop(place)
        if failure is None:
            self._made.add(place)
        for number in sorted(waiting):
            send = waiting[number]
            if failure is None:
                self.submit(send)
            elif send.may_be_there:  # on a connection before, on which it was taken perhaps
                self.refused(
                    send, SendOutcomeUnknownError(self._name, send.message_id, str(failure))
                )
            else:
                self.refused(send, failure)

    # --- outcomes -----------------------------------------------------------------------------

    def taken(self, send: S) -> None:
        """Mark it as accepted by the broker."""
        self.drop(send)
        if not send.future.done():
            send.future.set_result(None)

    def refused(self, send: S, error: Exception) -> None:
        """Mark it as refused by the broker, and why."""
        self.drop(send)
        if not send.future.done():
            send.future.set_exception(error)

    def drop(self, send: S) -> None:
        """Note that no caller waits for it."""
        number, send.number = send.number, 0
        self._open.pop(number, None)
        if self._in_line or self._waiting:  # what is over must not be kept for a whole outage
            self._in_line.pop(number, None)
            if send.place in self._waiting:
                self._waiting[send.place].pop(number, None)

    def _expire(self) -> None:
        """End what is overdue; all have the same time, so the oldest comes first."""
        self._timer = None
        loop = asyncio.get_running_loop()
        while self._open:
            send = next(iter(self._open.values()))
            if send.deadline > loop.time():
                self._timer = loop.call_at(send.deadline, self._expire)
                return
            self._give_up(send, f"no answer within {self._timeout:g} s")

    def _give_up(self, send: S, reason: str) -> None:
        if send.may_be_there:
            self.refused(send, SendOutcomeUnknownError(self._name, send.message_id, reason))
            return
        why = self._not_made.get(send.place) or self._port.why_not()
        self.refused(send, BusUnavailableError(self._name, f"{reason}: {why}" if why else reason))

    # --- the end ------------------------------------------------------------------------------

    async def wait_idle(self) -> None:
        """Return when each outcome is known that a caller waits for."""
        pending = [send.future for send in self if not send.future.done()]
        if pending:
            await asyncio.wait(pending)

    def close(self) -> None:
        """Fail the sends in flight."""
        for task in self._making.values():
            task.cancel()
        self._making.clear()
        self._waiting.clear()
        self._in_line.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for send in tuple(self._open.values()):
            self._give_up(send, "the bus was shut down")
