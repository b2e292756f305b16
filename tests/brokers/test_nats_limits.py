"""What an operator's limits and permissions do to a bus on NATS: servers are configured so."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats
import pytest

from events.errors import (
    BusError,
    BusUnavailableError,
    SendOutcomeUnknownError,
    SendRefusedError,
)
from events.integration import IntegrationEventBusRegistration, RetryPolicy, Topic
from events.integration.implementation.nats import NatsIntegrationEventBus, NatsTransport
from events.integration.implementation.nats._driver import Incoming
from events.integration.implementation.nats._leases import Leases
from events.testing import eventually
from events.testing.contracts import Numbered, Probe
from tests.brokers.nats_server import NatsServer

TOPIC = Topic("limits")
AUDIT = Topic("audit")
TIMEOUT = 60  # seconds; nothing here takes them, but for a machine that is busy


@contextmanager
def server_with(folder: Path, config: str) -> Generator[NatsServer]:
    server = NatsServer(folder / "nats")
    server.config = config
    with server:
        yield server


def bus_at(server: NatsServer, *registrations: Any, user: str = "", **options: Any) -> Any:
    settings: dict[str, Any] = {"lease": 2.0, "send_timeout": TIMEOUT, **options}
    url = server.url.replace("//", f"//{user}:{user}@") if user else server.url
    return NatsIntegrationEventBus(url, registrations, **settings)


def registered(probe: Probe, **options: Any) -> IntegrationEventBusRegistration:
    return IntegrationEventBusRegistration(probe, TOPIC, [Numbered], **options)


def lines(caplog: pytest.LogCaptureFixture, *words: str) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    return [line for line in found if all(word in line for word in words)]


async def make_consumer(server: NatsServer, name: str, **config: Any) -> None:
    client = await nats.connect(server.url)
    body = {"durable_name": name, "deliver_policy": "all", "ack_policy": "explicit", **config}
    request = json.dumps({"stream_name": TOPIC.name, "config": body}).encode()
    subject = f"$JS.API.CONSUMER.DURABLE.CREATE.{TOPIC.name}.{name}"
    answer = json.loads((await client.request(subject, request)).data)
    assert "error" not in answer, answer
    await client.close()


# --- pulls ------------------------------------------------------------------------------------


async def test_pulls_keep_to_the_server_s_limit(tmp_path: Path) -> None:
    config = "jetstream { store_dir: STORE, limits { max_request_batch: 100 } }"
    probe = Probe("limited")
    with server_with(tmp_path, config) as server:
        async with bus_at(server, registered(probe, concurrency=10)) as bus:
            await bus.send_many(TOPIC, map(Numbered, range(6_000)))
            await eventually(
                lambda: len(probe.numbers) == 6_000, TIMEOUT, saw=lambda: len(probe.numbers)
            )
            assert bus.health().healthy


@pytest.mark.parametrize(
    "limits",
    [
        {"max_batch": 3},
        {"max_expires": 4 * 10**9},
        {"max_waiting": 1},
        {"max_bytes": 400},
        {"max_batch": 2, "max_expires": 10**9, "max_bytes": 300},
    ],
    ids=str,
)
async def test_pulls_keep_to_the_limits_of_a_consumer(
    tmp_path: Path, limits: dict[str, int]
) -> None:
    probe = Probe("limited")
    with server_with(tmp_path, "jetstream { store_dir: STORE }") as server:
        async with bus_at(server) as bus:
            await bus.send(TOPIC, Numbered(0))
            await make_consumer(server, "limited", **limits)
            # Larger than some of these limits: let through one by one.
            await bus.send(TOPIC, Numbered(1, text="x" * 1_000))
            await bus.send_many(TOPIC, map(Numbered, range(2, 500)))
            await bus.register(registered(probe, concurrency=10))
            await eventually(
                lambda: len(probe.numbers) == 500, TIMEOUT, saw=lambda: len(probe.numbers)
            )
            assert bus.health().healthy


async def test_a_server_s_duplicate_window_is_no_reason_not_to_start(tmp_path: Path) -> None:
    config = 'jetstream { store_dir: STORE, limits { duplicate_window: "1m" } }'
    probe = Probe("limited")
    with server_with(tmp_path, config) as server:
        async with bus_at(server, registered(probe)) as bus:
            await bus.send(TOPIC, Numbered(1))
            await eventually(lambda: probe.numbers == [1], TIMEOUT)


async def test_large_messages_are_not_read_ahead_by_the_hundred(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server cuts off who has more than `max_pending` on the way to it."""
    probe = Probe("large")
    with server_with(tmp_path, "jetstream { store_dir: STORE }\nmax_pending: 12MB") as server:
        async with bus_at(server) as sender:
            retry = RetryPolicy(attempts=1)
            # The window is wide by then.
            await sender.send_many(TOPIC, map(Numbered, range(3_000)))
            for number in range(3_000, 3_080):
                await sender.send(TOPIC, Numbered(number, text="x" * 900_000))
            async with bus_at(server, registered(probe, concurrency=4, retry=retry)) as bus:
                await eventually(
                    lambda: len(probe.numbers) == 3_080, TIMEOUT, saw=lambda: len(probe.numbers)
                )
                assert not await bus.dead_letters("large")
    assert not lines(caplog, "lost its connection")


