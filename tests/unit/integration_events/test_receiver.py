"""What a delivery is settled as, through the bus and a transport moved by hand."""

import asyncio
import gc
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from events.errors import EventEncodeError
from events.integration import (
    Delivery,
    EventHandlerConsumer,
    Handle,
    IncomingEvent,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    Message,
    RetryPolicy,
    Topic,
    correlate,
    current_delivery,
)
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.message import Ack, Reject, Release, Retry
from tests.unit.integration_events.manual import FEATURES, ManualSubscribed, ManualTransport

TOPIC = Topic("orders")


@dataclass
class Ordered(IntegrationEvent):
    type = "receiver.ordered"
    version = 2
    number: int


BODY = b'{"type":"receiver.ordered","version":2,"number":7}'
Handler = Callable[[Ordered], Awaitable[None]]


@asynccontextmanager
async def receiving(
    handler: Handler,
    *,
    transport: ManualTransport | None = None,
    options: dict[str, Any] | None = None,
    **registration: Any,
) -> AsyncGenerator[ManualSubscribed]:
    transport = transport or ManualTransport()
    consumer = EventHandlerConsumer("billing", {Ordered: handler})
    registrations = [
        IntegrationEventBusRegistration(consumer, TOPIC, consumer.handlers.keys(), **registration)
    ]
    async with TransportIntegrationEventBus(transport, registrations, **(options or {})):
        yield transport.subscribed[0]


def failing(times: int, error: BaseException, calls: list[Delivery | None]) -> Handler:
    async def handler(event: Ordered) -> None:
        calls.append(current_delivery())
        if len(calls) <= times:
            raise error

    return handler


async def test_a_handled_event_is_acknowledged() -> None:
    seen: list[Ordered] = []

    async def handler(event: Ordered) -> None:
        seen.append(event)

    async with receiving(handler) as subscribed:
        assert await subscribed.deliver(BODY) == Ack()
    assert seen == [Ordered(7)]


async def test_a_type_that_is_not_wanted_is_acknowledged_unseen() -> None:
    async with receiving(failing(0, ValueError(), [])) as subscribed:
        assert await subscribed.deliver(b'{"type":"other","version":1}') == Ack()


async def test_each_type_that_is_skipped_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "events.integration")
    async with receiving(failing(0, ValueError(), [])) as subscribed:
        for type_ in ("other", "other", "another"):
            body = b'{"type":"%s","version":1}' % type_.encode()
            assert await subscribed.deliver(body, {"ce-type": type_}) == Ack()
    skipped = [record for record in caplog.records if "skips" in record.message]
    assert [vars(record)["event_type"] for record in skipped] == ["other", "another"]
    assert skipped[0].message == (
        "billing skips other id-1 from topic 'orders', "
        "and all others of its type: its registration does not name the type"
    )


async def test_what_is_skipped_where_everybody_gets_everything_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "events.integration")
    transport = ManualTransport(msgspec.structs.replace(FEATURES, delivery="broadcast"))
    async with receiving(failing(0, ValueError(), []), transport=transport) as subscribed:
        assert await subscribed.deliver(b"{}", {"ce-type": "other"}) == Ack()
    assert [record for record in caplog.records if "skips" in record.message] == []


