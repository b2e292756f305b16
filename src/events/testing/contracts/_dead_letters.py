"""Conformance 13 and 38: what is kept of an event that could not be handled, and the ways back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from events.errors import NoSuchDeadLetterError
from events.integration.health import Backlog
from events.integration.message import Message
from events.integration.topology import RetryPolicy
from events.operations import DeadLetters, Selection
from events.testing.contracts._foreign import EVENT_ID, cloudevents
from events.testing.contracts.harness import BACKLOG, DEAD_LETTERS
from events.testing.contracts.probe import Numbered, Other
from events.testing.contracts.scenario import Scenario
from events.testing.contracts.suite import ContractSuite, contract

BAD, GOOD = 1, 2
PAGE, PAGED = 3, 7

NEVER_AGAIN = RetryPolicy(attempts=1)


class DeadLetterContracts(ContractSuite):
    """Show that dead letters are whole, are found, and go back."""

    @contract(38, DEAD_LETTERS)
    async def test_38_a_dead_letter_bears_the_cloudevents_id(self, scenario: Scenario) -> None:
        """And has its bytes as they came, enveloped or not."""
        topic, probe = scenario.topic(), scenario.probe(react=fail_on(7))
        retry = scenario.retry(1, in_place=True)
        bus = await scenario.started(scenario.registration(probe, topic, retry=retry))
        sent = cloudevents(topic, headers=bus.transport.features.headers)
        for message in sent:
            await scenario.soon(scenario.harness.publish_raw(bus, message), "publish_raw")
        letters = await scenario.dead_letters(bus, probe, len(sent))
        ids = {letter.message.id for letter in letters}
        assert ids == {EVENT_ID}, f"one event died under these ids: {sorted(ids)}"
        bodies = sorted(letter.message.body for letter in letters)
        assert bodies == sorted(message.body for message in sent), "its bytes are others"

    @contract(13, DEAD_LETTERS)
    async def test_13_redrive_goes_to_that_consumer_alone(self, scenario: Scenario) -> None:
        """With a new count of attempts, and removed from the dead letters."""
        topic = scenario.topic()
        probe, other = (scenario.probe(name, fail_on(BAD)) for name in ("one", "two"))
        retry = scenario.retry(2, in_place=True)
        bus = await scenario.started(
            scenario.registration(probe, topic, retry=retry),
            scenario.registration(other, topic, retry=retry),
        )
        await scenario.soon(bus.send(topic, Numbered(BAD)), "send")
        letters = await scenario.dead_letters(bus, probe, 1)
        await scenario.dead_letters(bus, other, 1)
        probe.react = other.react = None
        count = await scenario.soon(bus.redrive(probe, letters), "redrive")
        assert count == 1, f"redrive says that {count} were there"
        await scenario.handled(1, probe)
        await scenario.holds(lambda: not other.handled, "it went to another consumer as well")
        assert probe.attempts == [1, 2, 1], f"attempts: {probe.attempts}"
        firsts = [a.delivery.redriven for a in probe.arrivals if a.delivery.attempt == 1]
        assert firsts == [False, True], f"these first attempts are called redriven: {firsts}"
        assert len({a.delivery.id for a in probe.arrivals}) == 1, "its id is another now"
        await scenario.dead_letters(bus, probe, 0)
        await scenario.dead_letters(bus, other, 1)
        await scenario.refuses(bus.redrive(probe, letters), NoSuchDeadLetterError, "redrive again")

    @contract(13, DEAD_LETTERS)
    async def test_13_discard_removes(self, scenario: Scenario) -> None:
        """Those that were named, and no others."""
        topic, probe = scenario.topic(), scenario.probe(react=fail_on(BAD))
        bus = await scenario.started(scenario.registration(probe, topic, retry=NEVER_AGAIN))
        await scenario.soon(bus.send_many(topic, [Numbered(BAD)] * 2), "send_many")
        first, second = await scenario.dead_letters(bus, probe, 2)
        count = await scenario.soon(bus.discard(probe, [first.id]), "discard")
        assert count == 1, f"discard says that {count} were there"
        (left,) = await scenario.dead_letters(bus, probe, 1)
        assert left.id == second.id, "it discarded another"
        await scenario.refuses(bus.discard(probe, [first]), NoSuchDeadLetterError, "discard again")
        await scenario.holds(lambda: probe.attempts == [1, 1], "discarded, and delivered")

    @contract(13, DEAD_LETTERS)
    async def test_13_listing_pages(self, scenario: Scenario) -> None:
        """Oldest first, each once."""
        topic, probe = scenario.topic(), scenario.probe(react=fail_on(BAD))
        bus = await scenario.started(scenario.registration(probe, topic, retry=NEVER_AGAIN))
        for text in range(PAGED):
            await scenario.soon(bus.send(topic, Numbered(BAD, text=str(text))), "send")
        every = [letter.id for letter in await scenario.dead_letters(bus, probe, PAGED)]
        paged: list[str] = []
        for expected in (PAGE, PAGE, PAGED - 2 * PAGE, 0):
            page = await bus.dead_letters(probe, limit=PAGE, after=paged[-1] if paged else None)
            assert len(page) == expected, f"a page of {len(page)}, where {expected} are due"
            paged += [letter.id for letter in page]
        assert paged == every, "the pages are not the list"
        died = [letter.died_at for letter in await bus.dead_letters(probe)]
        assert died == sorted(died), "the oldest are not the first"

    @contract(13, DEAD_LETTERS)
    async def test_13_groups_are_those_of_the_list(self, scenario: Scenario) -> None:
        """By type, reason and cause, each dead letter in one of them; and nothing changes by it."""

        async def fail(event: Numbered | Other) -> None:
            if event.number == GOOD:
                raise LookupError("of another kind")
            raise RuntimeError(f"number {event.number} is bad")

        topic, probe = scenario.topic(), scenario.probe(react=fail)
        bus = await scenario.started(
            scenario.registration(probe, topic, Numbered, Other, retry=NEVER_AGAIN)
        )
        bad = Message(topic.name, Numbered.type, "bad", b"\xff no JSON", {})
        await scenario.soon(scenario.harness.publish_raw(bus, bad), "publish_raw")
        events = [Numbered(BAD), Numbered(GOOD), Other(BAD), *map(Numbered, range(3, 3 + PAGED))]
        await scenario.soon(bus.send_many(topic, events), "send_many")
        listed = await scenario.dead_letters(bus, probe, 1 + len(events))
        letters = DeadLetters(bus, actor="contracts", consumers=[probe.name])
        groups = await scenario.soon(letters.groups(), "groups")
        assert await scenario.soon(letters.groups(), "groups") == groups, "they are others now"
        found = Counter({(g.type, g.reason, g.error.partition(":")[0]): g.count for g in groups})
        reasons = {e.message.body: e.reason for e in listed}
        assert found.total() == len(listed), f"{found.total()} of {len(listed)} are in groups"
        assert sorted(found.values()) == [1, 1, 1, 1 + PAGED], f"the groups are {found}"
        assert found[(Numbered.type, "retries-exhausted", "RuntimeError")] == 1 + PAGED, f"{found}"
        assert found[(Other.type, "retries-exhausted", "RuntimeError")] == 1, f"{found}"
        assert reasons[bad.body] == "undecodable", f"the reasons are {reasons}"
        for group in groups:
            async with aclosing(letters.search(Selection(group=group.id))) as some:
                members = [letter async for letter in some]
            died = [letter.died_at for letter in members]
            assert len(members) == group.count, f"{len(members)} are found of {group}"
            assert (min(died), max(died)) == (group.first, group.last), f"{died} are not of {group}"
        assert await bus.dead_letters(probe) == listed, "looking has changed them"

    @contract(13, DEAD_LETTERS, BACKLOG)
    async def test_13_the_backlog_counts_what_waits_and_what_died(self, scenario: Scenario) -> None:
        """Also of a consumer that is gone."""
        topic, probe = scenario.topic(), scenario.probe(react=fail_on(BAD))
        registration = scenario.registration(probe, topic, retry=NEVER_AGAIN)
        bus = await scenario.started(registration)
        await scenario.soon(bus.send_many(topic, map(Numbered, (BAD, GOOD))), "send_many")
        await scenario.dead_letters(bus, probe, 1)

        async def counts(waiting: int, in_flight: int, dead: int) -> bool:
            found = await bus.backlog(probe, topics=[topic])
            seen.append(found)
            due = (waiting, dead, in_flight, 0, 2)
            return due == (
                found.waiting,
                found.dead_letters,
                in_flight if found.in_flight is None else found.in_flight,
                found.delayed or 0,
                2 if found.settled is None else found.settled,
            )

        seen: list[Backlog] = []
        await scenario.eventually(lambda: counts(0, 0, 1), "one dead letter", lambda: seen[-1])
        await scenario.soon(bus.unregister(registration), "unregister")
        await scenario.soon(bus.send_many(topic, map(Numbered, (BAD, GOOD))), "send_many")
        await scenario.eventually(lambda: counts(2, 0, 1), "two that wait", lambda: seen[-1])


def fail_on(number: int) -> Callable[[Numbered], Awaitable[None]]:
    """Return what a probe does that fails on this number."""

    async def fail(event: Numbered) -> None:
        if event.number == number:
            raise RuntimeError(f"number {number} is bad")

    return fail