async def test_what_was_on_its_way_and_never_begun_is_no_attempt(tmp_path: Path) -> None:
    probe = Probe("cut")
    with server_with(tmp_path, "jetstream { store_dir: STORE }") as server:
        async with bus_at(server, lease=1.0) as bus:
            await bus.send(TOPIC, Numbered(1))
            await make_consumer(server, "cut", ack_wait=10**9)
            client = await nats.connect(server.url)
            pull = await client.jetstream().pull_subscribe_bind("cut", TOPIC.name)
            assert len(await pull.fetch(1)) == 1
            await client.close()  # as of a connection that is lost with all that is on its way
            await bus.register(registered(probe, retry=RetryPolicy(attempts=1)))
            await eventually(lambda: probe.numbers == [1], TIMEOUT)
            assert not await bus.dead_letters("cut")
    assert probe.attempts == [1]


# --- storage ----------------------------------------------------------------------------------

ONE_STREAM = """
jetstream { store_dir: STORE, max_file: 500MB }
accounts { A {
    jetstream { max_streams: 1, max_file: 400MB, max_mem: 10MB }
    users: [{user: shop, password: shop}]
} }
"""


async def test_attempts_are_counted_where_they_cannot_be_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail_twice(_event: Any) -> None:
        if probe.attempts[-1] < 3:
            raise ValueError("twice")

    probe = Probe("full", fail_twice)
    retry = RetryPolicy(attempts=4, delay=0.05, in_place=0, jitter=0)
    with server_with(tmp_path, ONE_STREAM) as server:
        async with bus_at(server, registered(probe, retry=retry), user="shop") as bus:
            await bus.send_many(TOPIC, map(Numbered, range(5)))
            await eventually(lambda: sorted(probe.numbers) == [0, 1, 2, 3, 4], TIMEOUT)
    assert Counter(probe.attempts) == {1: 5, 2: 5, 3: 5}
    (line,) = lines(caplog, "attempts cannot be counted")
    assert "maximum number of streams" in line


async def test_full_storage_does_not_stop_what_is_delivered_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = asyncio.Event()
    config = "jetstream { store_dir: STORE, max_file: 6MB }"
    with server_with(tmp_path, config) as server:
        probe = Probe("full", lambda _: gate.wait())
        accepted = 0
        async with bus_at(server, registered(probe, concurrency=2)) as bus:
            while await _sent(bus, TOPIC, "x" * 50_000):
                accepted += 1
            await bus.shutdown(grace=0)
        gate.set()
        probe = Probe("full")
        retry = RetryPolicy(attempts=1)
        async with bus_at(server, registered(probe, concurrency=2, retry=retry)):
            await eventually(
                lambda: len(probe.numbers) == accepted, TIMEOUT, saw=lambda: len(probe.numbers)
            )
    assert accepted > 20
    assert lines(caplog, "attempts cannot be counted")