async def test_the_log_does_not_grow_by_types_that_are_made_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "events.integration")
    async with receiving(failing(0, ValueError(), [])) as subscribed:
        for number in range(150):
            assert await subscribed.deliver(b"{}", {"ce-type": f"made-up-{number}"}) == Ack()
    assert len([record for record in caplog.records if "skips" in record.message]) == 100


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"\xff\x00", "MalformedEventError: not an integration event"),
        (b'{"type":"receiver.ordered","version":9,"number":1}', "UnknownEventError: unknown event"),
        (b'{"type":"receiver.ordered","version":2}', "InvalidEventError: Ordered at $"),
    ],
)
async def test_what_cannot_be_decoded_is_a_dead_letter_at_once(
    body: bytes, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[Delivery | None] = []
    async with receiving(failing(0, ValueError(), calls)) as subscribed:
        settlement = await subscribed.deliver(body)
    assert isinstance(settlement, Reject)
    assert (settlement.reason, settlement.attempts) == ("undecodable", 1)
    assert settlement.error.startswith(error)
    assert calls == []
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert (
        "billing gives up on id-1 from topic 'orders' at attempt 1, undecodable" in record.message
    )


@pytest.mark.parametrize(
    ("keeps", "said"), [(True, "leaves a dead letter"), (False, "drops it")], ids=["keeps", "drops"]
)
async def test_the_log_says_what_becomes_of_an_event_that_is_given_up(
    keeps: bool, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    transport = ManualTransport(msgspec.structs.replace(FEATURES, dead_letters=keeps))
    retry = RetryPolicy(attempts=1)
    handler = failing(1, ValueError("no"), [])
    async with receiving(handler, retry=retry, transport=transport) as subscribed:
        await subscribed.deliver(BODY)
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert record.message.endswith(f"at attempt 1, retries-exhausted, and {said}: ValueError: no")


async def test_the_log_names_the_event_by_its_type_where_the_headers_tell_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    retry = RetryPolicy(attempts=2, delay=0)
    async with receiving(failing(2, ValueError("no"), []), retry=retry) as subscribed:
        await subscribed.deliver(BODY, {"ce-type": "receiver.ordered"})
    failed, gave_up = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "billing failed on receiver.ordered id-1 from topic 'orders'" in failed.message
    assert "billing gives up on receiver.ordered id-1 from topic 'orders'" in gave_up.message
    assert vars(failed)["event_type"] == "receiver.ordered"


async def test_a_body_over_the_limit_is_a_dead_letter_undecoded() -> None:
    async with receiving(failing(0, ValueError(), []), options={"max_body_size": 10}) as subscribed:
        settlement = await subscribed.deliver(BODY)
    assert settlement == Reject("too-large", f"its body has {len(BODY)} bytes, the limit is 10", 1)


async def test_what_ended_its_process_at_its_last_attempt_is_a_dead_letter_unseen() -> None:
    calls: list[Delivery | None] = []
    policy = RetryPolicy(attempts=3)
    async with receiving(failing(0, ValueError(), calls), retry=policy) as subscribed:
        assert await subscribed.deliver(BODY, attempt=3) == Ack()
        settlement = await subscribed.deliver(BODY, attempt=4)
    assert isinstance(settlement, Reject)
    assert (settlement.reason, settlement.attempts) == ("crashed", 3)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("policy", "deaths"),
    [
        (RetryPolicy(), 5),  # what `max_crashes` says
        (RetryPolicy(attempts=2), 4),  # or when no attempt is left: the first two are none
        (RetryPolicy(attempts=1), 3),
    ],
)
async def test_what_ends_its_process_time_after_time_is_a_dead_letter_unseen(
    policy: RetryPolicy, deaths: int
) -> None:
    calls: list[Delivery | None] = []
    async with receiving(failing(0, ValueError(), calls), retry=policy) as subscribed:
        for crashes in range(deaths):
            assert await subscribed.deliver(BODY, crashes=crashes) == Ack()
        settlement = await subscribed.deliver(BODY, crashes=deaths)
    assert isinstance(settlement, Reject)
    assert (settlement.reason, settlement.attempts) == ("crashed", deaths)
    assert f"{deaths} times in a row" in settlement.error
    assert [call and call.attempt for call in calls] == [1, 1, *range(1, deaths - 1)]


async def test_a_crash_after_failures_leaves_them_counted() -> None:
    calls: list[Delivery | None] = []
    policy = RetryPolicy(attempts=5, delay=60, jitter=0)
    async with receiving(failing(9, ValueError(), calls), retry=policy) as subscribed:
        assert await subscribed.deliver(BODY, attempt=3, crashes=2) == Retry(540.0, 3)
        assert await subscribed.deliver(BODY, attempt=3, crashes=3) == Retry(600.0, 4)
        settlement = await subscribed.deliver(BODY, attempt=4, crashes=4)
    assert isinstance(settlement, Reject)
    assert (settlement.reason, settlement.attempts) == ("crashed", 7)


async def test_max_crashes_is_an_option_of_the_bus() -> None:
    options = {"max_crashes": 3}
    async with receiving(failing(0, ValueError(), []), options=options) as subscribed:
        assert await subscribed.deliver(BODY, crashes=2) == Ack()
        assert isinstance(await subscribed.deliver(BODY, crashes=3), Reject)


async def test_short_delays_wait_in_place_and_count_attempts() -> None:
    calls: list[Delivery | None] = []
    policy = RetryPolicy(attempts=3, delay=0.001)
    async with receiving(failing(2, ValueError("no"), calls), retry=policy) as subscribed:
        assert await subscribed.deliver(BODY) == Ack()
    assert [call and call.attempt for call in calls] == [1, 2, 3]
    assert {call and call.id for call in calls} == {"id-1"}


async def test_long_delays_go_through_the_broker() -> None:
    calls: list[Delivery | None] = []
    policy = RetryPolicy(attempts=3, delay=60, jitter=0, in_place=1)
    async with receiving(failing(9, ValueError("no"), calls), retry=policy) as subscribed:
        assert await subscribed.deliver(BODY) == Retry(60.0, 1)
        assert await subscribed.deliver(BODY, attempt=2) == Retry(180.0, 2)
        assert placeless(await subscribed.deliver(BODY, attempt=3)) == Reject(
            "retries-exhausted", "ValueError: no", 3
        )


async def test_every_delay_waits_in_place_where_the_broker_cannot_delay() -> None:
    calls: list[Delivery | None] = []
    features = msgspec.structs.replace(FEATURES, delayed_retry=False)
    policy = RetryPolicy(attempts=2, delay=0.001, in_place=0)
    async with receiving(
        failing(9, ValueError("no"), calls), retry=policy, transport=ManualTransport(features)
    ) as subscribed:
        assert isinstance(await subscribed.deliver(BODY), Reject)
    assert len(calls) == 2


async def test_the_registrations_policy_wins_over_the_buss() -> None:
    calls: list[Delivery | None] = []
    async with receiving(
        failing(9, ValueError("no"), calls),
        retry=RetryPolicy(attempts=1),
        options={"retry": RetryPolicy(attempts=5, delay=0)},
    ) as subscribed:
        assert isinstance(await subscribed.deliver(BODY), Reject)
    assert len(calls) == 1


async def test_an_error_that_no_retry_can_mend_is_a_dead_letter_at_once() -> None:
    calls: list[Delivery | None] = []
    policy = RetryPolicy(dead_letter_on=(LookupError,))
    async with receiving(failing(9, KeyError("x"), calls), retry=policy) as subscribed:
        assert placeless(await subscribed.deliver(BODY)) == Reject(
            "unretryable", "KeyError: 'x'", 1
        )


def placeless(settlement: object) -> Reject:
    """Return a rejection without the second line of its error, which names a place in this file."""
    assert isinstance(settlement, Reject)
    first, second, *rest = settlement.error.split("\n")
    assert re.fullmatch(r"at \S*test_receiver\.py:\d+ in \w+", second)
    return Reject(settlement.reason, "\n".join([first, *rest]), settlement.attempts)


async def test_a_dead_letter_keeps_the_notes_of_its_error() -> None:
    error = ValueError("no stock")
    error.add_note("of article 7")
    policy = RetryPolicy(attempts=1)
    async with receiving(failing(9, error, []), retry=policy) as subscribed:
        settlement = await subscribed.deliver(BODY)
    assert placeless(settlement) == Reject(
        "retries-exhausted", "ValueError: no stock\nof article 7", 1
    )


async def test_a_dead_letter_names_what_a_task_group_gathered() -> None:
    error = ExceptionGroup("in a TaskGroup", [ValueError("no stock"), KeyError("price")])
    policy = RetryPolicy(attempts=1)
    async with receiving(failing(9, error, []), retry=policy) as subscribed:
        settlement = await subscribed.deliver(BODY)
    text = (
        "ExceptionGroup: in a TaskGroup (2 sub-exceptions)\nValueError: no stock\nKeyError: 'price'"
    )
    assert placeless(settlement) == Reject("retries-exhausted", text, 1)


@pytest.mark.parametrize(
    ("also", "reason"), [([], "unretryable"), ([ConnectionError()], "retries-exhausted")]
)
async def test_a_group_of_nothing_but_hopeless_errors_is_hopeless(
    also: list[Exception], reason: str
) -> None:
    nested = ExceptionGroup("inner", [LookupError(), KeyError()])
    error = ExceptionGroup("outer", [nested, *also])
    policy = RetryPolicy(attempts=2, delay=0, dead_letter_on=(LookupError,))
    async with receiving(failing(9, error, []), retry=policy) as subscribed:
        settlement = await subscribed.deliver(BODY)
    assert isinstance(settlement, Reject)
    assert settlement.reason == reason


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class Outcome(BaseException):
    """As `pytest.fail` raises, for one."""


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UnprintableError(), "UnprintableError: its text raised ZeroDivisionError"),
        (Outcome("no"), "Outcome: no"),
        (GeneratorExit(), "GeneratorExit"),
        (BaseExceptionGroup("two", [Outcome(), ValueError()]), "BaseExceptionGroup: two (2 sub"),
        (ValueError("a\0b\ud800"), "ValueError: a\\x00b\\ud800"),
    ],
)
async def test_whatever_a_handler_raises_is_its_failure(error: BaseException, text: str) -> None:
    calls: list[Delivery | None] = []
    policy = RetryPolicy(attempts=2, delay=0)
    async with receiving(failing(9, error, calls), retry=policy) as subscribed:
        settlement = await subscribed.deliver(BODY)
    assert isinstance(settlement, Reject)
    assert (settlement.reason, settlement.attempts) == ("retries-exhausted", 2)
    assert settlement.error.startswith(text)
    assert len(calls) == 2


