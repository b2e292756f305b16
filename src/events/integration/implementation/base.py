"""The bus over a transport: lifecycle, encoding, sending, consumers, dead letters, written once.

    stopped --startup--> started --shutdown--> stopping --> stopped

`send` works from the end of `startup` until the last handler has ended in `shutdown`, so handlers
can send during the grace. `startup` and `shutdown` exclude each other; `register` waits for both.
All between the two belongs to one event loop; the next `startup` may be in another.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict

from events.errors import (
    BatchSendError,
    BusError,
    BusNotStartedError,
    BusUnavailableError,
    InvalidTopologyError,
    NoSuchDeadLetterError,
    UnsupportedByBusError,
    WrongEventLoopError,
)
from events.integration.brokering.first_connection import FirstConnection
from events.integration.bus import IntegrationEventBus
from events.integration.event import IntegrationEvent
from events.integration.health import Backlog, BusHealth
from events.integration.message import DeadLetter, Message
from events.integration.observation import current_observer, system_of
from events.integration.paging import all_found, check_limit, ids_of
from events.integration.pipeline.crashes import FEWEST
from events.integration.pipeline.lifecycle import LifecycleLock, calling, first_of
from events.integration.pipeline.middleware import Middleware, Middlewares
from events.integration.pipeline.registry import ConsumerRegistry, check
from events.integration.pipeline.sender import Sender
from events.integration.topology import (
    Consumer,
    IntegrationEventBusRegistration,
    RetryPolicy,
    Topic,
)
from events.integration.transport import BacklogSource, DeadLetterStore, Transport

__all__ = ["BusOptions", "TransportIntegrationEventBus"]


class BusOptions(TypedDict, total=False):
    """The options that every bus over a transport takes. Times are in seconds, sizes in bytes.

    - `source` names this service in each event (the CloudEvents attribute, a URI reference);
      `"/events"`.
    - `middlewares` run around each attempt to handle an event, the first one outermost; none. A
      `ManagedMiddleware` is started and stopped with the bus.
    - `retry` is the policy of registrations that name none; `RetryPolicy()`.
    - `send_timeout` is how long `send` waits for the broker; 10.
    - `connect_timeout` is how long `startup` tries to connect before it raises
      `BusUnavailableError`, and how long each later attempt may take; where the broker refuses the
      credentials, it raises at once; 5.
    - `startup_timeout` is how long `startup` may take in all; 30.
    - `wait_for_broker` has `startup` wait for a broker that is down or refuses, for
      `startup_timeout` (with `math.inf`, for ever), instead of raising; `False`.
    - `shutdown_grace` is how long `shutdown` lets running handlers go on; 30.
    - `max_body_size`: beyond it `send` raises, and what arrives is a dead letter; 1 MiB.
    - `max_crashes`: with a broker, an event that ended its process so often in a row is a dead
      letter, or before, if no attempt is left: from the third on, each is one; 5, and not below 3.
    """

    source: str
    middlewares: Sequence[Middleware]
    retry: RetryPolicy | None
    send_timeout: float
    connect_timeout: float
    startup_timeout: float
    wait_for_broker: bool
    shutdown_grace: float
    max_body_size: int
    max_crashes: int


class TransportIntegrationEventBus(IntegrationEventBus):
    """An `IntegrationEventBus` over any `Transport`, which it owns; see `BusOptions`."""

    def __init__(  # noqa: PLR0913 - options, all by keyword
        self,
        transport: Transport,
        registrations: Iterable[IntegrationEventBusRegistration] | None = None,
        *,
        source: str = "/events",
        middlewares: Sequence[Middleware] = (),
        retry: RetryPolicy | None = None,
        send_timeout: float = 10.0,
        connect_timeout: float = 5.0,
        startup_timeout: float = 30.0,
        wait_for_broker: bool = False,
        shutdown_grace: float = 30.0,
        max_body_size: int = 1 << 20,
        max_crashes: int = 5,
    ) -> None:
        super().__init__(registrations)
        self.transport = transport
        given: object = retry
        if not (given is None or isinstance(given, RetryPolicy)):
            raise InvalidTopologyError(
                repr(self),
                f"retry must be a RetryPolicy, as in RetryPolicy(attempts=3), not {given!r}",
            )
        for name, number in {
            "send_timeout": send_timeout,
            "connect_timeout": connect_timeout,
            "startup_timeout": startup_timeout,
            "shutdown_grace": shutdown_grace,
            "max_body_size": max_body_size,
        }.items():
            if not _is_amount(number):
                raise InvalidTopologyError(
                    repr(self), f"{name} must be a number from 0 on, not {number!r}"
                )
        if not _is_amount(max_crashes) or max_crashes < FEWEST:
            raise InvalidTopologyError(
                repr(self),
                f"max_crashes must be at least {FEWEST}, not {max_crashes!r}: fewer deaths of a "
                f"process do not tell which of its events it was",
            )
        self._middlewares = Middlewares(middlewares)
        self._consumers = ConsumerRegistry(
            transport,
            middlewares=self._middlewares,
            retry=retry or RetryPolicy(),
            max_body_size=max_body_size,
            max_crashes=max_crashes,
        )
        self._startup_timeout = startup_timeout
        self._connection = FirstConnection(
            transport, repr(self), timeout=connect_timeout, wait=wait_for_broker
        )
        self._shutdown_grace = shutdown_grace
        self._sender = Sender(
            transport, repr(self), source=source, timeout=send_timeout, max_body_size=max_body_size
        )
        self._lifecycle = LifecycleLock()
        self._started = False
        self._loop: asyncio.AbstractEventLoop | None = None  # the one it was started in

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    # --- lifecycle ----------------------------------------------------------------------------

    async def startup(self) -> None:
        """Connect and start the registered consumers.

        Returns when all of them receive. Raises `BusUnavailableError` if the broker cannot be
        reached within `startup_timeout`, `InvalidTopologyError` for a registration that cannot
        work; then nothing is left running, and it may be called again.
        """
        async with self._lifecycle:
            if self._started:
                self._require_own_loop("start")
                return
            self._loop = asyncio.get_running_loop()
            for index, registration in enumerate(self.registrations):
                check(registration, self.registrations[:index])
            try:
                async with asyncio.timeout(self._startup_timeout):
                    await self._connection.open()
                    await self._middlewares.startup()
                    self._started = True
                    for registration in tuple(self.registrations):
                        await self._subscribe_unless_gone(registration)
            except BaseException as error:
                why = self._connection.waits_because
                await self._stop(grace=0)
                if isinstance(error, TimeoutError):
                    reason = f"startup took longer than {self._startup_timeout:g} s"
                    if why is not None:
                        reason = f"{reason}: {why}"
                    raise BusUnavailableError(repr(self), reason) from error
                raise

    async def shutdown(self, *, grace: float | None = None) -> None:
        """Stop the consumers, let running handlers end, then disconnect.

        Handlers that outlast the grace (`shutdown_grace` if None) are cancelled, and their events
        are delivered again, to this consumer's name, wherever it runs next; a broadcast keeps none.
        Called again meanwhile, the shorter grace counts. Cancelled, it grants no more of it, and
        ends when they have.
        """
        if self._started:
            self._require_own_loop("shut down")
        self._refuse_from_handler("shutdown")
        grace = self._shutdown_grace if grace is None else grace
        self._consumers.hurry(grace)
        async with self._lifecycle:
            if self._started:
                await self._stop(grace)

    async def _stop(self, grace: float) -> None:
        try:
            await self._consumers.close_all(grace)
        except asyncio.CancelledError:
            await self._consumers.close_all(0)
            raise
        finally:
            self._started = False
            self._consumers.clear()
            try:
                await self._middlewares.shutdown()
            finally:
                await self.transport.close()

    async def run(
        self, *, signals: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT)
    ) -> None:
        """Start, serve until one of the signals comes, then shut down. Another ends the grace.

        Raises `ConsumerStoppedError` if a consumer ends that nobody stopped, so that the process
        exits with an error instead of living on deaf. Cancelling it shuts down as well.
        """
        stop = asyncio.Event()

        def on_signal() -> None:
            if stop.is_set():  # as of somebody who presses Ctrl-C again
                self._consumers.hurry(0)
            stop.set()

        with calling(on_signal, on=signals):
            try:
                # Who starts waits for a broker, perhaps for long: a signal ends that, too.
                await first_of(stop.wait(), self.startup())
                if not stop.is_set():
                    await first_of(stop.wait(), self._consumers.watch())
            finally:
                await self.shutdown()

    def health(self) -> BusHealth:
        """Say whether the bus is connected and its consumers live; cheap enough for a probe."""
        error: str | None = getattr(self.transport, "error", None)  # not every transport knows
        return BusHealth(
            started=self._started,
            connected=self._started and self.transport.connected,
            consumers=self._consumers.health(),
            error=error if self._started else None,
        )

    async def backlog(
        self, consumer: Consumer | str, *, topics: Iterable[Topic] | None = None
    ) -> Backlog:
        """Ask the broker what waits for a consumer, of the topics that it is registered on here.

        For a consumer of other processes, name its topics. Raises `InvalidTopologyError` if there
        are none, `UnsupportedByBusError` where the bus cannot tell, `BusNotStartedError`,
        `BusUnavailableError`.
        """
        name = _name(consumer)
        self._require_started(f"tell the backlog of {name}")
        if not isinstance(self.transport, BacklogSource):
            cure = "ask the broker's own tools, or use a durable bus"
            raise UnsupportedByBusError(self, "a backlog", cure)
        if topics is None:
            topics = [each.topic for each in self.registrations if each.consumer.name == name]
        names = [topic.name for topic in topics]
        if not names:
            cure = "it is not registered on this bus: name its topics, as in topics=[USERS]"
            raise InvalidTopologyError(f"backlog of {name!r}", cure)
        return await self.transport.backlog(name, names)

    # --- consumers ----------------------------------------------------------------------------

    async def register(self, registration: IntegrationEventBusRegistration) -> None:
        """Add a registration; on a started bus, return when it receives.

        Raises `InvalidTopologyError` if it could not work, or if its consumer is registered on its
        topic already: two would each skip what only the other wants.
        """
        async with self._lifecycle:
            check(registration, self.registrations)
            await self._consumers.wait_until_free(registration)
            if self._started:
                self._require_own_loop("register a consumer")
                await self._consumers.subscribe(registration)
            await super().register(registration)

    async def unregister(self, registration: IntegrationEventBusRegistration) -> None:
        """Stop a registration and return when its running handlers have ended.

        It is this one, or the one of the same consumer and topic.
        What waits for the consumer at the broker stays there. Handlers that outlast
        `shutdown_grace` are cancelled, and their events delivered again, except by a broadcast,
        which keeps none. Raises `InvalidTopologyError` if there is none.
        """
        registration = self._registered(registration)
        if self._started:
            self._require_own_loop("unregister a consumer")
        self._refuse_from_handler("unregister", only=registration)
        self.registrations.remove(registration)
        await self._consumers.close(registration, self._shutdown_grace)

    async def _subscribe_unless_gone(self, registration: IntegrationEventBusRegistration) -> None:
        """Subscribe for `startup`, during which `unregister` may be called."""
        if registration in self.registrations:
            await self._connection.need(partial(self._consumers.subscribe, registration))
            if registration not in self.registrations:
                await self._consumers.close(registration, 0)

    def _refuse_from_handler(
        self, verb: str, only: IntegrationEventBusRegistration | None = None
    ) -> None:
        if self._consumers.runs(asyncio.current_task(), only):
            raise UnsupportedByBusError(
                self,
                f"{verb} from inside a handler that it would wait for",
                f"use asyncio.create_task(bus.{verb}(...)) there",
            )

    # --- sending ------------------------------------------------------------------------------

    async def send(
        self,
        topic: Topic,
        event: IntegrationEvent,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> None:
        """Return when the broker has taken responsibility for the event.

        `key` groups events whose order matters to those who read it. `id` is for sending again
        what a `SendOutcomeUnknownError` named; else one is made. Raises `BusUnavailableError` if
        the broker has not taken the event within `send_timeout`, `SendOutcomeUnknownError` if it
        may have, `MessageTooLargeError`, `EventEncodeError`, `BusNotStartedError`. Cancelled, it
        may or may not have been sent.
        """
        self._require_started(f"send {type(event).__qualname__}")
        await self._sender.send(self._sender.encode(topic, event, key, headers, id))

    async def send_many(
        self,
        topic: Topic,
        events: Iterable[IntegrationEvent],
        *,
        key: Callable[[Any], str | None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send events in order, many in flight at once, and return when the broker has them all.

        `key` makes each event's key. Nothing is sent if one of them cannot be encoded. Raises
        `BatchSendError` with what became of those that were not taken; the others were.
        """
        self._require_started("send events")
        encode = self._sender.encode
        messages = [encode(topic, event, key and key(event), headers) for event in events]
        observer = current_observer()
        if observer is not None:
            messages = [observer.created(message) for message in messages]
        outcomes = await self.forward(messages)
        failures = {index: error for index, error in enumerate(outcomes) if error is not None}
        if failures:
            raise BatchSendError(repr(self), len(outcomes), failures)

    async def forward(self, messages: Sequence[Message]) -> list[BusError | None]:
        """Send messages that are encoded already, and say of each what became of it.

        For relays: None where the broker has taken responsibility, else the error that `send` would
        have raised. They leave in order, many in flight at once.
        """
        self._require_started("forward messages")
        return await self._sender.send_all(messages)

    def _require_started(self, doing: str) -> None:
        if not self._started:
            raise BusNotStartedError(self, doing)
        self._require_own_loop(doing)

    def _require_own_loop(self, doing: str) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise WrongEventLoopError(self, doing)

    # --- dead letters -------------------------------------------------------------------------

    async def dead_letters(
        self, consumer: Consumer | str, *, limit: int = 100, after: str | None = None
    ) -> list[DeadLetter]:
        """Return up to `limit` of the consumer's dead letters, oldest first.

        `after` is the id of the last one of the page before. Raises `ValueError` on a limit below
        1, `UnsupportedByBusError` where the bus keeps none, `BusNotStartedError`.
        """
        check_limit(f"dead letters of {_name(consumer)} on {self!r}", limit)
        store, name = self._dead_letter_store("list dead letters"), _name(consumer)
        return list(await store.read(name, limit=limit, after=after))

    async def redrive(self, consumer: Consumer | str, letters: Iterable[DeadLetter | str]) -> int:
        """Send dead letters back to that consumer alone, attempts starting anew.

        Takes dead letters or their ids, or one alone, and returns how many there were. Raises
        `NoSuchDeadLetterError` for those that are not there, after sending back the rest.
        """
        store, name, ids = self._dead_letter_store("redrive"), _name(consumer), ids_of(letters)
        found = await store.redrive(name, ids)
        if (observer := current_observer()) is not None:
            observer.redriven(name, len(found), system_of(self.transport))
        return all_found(ids, found, partial(NoSuchDeadLetterError, name))

    async def discard(self, consumer: Consumer | str, letters: Iterable[DeadLetter | str]) -> int:
        """Remove dead letters for good; otherwise as `redrive`."""
        store, name, ids = self._dead_letter_store("discard"), _name(consumer), ids_of(letters)
        found = await store.discard(name, ids)
        if (observer := current_observer()) is not None:
            observer.discarded(name, len(found), system_of(self.transport))
        return all_found(ids, found, partial(NoSuchDeadLetterError, name))

    def _dead_letter_store(self, doing: str) -> DeadLetterStore:
        self._require_started(doing)
        if self.transport.dead_letters is None:
            cure = "use a durable bus, or look for what was dropped in the log"
            raise UnsupportedByBusError(self, "dead letters", cure)
        return self.transport.dead_letters


def _is_amount(given: object) -> bool:
    # A bool is an int, and `send_timeout=True` is a slip; NaN is no amount either.
    return isinstance(given, int | float) and not isinstance(given, bool) and given >= 0


def _name(consumer: Consumer | str) -> str:
    return consumer if isinstance(consumer, str) else consumer.name