def test_what_a_stream_made_again_delivers_is_not_taken_for_what_runs() -> None:
    answers: list[Any] = []

    class Writer:
        def put_with_others(self, item: Any) -> None:
            answers.append(item.subject)

    def delivered(stored: int) -> Incoming:
        reply = f"$JS.ACK.limits.lost.1.1.1.{stored}.0"
        return Incoming("limits.numbered", reply, b"{}", None)

    link: Any = None
    writer: Any = Writer()
    leases = Leases(link, writer, "limits.lost", 30.0)
    running, new = leases.take(delivered(1_000)), leases.take(delivered(2_000))
    assert running is not None
    assert new is not None, "it has the first one's sequence, and is another message"
    leases.done(running)
    assert answers == ["$JS.ACK.limits.lost.1.1.1.1000.0"]
    assert len(leases) == 1


async def test_a_server_that_lost_its_storage_is_furnished_again(tmp_path: Path) -> None:
    async def fail(_event: Any) -> None:
        raise ValueError("always")

    probe = Probe("lost", fail)
    retry = RetryPolicy(attempts=2, delay=0.01, in_place=0)
    with server_with(tmp_path, "jetstream { store_dir: STORE }") as server:
        async with bus_at(server, registered(probe, retry=retry)) as bus:
            await bus.send(TOPIC, Numbered(1))
            await eventually(lambda: _letters(bus, 1), TIMEOUT)
            await asyncio.to_thread(server.kill)
            shutil.rmtree(server.folder / "data")
            await asyncio.to_thread(server.start)
            await eventually(lambda: bus.health().healthy, TIMEOUT)
            await bus.send(TOPIC, Numbered(2))
            await eventually(lambda: _letters(bus, 1), TIMEOUT)
            (letter,) = await bus.dead_letters("lost")
            assert b'"number":2' in letter.message.body
            assert letter.attempts == 2
    assert probe.attempts == [1, 2, 1, 2]


async def _letters(bus: NatsIntegrationEventBus, count: int) -> bool:
    try:
        return len(await bus.dead_letters("lost")) == count
    except BusError:
        return False


# --- permissions ------------------------------------------------------------------------------


def permitted(*denied: str, password: str = "shop", verb: str = "publish") -> str:
    users = [
        "{user: admin, password: admin}",
        f"{{user: shop, password: {password}, "
        f"permissions: {{ {verb}: {{ deny: {json.dumps(denied)} }} }} }}",
    ]
    return f"jetstream {{ store_dir: STORE }}\nauthorization {{ users: [{', '.join(users)}] }}"


async def test_a_topic_that_is_not_permitted_fails_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    probe = Probe("others")
    with server_with(tmp_path, permitted("audit.>")) as server:
        async with bus_at(server, user="admin") as admin:
            await admin.send(AUDIT, Numbered(0))
        async with bus_at(server, registered(probe), user="shop", send_timeout=TIMEOUT) as bus:
            outcomes = await asyncio.gather(
                *(bus.send(topic, Numbered(n)) for n in range(20) for topic in (TOPIC, AUDIT)),
                return_exceptions=True,
            )
            assert outcomes[0::2] == [None] * 20
            for refused in outcomes[1::2]:
                assert isinstance(refused, SendRefusedError)
                assert refused.topic == "audit"
                assert "permissions violation" in refused.reason
            await eventually(lambda: sorted(probe.numbers) == list(range(20)), TIMEOUT)
            health = bus.health()
            assert health.connected
            assert "audit" in (health.error or "")
            server.reload(permitted("nothing"))
            await eventually(lambda: _sent(bus, AUDIT), TIMEOUT)
            assert bus.health().error is None
    assert len(lines(caplog, "cannot send to topic 'audit'")) == 1


async def test_a_stream_that_may_not_be_looked_at_is_refused_at_once(tmp_path: Path) -> None:
    with server_with(tmp_path, permitted("$JS.API.STREAM.INFO.audit")) as server:
        async with bus_at(server, user="shop", send_timeout=TIMEOUT) as bus:
            with pytest.raises(SendRefusedError, match="permissions violation.*stream.info.audit"):
                await bus.send(AUDIT, Numbered(1))
            await bus.send(TOPIC, Numbered(1))


async def _sent(bus: NatsIntegrationEventBus, topic: Topic, text: str = "") -> bool:
    try:
        await bus.send(topic, Numbered(99, text=text))
    except (SendRefusedError, SendOutcomeUnknownError, BusUnavailableError):
        return False
    return True


