"""The bus over a transport: lifecycle, encoding, sending, consumers, dead letters, written once.

    stopped --startup--> started --shutdown--> stopping --> stopped

`send` works from the end of `startup` until the last handler has ended in `shutdown`, so handlers
can send during the grace. `startup` and `shutdown` exclude each other; `register` waits for both.
All between the two belongs to one event loop; the next `startup` may be in another.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

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
from events.integration.brokering.doing import doing
from events.integration.brokering.first_connection import FirstConnection
from events.integration.bus import IntegrationEventBus
from events.integration.event import IntegrationEvent
from events.integration.health import Backlog, BusHealth
from events.integration.message import DeadLetter, Message
from events.integration.observation import current_observer, system_of
from events.integration.paging import all_found, check_limit, ids_of
from events.integration.pipeline.lifecycle import LifecycleLock, calling, first_of
from events.integration.pipeline.middleware import Middleware, Middlewares
from events.integration.pipeline.options import BusOptions, check_options
from events.integration.pipeline.pausing import PauseWatch
from events.integration.pipeline.registry import ConsumerRegistry, check
from events.integration.pipeline.sender import Sender
from events.integration.serialization import Serializer
from events.integration.topology import (
    Consumer,
    IntegrationEventBusRegistration,
    RetryPolicy,
    Topic,
)
from events.integration.topology.topic import check_name
from events.integration.transport import BacklogSource, DeadLetterStore, PauseStore, Transport

__all__ = ["BusOptions", "TransportIntegrationEventBus"]

logger = logging.getLogger("events.integration")


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
        check_events: bool = True,
        max_crashes: int = 5,
    ) -> None:
        super().__init__(registrations)
        self.transport = transport
        check_options(
            repr(self),
            retry=retry,
            max_crashes=max_crashes,
            send_timeout=send_timeout,
            connect_timeout=connect_timeout,
            startup_timeout=startup_timeout,
            shutdown_grace=shutdown_grace,
            max_body_size=max_body_size,
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
            transport,
            repr(self),
            serializer=Serializer(source, check_events=check_events),
            timeout=send_timeout,
            max_body_size=max_body_size,
        )
        self._lifecycle = LifecycleLock()
        self._pauses: PauseWatch | None = None
        if isinstance(transport, PauseStore):
            self._pauses = PauseWatch(
                transport,
                self._consumers,
                lambda: self.registrations,
                self._lifecycle,
                shutdown_grace,
                connected=lambda: self.transport.connected,
            )
        self._started = False
        self._loop: asyncio.AbstractEventLoop | None = None  # the one it was started in

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @property
    def middlewares(self) -> tuple[Middleware, ...]:
        """Return what runs around each attempt to handle an event, the first one outermost."""
        return tuple(self._middlewares)

    # --- lifecycle ----------------------------------------------------------------------------

    async def startup(self) -> None:
        """Connect and start the registered consumers.

        Returns when all of them receive. Raises `BusUnavailableError` if the broker cannot be
        reached within `startup_timeout`, and `InvalidTopologyError` for a registration that cannot
        work. After an error nothing is running, and `startup` may be called again.
        """
        async with self._lifecycle:
            with doing("start"):
                await self._startup()

    async def _startup(self) -> None:
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
                if self._pauses is not None:
                    await self._pauses.look()
                    self._pauses.begin()
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

        Handlers that exceed the grace (`shutdown_grace` if None) are cancelled. Their events are
        redelivered to this consumer, in any process; a broadcast loses them. If it is called again
        meanwhile, the shorter grace counts. If this call is cancelled, it cancels the handlers
        immediately, and ends when they have ended.
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
            if self._pauses is not None:
                self._pauses.stop()
            await self._consumers.close_all(grace)
        except asyncio.CancelledError:
            await self._consumers.close_all(0)
            raise
        finally:
            self._started = False
            self._consumers.clear()
            try:
                if self._pauses is not None:
                    await self._pauses.end()
                await self._middlewares.shutdown()
            finally:
                await self.transport.close()

    async def run(
        self, *, signals: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT)
    ) -> None:
        """Start, run until one of the signals arrives, then shut down. A second ends the grace.

        Raises `ConsumerStoppedError` if a consumer ends by itself, so that the process exits with
        an error instead of continuing without it. Cancelling this also shuts down.
        """
        stop = asyncio.Event()

        def on_signal() -> None:
            if stop.is_set():  # for example, Ctrl-C was pressed again
                self._consumers.hurry(0)
            stop.set()

        with calling(on_signal, on=signals):
            try:
                # Who starts waits for a broker, perhaps for long: a signal ends that, too.
                await first_of(stop.wait(), self.startup())
                if not stop.is_set():
                    logger.info("%r runs %s; stop it with SIGTERM", self, self._consumers)
                    await first_of(stop.wait(), self._consumers.watch())
            finally:
                await self.shutdown()
                logger.info("%r has stopped", self)

    def health(self) -> BusHealth:
        """Return whether the bus is connected and its consumers alive; cheap enough for a probe."""
        error: str | None = getattr(self.transport, "error", None)  # not every transport knows
        return BusHealth(
            started=self._started,
            connected=self._started and self.transport.connected,
            consumers=self._consumers.health(),
            error=error if self._started else None,
            paused=tuple(sorted({each.consumer.name for each in self._consumers.halted})),
        )

    async def backlog(
        self, consumer: Consumer | str, *, topics: Iterable[Topic] | None = None
    ) -> Backlog:
        """Return what waits at the broker for a consumer, of the topics that it is registered on.

        Pass `topics` for a consumer of other processes. Raises `InvalidTopologyError` without any
        topic, `UnsupportedByBusError` if the bus cannot report it, `BusNotStartedError`, and
        `BusUnavailableError`.
        """
        name = _name(consumer)
        with self._doing(f"tell the backlog of {name!r}"):
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

        Raises `InvalidTopologyError` if it cannot work, or if its consumer is already registered on
        the topic: each of the two would skip the events of the other.
        """
        async with self._lifecycle:
            check(registration, self.registrations)
            await self._consumers.wait_until_free(registration)
            if self._started:
                with self._doing(f"register {registration}"):
                    name = registration.consumer.name
                    if self._pauses is not None and name not in self._consumer_names():
                        await self._pauses.look(name)
                    await self._subscribe(registration)
            await super().register(registration)

    async def unregister(self, registration: IntegrationEventBusRegistration) -> None:
        """Stop a registration and return when its running handlers have ended.

        It stops this registration, or the one of the same consumer and topic. Events that wait for
        the consumer stay at the broker. Handlers that exceed `shutdown_grace` are cancelled, and
        their events redelivered; a broadcast loses them. Raises `InvalidTopologyError` if it is not
        registered.
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
            await self._connection.need(partial(self._subscribe, registration))
            if registration not in self.registrations:
                await self._consumers.close(registration, 0)

    async def _subscribe(self, registration: IntegrationEventBusRegistration) -> None:
        await (self._pauses or self._consumers).subscribe(registration)

    # --- pausing ------------------------------------------------------------------------------

    async def pause(self, consumer: Consumer | str) -> bool:
        """Pause a consumer in all processes, and over restarts, until `resume`.

        Its running handlers end, none is begun, and its events wait at the broker. Other processes
        notice within five seconds. Returns false if it was already paused. Raises
        `UnsupportedByBusError` where the broker cannot keep it, `BusNotStartedError`,
        `BusUnavailableError`.
        """
        return await self._mark(_name(consumer), "pause", paused=True)

    async def resume(self, consumer: Consumer | str) -> bool:
        """End the pause of a consumer in all processes; otherwise as `pause`."""
        return await self._mark(_name(consumer), "resume", paused=False)

    async def _mark(self, name: str, verb: str, *, paused: bool) -> bool:
        with self._doing(f"{verb} {name!r}"):
            return await self._pauses_of_all("pause a consumer").mark(name, paused=paused)

    async def paused(self, consumers: Iterable[Consumer | str] | None = None) -> frozenset[str]:
        """Return which of these consumers, or of the registered ones, are paused everywhere."""
        what = "tell which consumers are paused"
        names = self._consumer_names() if consumers is None else set(map(_name, consumers))
        with self._doing(what):
            pauses = self._pauses_of_all(what)
            return await pauses.store.paused(names) if names else frozenset()

    def _pauses_of_all(self, what: str) -> PauseWatch:
        if self._pauses is None:
            cure = "unregister it in each process, or use a durable bus"
            raise UnsupportedByBusError(self, f"{what} in all processes", cure)
        return self._pauses

    def _consumer_names(self) -> set[str]:
        return {registration.consumer.name for registration in self.registrations}

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
        """Send an event; return when the broker has taken responsibility for it.

        `key` groups events whose order matters. Pass the `id` of a `SendOutcomeUnknownError` to
        send that event again; by default, a new id is made. Raises `BusUnavailableError` if the
        broker has not taken the event within `send_timeout`, `SendOutcomeUnknownError` if it may
        have, `MessageTooLargeError`, `EventEncodeError`, and `BusNotStartedError`. If this call is
        cancelled, the event may or may not have been sent.
        """
        if not self._started or asyncio.get_running_loop() is not self._loop:
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

        `key` is a function that returns the key of an event. If one of them cannot be encoded,
        nothing is sent. Raises `BatchSendError` with the errors of the events that were not
        accepted; all others were accepted.
        """
        self._require_started("send events")
        encode = self._sender.encode
        messages = [encode(topic, event, key and key(event), headers) for event in events]
        observer = current_observer()
        if observer is not None:
            messages = [observer.created(message) for message in messages]
        outcomes = await self._sender.send_all(messages, checked=observer is None)
        failures = {index: error for index, error in enumerate(outcomes) if error is not None}
        if failures:
            raise BatchSendError(repr(self), len(outcomes), failures)

    async def forward(self, messages: Sequence[Message]) -> list[BusError | None]:
        """Send encoded messages, and report the outcome of each.

        For relays. An outcome is None if the broker has taken responsibility, else the error that
        `send` would raise. They are sent in order, many in flight at once.
        """
        self._require_started("forward messages")
        return await self._sender.send_all(messages)

    def _require_started(self, what: str) -> None:
        if not self._started:
            raise BusNotStartedError(self, what)
        self._require_own_loop(what)

    def _require_own_loop(self, what: str) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise WrongEventLoopError(self, what)

    @contextmanager
    def _doing(self, what: str) -> Generator[None]:
        """Have every error of the state of this bus, or of its broker, say what was tried."""
        self._require_started(what)
        with doing(what):
            yield

    # --- dead letters -------------------------------------------------------------------------

    async def dead_letters(
        self, consumer: Consumer | str, *, limit: int = 100, after: str | None = None
    ) -> list[DeadLetter]:
        """Return up to `limit` of the consumer's dead letters, oldest first.

        `after` is the last id of the previous page. Raises `ValueError` for a limit below 1 or an
        `after` that is no id, `UnsupportedByBusError` if the bus keeps none, and
        `BusNotStartedError`.
        """
        check_limit(f"dead letters of {_name(consumer)} on {self!r}", limit)
        name = _name(consumer)
        with self._dead_letter_store("read the dead letters of", name) as store:
            return list(await store.read(name, limit=limit, after=after))

    async def redrive(self, consumer: Consumer | str, letters: Iterable[DeadLetter | str]) -> int:
        """Send dead letters back to that consumer alone, with a new count of attempts.

        Takes dead letters or their ids, or one alone, and returns how many there were. Raises
        `NoSuchDeadLetterError` for those that are not there, after sending back the rest.
        """
        name, ids = _name(consumer), ids_of(letters)
        with self._dead_letter_store("redrive dead letters of", name) as store:
            found = await store.redrive(name, ids)
        if (observer := current_observer()) is not None:
            observer.redriven(name, len(found), system_of(self.transport))
        return all_found(ids, found, partial(NoSuchDeadLetterError, name))

    async def discard(self, consumer: Consumer | str, letters: Iterable[DeadLetter | str]) -> int:
        """Remove dead letters for good; otherwise as `redrive`."""
        name, ids = _name(consumer), ids_of(letters)
        with self._dead_letter_store("discard dead letters of", name) as store:
            found = await store.discard(name, ids)
        if (observer := current_observer()) is not None:
            observer.discarded(name, len(found), system_of(self.transport))
        return all_found(ids, found, partial(NoSuchDeadLetterError, name))

    @contextmanager
    def _dead_letter_store(self, verb: str, consumer: str) -> Generator[DeadLetterStore]:
        with self._doing(f"{verb} {consumer!r}"):
            if self.transport.dead_letters is None:
                cure = "use a durable bus, or look for what was dropped in the log"
                raise UnsupportedByBusError(self, "dead letters", cure)
            yield self.transport.dead_letters


def _name(consumer: Consumer | str) -> str:
    if not isinstance(consumer, str):
        return consumer.name
    check_name("Consumer", consumer)  # a broker would say of some that it is down
    return consumer