async def test_of_an_error_without_a_text_the_place_is_kept() -> None:
    async def wait_in_vain(_event: Ordered) -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    async with receiving(wait_in_vain, retry=RetryPolicy(attempts=1)) as subscribed:
        settlement = await subscribed.deliver(BODY)
    assert isinstance(settlement, Reject)
    place = rf"{__name__}, .*wait_in_vain, line {wait_in_vain.__code__.co_firstlineno + 1}"
    text = f"TimeoutError: it has no text, and was raised in {place}"
    assert re.fullmatch(text, placeless(settlement).error)


def test_a_handler_that_the_event_loop_leaves_behind_has_not_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed: list[BaseException] = []

    async def handler(event: Ordered) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            closed.append(error)
            raise

    async def begin() -> None:
        transport = ManualTransport()
        consumer = EventHandlerConsumer("billing", {Ordered: handler})
        registration = IntegrationEventBusRegistration(consumer, TOPIC, [Ordered])
        bus = TransportIntegrationEventBus(transport, [registration])
        await bus.startup()
        task = asyncio.create_task(transport.subscribed[0].deliver(BODY))
        await begun.wait()
        tasks.append(task)

    begun = asyncio.Event()
    tasks: list[asyncio.Task[object]] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()
    tasks.clear()
    del loop
    gc.collect()
    assert [type(error) for error in closed] == [GeneratorExit]
    assert [record for record in caplog.records if "failed on" in record.message] == []


