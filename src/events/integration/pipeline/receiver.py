"""`Receiver` turns the deliveries of one registration into settlements.

    delivery --> too large, undecodable, unknown version --> Reject, at once
        |------> its process died repeatedly      --> Reject
        |------> a type that the registration does not name --> Ack; in groups, logged once
        |------> decoded --> its turn --> middlewares, consumer --> returned --> Ack
                                 ^             | raised
                                 '--- Wait --- judge --> Retry or Reject

A cancellation by the shutdown is not a failure: the delivery is released, whatever the handler
raises then. Every other exception of a handler is a failure, including an unexpected cancellation
and a `GeneratorExit`. Only `KeyboardInterrupt` and `SystemExit` propagate to the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from functools import partial
from traceback import format_exception
from types import MappingProxyType

from msgspec.structs import replace

from events.errors import EventDecodeError, InvalidEventError, MalformedEventError
from events.integration import observation
from events.integration._compression import unpacked
from events.integration.cloudevents import JSON, attribute, unwrapped
from events.integration.codec import read_object
from events.integration.event import IntegrationEvent
from events.integration.message import (
    CRASHED,
    TOO_LARGE,
    UNDECODABLE,
    Ack,
    Delivery,
    Reject,
    Release,
    Retry,
    Settlement,
    set_current_delivery,
)
from events.integration.observation import Observer
from events.integration.personal import has_personal_data, masked
from events.integration.pipeline.crashes import UNCOUNTED, counted, is_given_up, times_tried
from events.integration.pipeline.middleware import IncomingEvent, Middleware, compose
from events.integration.pipeline.place import with_place
from events.integration.pipeline.retry import Wait, describe, judge
from events.integration.pipeline.scheduler import DeliveryScheduler
from events.integration.serialization import EventDecoder
from events.integration.topology import IntegrationEventBusRegistration, RetryPolicy
from events.integration.transport import TransportFeatures

_SKIPPED_TYPES = 100  # that are logged, each once: a foreign producer may use any number of types
_ACK = Ack()
_ENDING = (KeyboardInterrupt, SystemExit)  # of the process

logger = logging.getLogger("events.integration")


class Receiver:
    """Turn deliveries of one registration into settlements."""

    def __init__(  # noqa: PLR0913 - all but three by keyword
        self,
        registration: IntegrationEventBusRegistration,
        scheduler: DeliveryScheduler,
        decoder: EventDecoder,
        *,
        middlewares: Sequence[Middleware],
        retry: RetryPolicy,
        max_body_size: int,
        max_crashes: int,
        features: TransportFeatures,
        system: str = "other",
    ) -> None:
        self._registration = registration
        self._scheduler = scheduler
        self._decoder = decoder
        self._handle = compose(middlewares, self._consume)
        self._system = system
        self._retry = retry
        self._max_body_size = max_body_size
        self._max_crashes = max_crashes
        self._delayed_retry = features.delayed_retry
        self._enveloped = not features.headers
        self._shares = features.delivery == "group"
        self._keeps = features.dead_letters
        self._skipped: set[str | None] = set()

    def deliver(self, delivery: Delivery) -> asyncio.Future[Settlement]:
        """Decode the delivery and schedule it; see `events.integration.transport.Deliver`."""
        if delivery.crashes > UNCOUNTED:
            delivery = counted(delivery)
        observer = observation.in_place
        if observer is None:
            return self._deliver(delivery)
        observer.received(delivery, self._system)
        settled = self._deliver(delivery)
        settled.add_done_callback(partial(self._settled, observer, delivery))
        return settled

    def _settled(
        self, observer: Observer, delivery: Delivery, settled: asyncio.Future[Settlement]
    ) -> None:
        if not settled.cancelled():
            observer.settled(delivery, self._system, settled.result())

    def _deliver(self, delivery: Delivery) -> asyncio.Future[Settlement]:
        if self._enveloped or not self._is_usual(delivery):
            try:
                delivery = self._opened(delivery)
            except MalformedEventError as error:
                return _done(self._reject(delivery, UNDECODABLE, describe(error)))
            refused = self._refused(delivery)
            if refused is not None:
                return _done(refused)
        try:
            event = self._decoder.decode(delivery)
        except _ENDING:
            raise
        except BaseException as error:  # noqa: BLE001 - the user's own classes and upcasters run here
            return _done(self._reject(delivery, UNDECODABLE, _undecodable(error, delivery.body)))
        if event is None:
            self._log_skipped(delivery)
            return _done(_ACK)
        # Read-only, so that a later attempt sees unchanged headers.
        if type(delivery.headers) is not MappingProxyType:
            delivery = replace(delivery, headers=MappingProxyType(delivery.headers))
        order_by = self._registration.order_by
        if order_by is None:
            return self._scheduler.submit(self._attempts, None, delivery, event, None)
        return self._in_order(delivery, event, order_by)

    def _in_order(
        self,
        delivery: Delivery,
        event: IntegrationEvent,
        order_by: Callable[[IntegrationEvent], Hashable],
    ) -> asyncio.Future[Settlement]:
        try:
            return self._scheduler.submit(self._attempts, order_by(event), delivery, event, None)
        except _ENDING:
            raise
        except BaseException as error:  # noqa: BLE001 - the user's key: it fails like a handler
            return self._scheduler.submit(self._attempts, None, delivery, event, error)

    def _is_usual(self, delivery: Delivery) -> bool:
        """Return whether there is nothing to unpack and nothing to refuse, as usual."""
        headers = delivery.headers
        try:
            return (
                delivery.attempt == 1
                and not delivery.crashes
                and headers["ce-id"] == delivery.id
                and headers["content-type"] == JSON
                and "ce-type" in headers
                and "content-encoding" not in headers
                and len(delivery.body) <= self._max_body_size
            )
        except KeyError:
            return False

    def _opened(self, delivery: Delivery) -> Delivery:
        """Return the delivery uncompressed, without its envelope, with its CloudEvents id."""
        if "content-encoding" in delivery.headers:
            delivery = unpacked(delivery, self._max_body_size)
        delivery = unwrapped(delivery, expected=self._enveloped)
        said = delivery.headers.get("ce-id")
        if said is not None and said != delivery.id:  # that of the broker or its client
            delivery = replace(delivery, id=attribute(delivery.headers, "id") or delivery.id)
        return delivery

    def _refused(self, delivery: Delivery) -> Reject | None:
        """Reject a delivery that must not be decoded."""
        size = len(delivery.body)
        if size > self._max_body_size:
            text = f"its body has {size:,} bytes, the limit is {self._max_body_size:,}"
            return self._reject(delivery, TOO_LARGE, text)
        redelivered = delivery.attempt > 1 or delivery.crashes
        if redelivered and is_given_up(delivery, self._retry, self._max_crashes):
            # Decoding it may kill the process.
            text = "no attempt is left, and the last one ended without a result, as in a crash"
            if delivery.crashes:
                times = f"{delivery.crashes} times in a row"
                text = f"its process died, or was blocked for too long, {times}"
            delivery = replace(delivery, attempt=times_tried(delivery))
            return self._reject(delivery, CRASHED, text)
        return None

    async def _attempts(
        self, delivery: Delivery, event: IntegrationEvent, failure: BaseException | None
    ) -> Settlement:
        """Attempt to handle the event until it is handled, rejected or returned to the broker."""
        first = delivery.attempt
        while True:
            try:
                if failure is not None:
                    raise failure
                set_current_delivery(delivery)
                incoming = IncomingEvent(event, delivery, self._registration)
                observer = observation.in_place
                await (
                    self._handle(incoming)
                    if observer is None
                    else self._observed(incoming, observer)
                )
            except BaseException as error:
                if self._ends(error):
                    raise
                task = asyncio.current_task()
                if self._scheduler.has_cancelled(task):
                    return self._returned(0.0, delivery.attempt - 1, first)
                verdict = self._judge(delivery, _as_failure(error), event)
                cancelled = isinstance(error, asyncio.CancelledError)
                over = cancelled and task is not None and bool(task.cancelling())
            else:
                return _ACK
            if not isinstance(verdict, Wait):
                return verdict
            if over:  # other code cancelled this task, so it cannot wait
                return self._returned(verdict.seconds, delivery.attempt, first)
            try:
                await asyncio.sleep(verdict.seconds)
            except asyncio.CancelledError:
                return self._returned(verdict.seconds, delivery.attempt, first)
            delivery = replace(delivery, attempt=delivery.attempt + 1)

    async def _observed(self, incoming: IncomingEvent, observer: Observer) -> None:
        event, trace = incoming.event, self._registration.trace
        mask = partial(masked, event_class=type(event), holder=event)
        with observer.processing(incoming.delivery, self._system, trace, mask):
            await self._handle(incoming)

    def _returned(self, after: float, attempt: int, first: int) -> Settlement:
        """Return it to the broker; attempts that failed before still count."""
        if attempt < first or not self._delayed_retry:
            return Release()
        return Retry(after, attempt)

    def _consume(self, incoming: IncomingEvent) -> Awaitable[None]:
        return incoming.registration.consumer.on_event(incoming.event)

    def _log_skipped(self, delivery: Delivery) -> None:
        """Log each skipped type once: another consumer handles it, or a handler is missing.

        With broadcast delivery every registration gets it, so that is not logged.
        """
        if not self._shares:
            return
        said = delivery.headers.get("ce-type")
        if said in self._skipped or len(self._skipped) >= _SKIPPED_TYPES:
            return
        self._skipped.add(said)
        logger.info(
            "%s skips %s from topic %r, and all others of its type: its registration does not "
            "name the type",
            delivery.consumer,
            _named(delivery),
            delivery.topic,
            extra=_fields(delivery),
        )

    def _ends(self, error: BaseException) -> bool:
        """Return whether the process ends, or the event loop has ended and closes this coroutine.

        Every other exception is a failure of the handler.
        """
        if not isinstance(error, GeneratorExit):
            return isinstance(error, _ENDING)
        try:
            return not self._scheduler.runs(asyncio.current_task())
        except RuntimeError:  # no event loop runs
            return True

    def _judge(
        self, delivery: Delivery, error: BaseException, event: IntegrationEvent
    ) -> Wait | Retry | Reject:
        verdict = judge(self._retry, error, delivery.attempt, delayed_retry=self._delayed_retry)
        if isinstance(verdict, Reject):
            return self._reject_event(delivery, verdict, error, event)
        observer = observation.in_place
        if observer is not None and isinstance(verdict, Wait):
            observer.retrying(delivery, self._system, verdict.seconds)
        logger.warning(
            "%s failed on %s from topic %r, attempt %d of %d, again in %.3g s: %s",
            delivery.consumer,
            _named(delivery),
            delivery.topic,
            delivery.attempt,
            self._retry.attempts,
            verdict.seconds if isinstance(verdict, Wait) else verdict.after,
            masked(describe(error), type(event), event),
            extra=_fields(delivery),
        )
        return verdict

    def _reject_event(
        self, delivery: Delivery, verdict: Reject, error: BaseException, event: IntegrationEvent
    ) -> Reject:
        """Reject it with the error and its place, without personal data of the event."""
        text, hidden = verdict.error, None
        if has_personal_data(type(event)):
            text = masked(text, type(event), event)
            written = "".join(format_exception(error))
            hidden = masked(written, type(event), event)
            hidden = None if hidden == written else hidden
        if hidden is None:
            self._reject(delivery, verdict.reason, text, error)
        else:
            self._reject(delivery, verdict.reason, f"{text}\n{hidden}")
        return Reject(verdict.reason, with_place(text, error, type(event)), delivery.attempt)

    def _reject(
        self, delivery: Delivery, reason: str, text: str, error: BaseException | None = None
    ) -> Reject:
        logger.error(
            "%s gives up on %s from topic %r at attempt %d, %s, and %s: %s",
            delivery.consumer,
            _named(delivery),
            delivery.topic,
            delivery.attempt,
            reason,
            "leaves a dead letter" if self._keeps else "drops it",
            text,
            exc_info=error,
            extra=_fields(delivery),
        )
        return Reject(reason, text, delivery.attempt)


def _undecodable(error: BaseException, body: bytes) -> str:
    """Describe a decoding error without the personal data in the body."""
    text = describe(error)
    if isinstance(error, InvalidEventError):
        with suppress(EventDecodeError):
            text = masked(text, error.event_class, read_object(body))
    return text


def _named(delivery: Delivery) -> str:
    """Return the event's type and id; only the id if no header has the type."""
    type_ = attribute(delivery.headers, "type")
    return delivery.id if type_ is None else f"{type_} {delivery.id}"


def _fields(delivery: Delivery) -> dict[str, object]:
    """Return the fields for structured loggers."""
    return {
        "consumer": delivery.consumer,
        "topic": delivery.topic,
        "event_type": attribute(delivery.headers, "type"),
        "event_id": delivery.id,
        "correlation_id": delivery.correlation_id,
        "attempt": delivery.attempt,
    }


def _as_failure(error: BaseException) -> BaseException:
    if not isinstance(error, asyncio.CancelledError):
        return error
    failure = RuntimeError("the handler awaited something that was cancelled")
    failure.__cause__ = error
    return failure


def _done(settlement: Settlement) -> asyncio.Future[Settlement]:
    future: asyncio.Future[Settlement] = asyncio.get_running_loop().create_future()
    future.set_result(settlement)
    return future
