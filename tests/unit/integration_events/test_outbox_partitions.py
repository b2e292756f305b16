"""Who holds which partitions: whatever relays do, and whatever the clocks do to them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from events.errors import RelayNameTakenError
from events.integration.outbox import PARTITIONS, Lease, Renewal, partitions
from events.integration.outbox._membership import Membership
from events.integration.outbox.partitions import Tenure, renew
from tests.unit.integration_events.outbox_table import Table

LENGTH = 10.0
ALL = frozenset(range(PARTITIONS))


def lease(
    relay: str, *held: int, token: str = "t", remaining: float = LENGTH, length: float = LENGTH
) -> Lease:
    return Lease(relay, token, frozenset(held), length, remaining)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(partitions, "_clock", lambda: clock)
    return clock


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


# --- one decision ---------------------------------------------------------------------------------


def test_the_first_relay_takes_all_partitions() -> None:
    renewed = renew([], lease("a"))
    assert renewed.own == lease("a", *ALL)
    assert (renewed.ended, renewed.written) == ([], [renewed.own])


def test_a_second_relay_waits_until_the_first_gives_back_what_is_over_its_share() -> None:
    first = lease("a", *ALL)
    second = renew([first], lease("b")).own
    assert second.partitions == frozenset()
    first = renew([first, second], first).own
    assert first.partitions == frozenset(range(PARTITIONS // 2))
    second = renew([first, second], second).own
    assert second.partitions == ALL - first.partitions


def test_a_lease_that_ran_out_is_ended_and_its_partitions_are_taken() -> None:
    renewed = renew([lease("dead", *ALL, remaining=0.0)], lease("b"))
    assert renewed.ended == ["dead"]
    assert renewed.own.partitions == ALL


def test_a_lease_of_its_own_that_ran_out_and_was_not_ended_goes_on() -> None:
    held = lease("a", 1, 2, remaining=-5.0)
    assert renew([held, lease("b", *(ALL - {1, 2}))], held).own.partitions == {1, 2}


def test_a_lease_of_its_own_that_was_ended_begins_again() -> None:
    held = lease("a", *ALL)
    assert renew([lease("b", *ALL)], held).own.partitions == frozenset()


def test_the_clock_was_set_back_and_leases_are_cut_to_their_length() -> None:
    overlong = lease("dead", *ALL, remaining=3_600.0)
    renewed = renew([overlong], lease("b"))
    assert renewed.written == [lease("dead", *ALL), renewed.own]


def test_a_name_that_another_holds_is_refused_until_its_lease_has_run_out() -> None:
    other = lease("a", *ALL, token="other", remaining=3.0)
    with pytest.raises(
        RelayNameTakenError, match=r"named 'a' has a lease for 3 s.* if the other has"
    ):
        renew([other], lease("a"))
    other = lease("a", *ALL, token="other", remaining=0.0)
    renewed = renew([other], lease("a"))
    assert (renewed.ended, renewed.own.partitions) == (["a"], ALL)


# --- any number of relays, for any time -----------------------------------------------------------


@dataclass
class Relay:
    name: str
    token: str
    lease: Lease | None = None
    trusts_until: float = 0.0
    seen: list[Renewal] = field(default_factory=list)

    def holds(self, now: float) -> frozenset[int]:
        return self.lease.partitions if self.lease and now < self.trusts_until else frozenset()


class Relays(RuleBasedStateMachine):
    """The table is a dict, time is a number; relays die, are paused, come back."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.table: dict[str, tuple[Lease, float]] = {}
        self.relays: list[Relay] = []
        self.made = 0

    def read(self) -> list[Lease]:
        return [
            Lease(held.relay, held.token, held.partitions, held.length, end - self.now)
            for held, end in self.table.values()
        ]

    def renew(self, relay: Relay) -> None:
        me = relay.lease or Lease(relay.name, relay.token, frozenset(), LENGTH, 0.0)
        renewed = renew(self.read(), me)
        for name in renewed.ended:
            del self.table[name]
        for written in renewed.written:
            self.table[written.relay] = (written, self.now + written.remaining)
        relay.lease, relay.trusts_until = renewed.own, self.now + LENGTH

    @precondition(lambda self: len(self.relays) < 6)
    @rule()
    def join(self) -> None:
        self.made += 1
        self.relays.append(Relay(f"relay-{self.made % 7}-{self.made}", str(self.made)))

    @precondition(lambda self: self.relays)
    @rule(which=st.integers(0, 5))
    def one_renews(self, which: int) -> None:
        self.renew(self.relays[which % len(self.relays)])

    @precondition(lambda self: self.relays)
    @rule(which=st.integers(0, 5))
    def one_dies(self, which: int) -> None:
        self.relays.pop(which % len(self.relays))

    @precondition(lambda self: self.relays)
    @rule(which=st.integers(0, 5))
    def one_leaves(self, which: int) -> None:
        self.table.pop(self.relays.pop(which % len(self.relays)).name, None)

    @rule(seconds=st.floats(0.1, 2 * LENGTH))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.relays)
    @rule()
    def all_renew_until_it_is_stable(self) -> None:
        self.now += LENGTH + 1  # processes that died are gone
        for _ in range(3):
            for relay in self.relays:
                self.renew(relay)
        held = [relay.holds(self.now) for relay in self.relays]
        assert frozenset().union(*held) == ALL, "a partition that nobody holds"
        sizes = [len(each) for each in held]
        assert max(sizes) - min(sizes) <= 1, sizes

    @invariant()
    def no_partition_is_held_by_two(self) -> None:
        held = [partition for relay in self.relays for partition in relay.holds(self.now)]
        assert len(held) == len(set(held))