async def test_of_an_endless_error_its_beginning_and_its_end_are_kept() -> None:
    error = ValueError("a" * 1_000_000 + "z")
    policy = RetryPolicy(attempts=1)
    async with receiving(failing(9, error, []), retry=policy) as subscribed:
        settlement = await subscribed.deliver(BODY)
    assert isinstance(settlement, Reject)
    assert len(settlement.error) < 11_000
    assert "a ... 990,013 characters ... a" in settlement.error
    assert settlement.error.endswith("z")


async def test_a_handler_that_cancels_its_own_task_has_failed_and_is_not_repeated_hot() -> None:
    async def handler(event: Ordered) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    policy = RetryPolicy(attempts=2, delay=0.5, jitter=0)
    async with receiving(handler, retry=policy) as subscribed:
        assert await subscribed.deliver(BODY) == Retry(0.5, 1)
        settlement = await subscribed.deliver(BODY, attempt=2)
    assert isinstance(settlement, Reject)
    assert settlement.attempts == 2


async def test_a_cancellation_inside_the_handler_is_a_failure_and_no_shutdown() -> None:
    async def handler(event: Ordered) -> None:
        gone = asyncio.get_running_loop().create_future()
        gone.cancel()
        await gone

    async with receiving(handler, retry=RetryPolicy(attempts=1)) as subscribed:
        settlement = await subscribed.deliver(BODY)
    assert isinstance(settlement, Reject)
    assert "awaited something that was cancelled" in settlement.error


async def test_a_handler_that_the_shutdown_cancels_is_released_and_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun = asyncio.Event()

    async def handler(event: Ordered) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with receiving(handler, options={"shutdown_grace": 0.01}) as subscribed:
        delivered = asyncio.create_task(subscribed.deliver(BODY))
        await begun.wait()
    assert await delivered == Release()
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert record.message == (
        "EventHandlerConsumer('billing') on Topic(name='orders'): 1 handlers exceeded the grace of "
        "0.01 s; their events are delivered again"
    )