@pytest.mark.parametrize(
    "denied",
    [("$JS.API.INFO",), ("$JS.API.CONSUMER.INFO.>",), ("$JS.API.CONSUMER.DURABLE.CREATE.>",)],
)
async def test_startup_tells_what_is_not_permitted(tmp_path: Path, denied: tuple[str]) -> None:
    with server_with(tmp_path, permitted(*denied)) as server:
        bus = bus_at(server, registered(Probe("denied")), user="shop", send_timeout=TIMEOUT)
        with pytest.raises(BusUnavailableError, match="permissions violation"):
            await bus.startup()


async def test_startup_tells_that_no_answer_may_be_read(tmp_path: Path) -> None:
    with server_with(tmp_path, permitted("_INBOX.>", verb="subscribe")) as server:
        bus = bus_at(server, user="shop", send_timeout=TIMEOUT)
        with pytest.raises(BusUnavailableError, match="permissions violation for subscription"):
            await bus.startup()


@pytest.mark.parametrize(
    ("denied", "said"),
    [
        (
            "$JS.API.CONSUMER.MSG.NEXT.>",
            "it has no permission to request events: permissions violation",
        ),
        (
            "$JS.ACK.>",
            "it may not acknowledge events, which are redelivered: permissions violation",
        ),
    ],
)
async def test_what_a_consumer_may_not_do_is_in_its_health_and_once_in_the_log(
    tmp_path: Path, denied: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    probe = Probe("denied")
    with server_with(tmp_path, permitted(denied)) as server:
        async with bus_at(server, registered(probe), user="shop", lease=3.0) as bus:
            await bus.send_many(TOPIC, map(Numbered, range(10)))
            await eventually(lambda: said in (bus.health().consumers[0].error or ""), TIMEOUT)
            assert not bus.health().healthy
            assert bus.health().connected
            server.reload(permitted("nothing"))
            await eventually(lambda: len(probe.numbers) == 10, TIMEOUT)
            await eventually(lambda: bus.health().healthy, TIMEOUT)
    assert len(lines(caplog, said)) == 1
    assert sorted(probe.numbers) == list(range(10))


async def test_each_reason_for_which_it_is_not_connected_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "events.integration")
    probe = Probe("changed")
    with server_with(tmp_path, permitted("nothing")) as server:
        async with bus_at(server, registered(probe), user="shop", send_timeout=15.0) as bus:
            await bus.send(TOPIC, Numbered(1))
            server.reload(permitted("nothing", password="changed"))
            await eventually(lambda: _error(bus, "authorization violation"), TIMEOUT)
            assert not bus.health().connected
            with pytest.raises(BusUnavailableError, match="(?i)authorization violation"):
                await bus.send(TOPIC, Numbered(2))
            server.reload(permitted("_INBOX.>", verb="subscribe"))
            await eventually(lambda: _error(bus, "violation for subscription"), TIMEOUT)
            assert not bus.health().connected
            server.reload(permitted("nothing"))
            await eventually(lambda: bus.health().healthy, TIMEOUT)
            assert bus.health().error is None
            await bus.send(TOPIC, Numbered(3))
            await eventually(lambda: 3 in probe.numbers, TIMEOUT)
    assert lines(caplog, "lost its connection", "authorization")
    assert lines(caplog, "is still not connected", "violation for subscription")
    assert len(lines(caplog, "NATS at")) <= 8


def _error(bus: NatsIntegrationEventBus, words: str) -> bool:
    return words in (bus.health().error or "").lower()


async def test_rights_that_are_taken_away_are_noticed_while_it_runs(tmp_path: Path) -> None:
    with server_with(tmp_path, permitted("nothing")) as server:
        async with bus_at(server, registered(Probe("revoked")), user="shop") as bus:
            await bus.send(TOPIC, Numbered(1))
            server.reload(permitted("_INBOX.>", verb="subscribe"))
            await eventually(lambda: _error(bus, "violation for subscription"), TIMEOUT)
            assert not bus.health().connected
            assert isinstance(bus.transport, NatsTransport)
            server.reload(permitted("nothing"))
            await eventually(lambda: bus.health().healthy, TIMEOUT)