TestRelays = Relays.TestCase
TestRelays.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


# --- how long a lease is trusted ------------------------------------------------------------------


def test_a_lease_is_trusted_from_before_it_was_asked_for(clock: Clock) -> None:
    tenure = Tenure()
    assert tenure.remaining == 0
    granted = tenure.begin()
    clock.now += 3  # the database took its time
    granted(LENGTH)
    assert tenure.remaining == LENGTH - 3
    tenure.end()
    assert tenure.remaining == 0


def test_the_clock_goes_on_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(time, "clock_gettime", lambda which: 42.0 + which)
    assert partitions._clock()() == 49.0
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert partitions._clock() is time.monotonic


# --- membership -----------------------------------------------------------------------------------


async def test_it_renews_when_a_third_of_its_lease_is_over_and_soon_while_partitions_are_missing(
    clock: Clock,
) -> None:
    table = Table()
    one, two = Membership(table, "one", 30.0), Membership(table, "two", 30.0)
    assert one.renew_in == 0
    assert await one.renew()
    assert one.renew_in == pytest.approx(10)
    assert one.sending_time == pytest.approx(27)
    assert not await two.renew()
    assert two.renew_in == pytest.approx(1)
    clock.now += 10
    assert one.renew_in == 0
    assert one.sending_time == pytest.approx(17)
    clock.now += 18
    assert one.sending_time < 0


async def test_leaving_frees_the_partitions_at_once_and_is_trusted_no_more(clock: Clock) -> None:
    table = Table()
    one, two = Membership(table, "one", 30.0), Membership(table, None, 30.0)
    await one.renew()
    await one.leave()
    assert one.sending_time < 0
    assert await two.renew()
    assert two.lease.partitions == ALL


async def test_partitions_that_another_has_held_meanwhile_are_new_ones(clock: Clock) -> None:
    table = Table()
    one, two = Membership(table, "one", 30.0), Membership(table, "two", 30.0)
    await one.renew()
    clock.now += 31
    table.now += 31
    await two.renew()
    await two.leave()
    assert await one.renew(), "what was read before is not to be sent"
    assert one.lease.partitions == ALL


async def test_a_name_is_taken_over_from_a_process_that_died(clock: Clock) -> None:
    table = Table()
    await Membership(table, "one", 30.0).renew()
    again = Membership(table, "one", 30.0)
    with pytest.raises(RelayNameTakenError) as caught:
        await again.renew()
    assert not caught.value.alive
    table.now += 15
    with pytest.raises(RelayNameTakenError) as caught:
        await again.renew()
    assert not caught.value.alive
    table.now += 15
    assert await again.renew()
    assert again.lease.partitions == ALL


async def test_two_that_live_under_one_name_are_found_out(clock: Clock) -> None:
    table = Table()
    first, second = Membership(table, "one", 30.0), Membership(table, "one", 30.0)
    await first.renew()
    table.now += 5
    with pytest.raises(RelayNameTakenError):
        await second.renew()
    table.now += 5
    await first.renew()
    with pytest.raises(RelayNameTakenError, match="two relays run under the name 'one': give") as c:
        await second.renew()
    assert c.value.alive


@pytest.mark.parametrize(("shift", "word"), [(3_600, "forward"), (-3_600, "back")])
async def test_a_clock_that_jumps_is_reported_and_loses_no_partition(
    clock: Clock, shift: float, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    table = Table()
    one = Membership(table, "one", 30.0)
    await one.renew()
    clock.now += 10
    table.now += 10
    await one.renew()
    assert "clock" not in caplog.text
    table.now += shift
    await one.renew()
    assert f"the database's clock was set {word} by about 3600 s" in caplog.text
    assert one.lease.partitions == ALL


async def test_partitions_that_come_and_go_are_logged(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "events.integration")
    table = Table()
    one, two = Membership(table, "one", 30.0), Membership(table, "two", 30.0)
    for member in (one, two, one, two, one, two):
        await member.renew()
    assert [record.message for record in caplog.records] == [
        "relay one holds 32 of 32 partitions",
        "relay two holds 0 of 32 partitions and waits for 16 that other relays hold. A "
        "running relay releases its share now; that of a crashed one expires within 30 s",
        "relay one holds 16 of 32 partitions",
        "relay two holds 16 of 32 partitions",
    ]


async def test_the_partitions_of_a_relay_that_died_are_logged_once_and_until_when(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "events.integration")
    table = Table()
    await Membership(table, "dead", 30.0).renew()
    heir = Membership(table, "heir", 10.0)
    for _ in range(4):
        clock.now += 8
        table.now += 8
        await heir.renew()
    logged = [record.message for record in caplog.records]
    assert logged[1:] == [
        "relay heir holds 0 of 32 partitions and waits for 16 that other relays hold. A "
        "running relay releases its share now; that of a crashed one expires within 22 s",
        "relay heir holds 32 of 32 partitions",
    ]


def test_a_name_of_its_own_tells_host_and_process() -> None:
    names = {Membership(Table(), None, 1.0).lease.relay for _ in range(3)}
    assert len(names) == 3


async def test_decisions_are_not_mixed_up(clock: Clock) -> None:
    """Whatever is interleaved, no partition has two holders, as the table is locked for a decision."""
    table = Table()
    members = [Membership(table, f"m{n}", 30.0) for n in range(5)]

    async def live(member: Membership) -> None:
        for _ in range(20):
            await member.renew()
            await asyncio.sleep(0)

    await asyncio.gather(*map(live, members))
    held: Sequence[int] = [partition for member in members for partition in member.lease.partitions]
    assert sorted(held) == sorted(ALL)