async def test_a_cancelled_handler_is_released_whatever_it_makes_of_the_cancellation() -> None:
    begun = asyncio.Event()
    calls: list[Delivery | None] = []

    async def handler(event: Ordered) -> None:
        calls.append(current_delivery())
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("as some drivers say it") from None

    policy = RetryPolicy(attempts=9, delay=0)
    async with receiving(handler, retry=policy, options={"shutdown_grace": 0}) as subscribed:
        delivered = asyncio.create_task(subscribed.deliver(BODY))
        await begun.wait()
    assert await delivered == Release()
    assert len(calls) == 1


@pytest.mark.parametrize(("delayed_retry", "settled"), [(True, Retry(0.0, 2)), (False, Release())])
async def test_the_attempts_that_failed_before_a_shutdown_are_not_forgotten(
    *, delayed_retry: bool, settled: Retry | Release
) -> None:
    third = asyncio.Event()

    async def handler(event: Ordered) -> None:
        delivery = current_delivery()
        assert delivery is not None
        if delivery.attempt < 3:
            raise ValueError
        third.set()
        await asyncio.Event().wait()

    features = msgspec.structs.replace(FEATURES, delayed_retry=delayed_retry)
    async with receiving(
        handler,
        transport=ManualTransport(features),
        retry=RetryPolicy(delay=0),
        options={"shutdown_grace": 0},
    ) as subscribed:
        delivered = asyncio.create_task(subscribed.deliver(BODY))
        await third.wait()
    assert await delivered == settled


@pytest.mark.parametrize(
    ("delayed_retry", "settled"), [(True, Retry(3_600.0, 1)), (False, Release())]
)
async def test_a_shutdown_while_an_attempt_waits_in_place_gives_the_event_back(
    *, delayed_retry: bool, settled: Retry | Release
) -> None:
    failed = asyncio.Event()

    async def handler(event: Ordered) -> None:
        failed.set()
        raise ValueError

    features = msgspec.structs.replace(FEATURES, delayed_retry=delayed_retry)
    async with receiving(
        handler,
        transport=ManualTransport(features),
        retry=RetryPolicy(delay=3_600, max_delay=3_600, in_place=3_600, jitter=0),
        options={"shutdown_grace": 0},
    ) as subscribed:
        delivered = asyncio.create_task(subscribed.deliver(BODY))
        await failed.wait()
    assert await delivered == settled


BAD_KEYS: list[Callable[[Any], object]] = [
    lambda event: event.missing,
    lambda event: [event.number],  # unhashable
]


@pytest.mark.parametrize("order_by", BAD_KEYS)
async def test_an_order_by_that_fails_is_treated_as_a_handler_that_fails(
    order_by: Callable[[Any], object],
) -> None:
    calls: list[Delivery | None] = []
    async with receiving(
        failing(0, ValueError(), calls),
        order_by=order_by,
        concurrency=2,
        retry=RetryPolicy(attempts=2, delay=0),
    ) as subscribed:
        settlement = await subscribed.deliver(BODY)
    assert isinstance(settlement, Reject)
    assert settlement.attempts == 2
    assert "Error: " in settlement.error
    assert calls == []


class Incomparable:
    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        raise TypeError("ask me not")


async def test_keys_that_cannot_be_compared_fail_as_a_handler_does() -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def handler(event: Ordered) -> None:
        begun.set()
        await gate.wait()

    policy = RetryPolicy(attempts=1)
    async with receiving(
        handler, order_by=lambda _: Incomparable(), concurrency=2, retry=policy
    ) as subscribed:
        first = asyncio.create_task(subscribed.deliver(BODY))
        await begun.wait()
        settlement = await subscribed.deliver(BODY)
        gate.set()
        assert await first == Ack()
    assert isinstance(settlement, Reject)
    assert placeless(settlement).error == "TypeError: ask me not"


class MuteError(Exception):
    def __repr__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize("error", [MuteError, GeneratorExit, asyncio.CancelledError, Outcome])
