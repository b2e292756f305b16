"""The supervisor of a connection, with a broker that does as it is bidden."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from events.errors import BusUnavailableError
from events.integration.brokering import supervisor as module
from events.integration.brokering.problems import Outage
from events.integration.brokering.supervisor import NoConnectionError, Supervisor
from events.testing import eventually


class Broker:
    """A `Dialer`: its connections are numbers."""

    def __init__(self) -> None:
        self.fails: BaseException | None = None
        self.hangs = False
        self.dialled = 0
        self.closed: list[int] = []
        self.why: str | None = None

    async def dial(self) -> int:
        self.dialled += 1
        number = self.dialled
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails is not None:
            raise self.fails
        return number

    async def hang_up(self, connection: int) -> None:
        self.closed.append(connection)

    def why_lost(self, connection: int) -> str | None:
        return self.why


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.01)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
async def supervisor(broker: Broker) -> AsyncGenerator[Supervisor[int]]:
    supervisor = Supervisor(broker, Outage("the broker"))
    yield supervisor
    await supervisor.close()


def heard(supervisor: Supervisor[int]) -> list[str]:
    """Return what its listeners hear, from now on."""
    heard: list[str] = []
    supervisor.on_up.append(lambda connection: heard.append(f"up {connection}"))
    supervisor.on_down.append(lambda: heard.append("down"))
    supervisor.on_end.append(lambda error: heard.append(f"end: {error.reason}"))
    return heard


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if line.startswith("the broker")]


async def test_it_is_up_from_its_opening_to_its_closing(
    supervisor: Supervisor[int], broker: Broker
) -> None:
    said = heard(supervisor)
    states = [(supervisor.is_open, supervisor.is_up)]
    await supervisor.open(10)
    await supervisor.open(10)  # which it is
    states.append((supervisor.is_open, supervisor.is_up))
    await supervisor.close()
    await supervisor.close()
    states.append((supervisor.is_open, supervisor.is_up))

    assert states == [(False, False), (True, True), (False, False)]
    assert said == ["up 1", "down"]
    assert broker.closed == [1]
    assert supervisor.reason == "it is closed"


async def test_what_is_lost_is_made_again(
    supervisor: Supervisor[int], broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    said = heard(supervisor)
    await supervisor.open(10)
    supervisor.lose("reset by peer")
    supervisor.lose("reset by peer")  # of the same connection
    at_once = (supervisor.is_up, supervisor.reason, list(said))
    await supervisor.wait_up()

    assert at_once == (False, "the connection was lost: reset by peer", ["up 1", "down"])
    assert said == ["up 1", "down", "up 2"]
    assert broker.closed == [1]
    assert supervisor.reason is None
    lost, again = lines(caplog)
    assert lost == "the broker lost its connection: reset by peer; reconnecting"
    assert again.startswith("the broker is connected again after ")


@pytest.mark.parametrize("look_every", [0.001, None])
async def test_a_loss_is_found_by_looking(broker: Broker, look_every: float | None) -> None:
    supervisor = Supervisor(broker, Outage("the broker"), look_every=look_every)
    await supervisor.open(10)
    broker.why = "it is silent"
    broker.fails = NoConnectionError("refused")
    if look_every is None:
        supervisor.look()
    await eventually(lambda: supervisor.reason == "refused")
    await supervisor.close()


async def test_each_reason_is_reported(
    supervisor: Supervisor[int], broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    await supervisor.open(10)
    broker.fails = NoConnectionError("wrong password", refused=True)
    supervisor.lose("reset by peer")
    await eventually(lambda: broker.dialled > 3)
    reason, broker.fails = supervisor.reason, RuntimeError("of the driver")
    await eventually(lambda: "of the driver" in str(supervisor.reason))
    broker.fails = None
    await supervisor.wait_up()

    assert reason == "wrong password"
    lost, password, driver, again = lines(caplog)
    assert "lost its connection: reset by peer" in lost
    assert "is still not connected: wrong password" in password
    assert "is still not connected: RuntimeError('of the driver')" in driver
    assert "is connected again" in again


async def test_opening_tries_again_until_the_time_is_over(
    supervisor: Supervisor[int], broker: Broker
) -> None:
    broker.fails = NoConnectionError("connection refused")
    with pytest.raises(
        BusUnavailableError, match=r"no connection within 0.5 s: connection refused"
    ):
        await supervisor.open(0.5)
    assert broker.dialled > 1
    assert not supervisor.is_open
    assert supervisor.reason == "connection refused"

    broker.fails = None
    await supervisor.open(10)
    assert supervisor.is_up


async def test_opening_ends_at_once_where_it_is_refused(
    supervisor: Supervisor[int], broker: Broker
) -> None:
    broker.fails = NoConnectionError("wrong password", refused=True)
    with pytest.raises(BusUnavailableError, match="refused: wrong password"):
        await supervisor.open(60)
    assert broker.dialled == 1


async def test_opening_raises_what_is_no_matter_of_the_broker(
    supervisor: Supervisor[int], broker: Broker
) -> None:
    broker.fails = TypeError("connect() got an unexpected keyword argument")
    with pytest.raises(TypeError, match="unexpected keyword"):
        await supervisor.open(60)
    assert not supervisor.is_open


@pytest.mark.parametrize("leave", ["close", "cancel"])
async def test_an_attempt_that_hangs_can_be_left(
    supervisor: Supervisor[int], broker: Broker, leave: str
) -> None:
    broker.hangs = leave == "cancel"
    opening = asyncio.create_task(supervisor.open(60))
    if leave == "cancel":
        await eventually(lambda: broker.dialled)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    else:
        await opening
        broker.hangs = True
        supervisor.lose("reset by peer")
        await eventually(lambda: broker.dialled == 2)
        await supervisor.close()
    assert not supervisor.is_open


async def test_a_cancellation_that_the_driver_swallows_ends_it_all_the_same() -> None:
    class Swallowing(Broker):
        async def dial(self) -> int:
            number = await super().dial() if self.dialled == 0 else self.dialled + 1
            if self.why is not None:
                self.dialled += 1
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    return number
            return number

    broker = Swallowing()
    supervisor = Supervisor(broker, Outage("the broker"))
    said = heard(supervisor)
    await supervisor.open(10)
    broker.why = "from now on"
    supervisor.lose("reset by peer")
    await eventually(lambda: broker.dialled == 2)
    await supervisor.close()

    assert said == ["up 1", "down"]
    assert broker.closed == [1, 2]


async def ended(broker: Broker) -> None:
    broker.fails = NoConnectionError("its owner has closed it", ended=True)


async def cancelled(_: Broker) -> None:
    (task,) = [t for t in asyncio.all_tasks() if t.get_name() == "the broker connection"]
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize(
    ("happens", "why"),
    [(ended, "its owner has closed it"), (cancelled, "its task was cancelled")],
)
async def test_an_end_is_reported(
    supervisor: Supervisor[int],
    broker: Broker,
    happens: Callable[[Broker], Awaitable[None]],
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    said = heard(supervisor)
    await supervisor.open(10)
    await happens(broker)
    supervisor.lose("reset by peer")
    await eventually(lambda: len(said) == 3)

    assert said == ["up 1", "down", f"end: {why}"]
    assert (supervisor.is_up, supervisor.reason) == (False, why)
    assert f"the broker will not reconnect: {why}" in caplog.messages


async def test_a_broker_that_closes_each_connection_is_not_hammered(
    supervisor: Supervisor[int], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.001)
    supervisor._backoff._next = supervisor._backoff._first = 0.001
    take = supervisor._backoff.take

    def taken() -> float:
        pauses.append(supervisor._backoff._next)
        return take()

    monkeypatch.setattr(supervisor._backoff, "take", taken)
    await supervisor.open(10)
    for _ in range(3):
        supervisor.lose("it hung up")
        await supervisor.wait_up()
    monkeypatch.setattr(module, "_LASTS", -1.0)  # the next one has lasted
    supervisor.lose("it hung up")
    await supervisor.wait_up()

    assert pauses == [0.001, 0.002, 0.004, 0.001]


async def test_a_lost_connection_is_hung_up_though_it_is_closed_meanwhile() -> None:
    class Slow(Broker):
        begun = 0

        async def hang_up(self, connection: int) -> None:
            self.begun += 1
            if self.begun == 1:
                await asyncio.Event().wait()
            await super().hang_up(connection)

    broker = Slow()
    supervisor = Supervisor(broker, Outage("the broker"))
    await supervisor.open(10)
    supervisor.lose("reset by peer")
    await eventually(lambda: broker.begun)
    await supervisor.close()

    assert broker.closed == [1]