async def test_an_event_that_cannot_be_made_is_a_dead_letter_whatever_it_raises(
    error: type[BaseException],
) -> None:
    @dataclass
    class Choosy(IntegrationEvent):
        type = "receiver.choosy"
        version = 1

        def __post_init__(self) -> None:
            raise error

        number: int = 0

    async def unreachable(event: Choosy) -> None:
        raise AssertionError(event)

    consumer = EventHandlerConsumer("billing", {Choosy: unreachable})
    registration = IntegrationEventBusRegistration(consumer, TOPIC, [Choosy])
    transport = ManualTransport()
    async with TransportIntegrationEventBus(transport, [registration]):
        settlement = await transport.subscribed[0].deliver(
            b'{"type":"receiver.choosy","version":1,"number":1}'
        )
    IntegrationEvent.registry.remove(Choosy)
    assert isinstance(settlement, Reject)
    assert (settlement.reason, settlement.attempts) == ("undecodable", 1)


async def test_a_handler_cannot_change_the_headers_that_its_next_attempt_sees() -> None:
    seen: list[dict[str, str]] = []

    async def handler(event: Ordered) -> None:
        delivery = current_delivery()
        assert delivery is not None
        seen.append(dict(delivery.headers))
        delivery.headers["tenant"] = "other"  # type: ignore[index]

    policy = RetryPolicy(attempts=2, delay=0)
    async with receiving(handler, retry=policy) as subscribed:
        settlement = await subscribed.deliver(BODY, {"tenant": "acme"})
    assert isinstance(settlement, Reject)
    assert settlement.error.startswith("TypeError: 'mappingproxy' object")
    assert seen == [{"tenant": "acme"}] * 2


async def test_without_headers_the_envelope_is_opened_and_bare_json_is_read_too() -> None:
    seen: list[tuple[str, str | None, Ordered]] = []

    async def handler(event: Ordered) -> None:
        delivery = current_delivery()
        assert delivery is not None
        seen.append((delivery.id, delivery.headers.get("tenant"), event))

    transport = ManualTransport(msgspec.structs.replace(FEATURES, headers=False))
    consumer = EventHandlerConsumer("billing", {Ordered: handler})
    registration = IntegrationEventBusRegistration(consumer, TOPIC, [Ordered])
    async with TransportIntegrationEventBus(transport, [registration]) as bus:
        await bus.send(TOPIC, Ordered(1), headers={"tenant": "acme"}, id="event-1")
        assert await transport.subscribed[0].deliver(transport.published[0].body) == Ack()
        assert await transport.subscribed[0].deliver(BODY) == Ack()
    assert seen == [("event-1", "acme", Ordered(1)), ("id-1", None, Ordered(7))]


async def test_middlewares_run_around_each_attempt_the_first_one_outermost() -> None:
    steps: list[str] = []

    class Step:
        def __init__(self, name: str) -> None:
            self.name = name

        async def __call__(self, incoming: IncomingEvent, call_next: Handle, /) -> None:
            steps.append(f"{self.name} in, attempt {incoming.delivery.attempt}")
            try:
                await call_next(incoming)
            finally:
                steps.append(f"{self.name} out")

    calls: list[Delivery | None] = []
    async with receiving(
        failing(1, ValueError(), calls),
        retry=RetryPolicy(delay=0),
        options={"middlewares": [Step("outer"), Step("inner")]},
    ) as subscribed:
        await subscribed.deliver(BODY)
    inner = [["inner in, attempt 1", "inner out"], ["inner in, attempt 2", "inner out"]]
    assert steps == [
        "outer in, attempt 1", *inner[0], "outer out", "outer in, attempt 2", *inner[1], "outer out",
    ]  # fmt: skip


async def test_a_middleware_that_does_not_go_on_has_handled_the_event() -> None:
    async def stop(incoming: IncomingEvent, call_next: Handle, /) -> None:
        assert incoming.event == Ordered(7)
        assert incoming.registration.topic == TOPIC

    calls: list[Delivery | None] = []
    async with receiving(
        failing(9, ValueError(), calls), options={"middlewares": [stop]}
    ) as subscribed:
        assert await subscribed.deliver(BODY) == Ack()
    assert calls == []


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("outer", [0, 1], ids=["innermost", "around-another"])
async def test_a_middleware_that_forgets_to_await_loses_no_event(outer: int) -> None:
    async def forgets(incoming: IncomingEvent, call_next: Handle, /) -> None:
        call_next(incoming)  # pyright: ignore[reportUnusedCoroutine]

    async def awaits(incoming: IncomingEvent, call_next: Handle, /) -> None:
        await call_next(incoming)

    calls: list[Delivery | None] = []
    middlewares = [forgets, *[awaits] * outer]
    async with receiving(
        failing(0, ValueError(), calls), options={"middlewares": middlewares}
    ) as subscribed:
        settlement = await subscribed.deliver(BODY)
    assert isinstance(settlement, Reject)
    assert settlement.reason == "unretryable"
    assert "it called `call_next` without awaiting it: write `await call_" in settlement.error
    assert "forgets" in settlement.error
    assert calls == []


async def test_what_a_handler_sends_inherits_correlation_and_names_its_cause() -> None:
    transport = ManualTransport()
    bus: TransportIntegrationEventBus

    async def handler(event: Ordered) -> None:
        if event.number == 7:
            await bus.send(TOPIC, Ordered(8))

    consumer = EventHandlerConsumer("billing", {Ordered: handler})
    registration = IntegrationEventBusRegistration(consumer, TOPIC, [Ordered])
    async with TransportIntegrationEventBus(transport, [registration]) as bus:
        await bus.send(TOPIC, Ordered(6))
        await transport.subscribed[0].deliver(BODY, {"ce-correlationid": "registration-1"})
    first, second = transport.published
    assert first.headers["ce-correlationid"] == first.id
    assert second.headers["ce-correlationid"] == "registration-1"
    assert second.headers["ce-causationid"] == "id-1"
    assert current_delivery() is None


async def test_a_correlation_id_may_come_from_outside_and_within_a_handler_too() -> None:
    transport = ManualTransport()
    bus: TransportIntegrationEventBus
    seen: list[tuple[str, str | None]] = []

    async def handler(event: Ordered) -> None:
        delivery = current_delivery()
        assert delivery is not None
        seen.append((delivery.correlation_id, delivery.causation_id))
        await bus.send(TOPIC, Ordered(2))
        with correlate("inner"):
            await bus.send(TOPIC, Ordered(3))

    consumer = EventHandlerConsumer("billing", {Ordered: handler})
    with correlate("of the registering code"):
        bus = TransportIntegrationEventBus(transport)
        await bus.startup()
        await bus.register(IntegrationEventBusRegistration(consumer, TOPIC, [Ordered]))
    with correlate("Anfrage Nr. 7 \u00fc"):
        await bus.send(TOPIC, Ordered(1))
    await transport.subscribed[0].deliver(BODY, transport.published[0].headers)
    await transport.subscribed[0].deliver(BODY)
    await bus.send(TOPIC, Ordered(4))
    await bus.shutdown()
    first, second, third = (m.headers["ce-correlationid"] for m in transport.published[:3])
    assert first == second == "Anfrage%20Nr.%207%20%C3%BC"
    assert third == "inner"
    assert seen == [("Anfrage Nr. 7 \u00fc", None), ("id-1", None)]
    assert transport.published[-1].headers["ce-correlationid"] == transport.published[-1].id


async def test_a_correlation_id_that_is_none_is_named() -> None:
    async with TransportIntegrationEventBus(ManualTransport()) as bus:
        with (
            correlate(""),
            pytest.raises(
                EventEncodeError, match="the correlation id must be a non-empty str, not ''"
            ),
        ):
            await bus.send(TOPIC, Ordered(1))


async def test_log_lines_have_what_they_are_about_as_fields(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[Delivery | None] = []
    policy = RetryPolicy(attempts=2, delay=0)
    async with receiving(failing(1, ValueError("no"), calls), retry=policy) as subscribed:
        await subscribed.deliver(BODY, {"ce-correlationid": "registration-1"})
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    fields = {"consumer": "billing", "topic": "orders", "event_id": "id-1", "attempt": 1}
    assert fields.items() <= record.__dict__.items()
    assert record.__dict__["correlation_id"] == "registration-1"
    assert record.message == (
        "billing failed on id-1 from topic 'orders', attempt 1 of 2, again in 0 s: ValueError: no"
    )


@pytest.mark.parametrize(
    ("headers", "correlation_id"),
    [({}, "id-1"), ({"ce-correlationid": "r%C3%A9gistration"}, "régistration")],
)
def test_a_message_and_its_delivery_name_the_same_correlation(
    headers: dict[str, str], correlation_id: str
) -> None:
    assert Message("users", "t", "id-1", b"", headers).correlation_id == correlation_id
    assert Delivery("users", "c", "id-1", b"", headers).correlation_id == correlation_id


def test_a_message_is_frozen() -> None:
    message = Message("t", "type", "id", b"", {})
    with pytest.raises(AttributeError):
        message.body = b"other"  # type: ignore[misc]
