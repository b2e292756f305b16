"""What must hold of events that are scheduled under an id, on every database.

A test file gives the fixture `database`, as for `OutboxContract`. It starts empty. Its store must
be a `SchedulingStore`. For a bus on a database it gives the fixture `place`, see `_scheduling`.
"""
# ruff: noqa: D102 - a test's name is its documentation

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from events.errors import ScheduleIdTakenError
from events.integration.message import Message
from events.integration.outbox import Outbox
from events.integration.topology import Topic
from events.testing.contracts._scheduling import SchedulingPlace, SchedulingSuite, sent
from events.testing.contracts.outbox import DEADLINE, TOPIC, Counted, ForwardedBus, undone
from events.testing.waiting import eventually

__all__ = ["SchedulesContract"]

PAST = datetime(2020, 1, 1, tzinfo=UTC)
LATER = datetime(2101, 1, 1, tzinfo=UTC)
REMINDER = "invoice-7:reminder"


class HeldBus(ForwardedBus):
    """A bus whose send blocks until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.sending = asyncio.Event()
        self.go_on = asyncio.Event()

    async def forward(self, messages: Sequence[Message]) -> Sequence[None]:
        """Hold the messages, as a broker that does not confirm yet."""
        if messages:
            self.sending.set()
            await self.go_on.wait()
        return await super().forward(messages)


class SchedulesContract(SchedulingSuite):
    """Yield the fixture `database`, or `place`."""

    async def test_is_sent_at_its_time_as_it_was_put(self, place: SchedulingPlace) -> None:
        async with place.unit_of_work() as unit:
            event_id = await unit.outbox.put(
                TOPIC,
                Counted(1),
                key="Ключ",
                headers={"tenant": "ä"},
                available_at=PAST,
                schedule_id=REMINDER,
            )
            await unit.outbox.put(TOPIC, Counted(2), available_at=LATER, schedule_id="later")
        [message] = (await sent(place)).messages
        assert (message.id, message.topic, message.key) == (event_id, TOPIC.name, "Ключ")
        assert message.headers["tenant"] == "ä"
        assert json.loads(message.body)["number"] == 1
        assert await _ids(place) == ["later"]
        assert await place.due() == []

    async def test_a_time_that_comes_while_relays_run_is_kept(self, place: SchedulingPlace) -> None:
        first, second, count = ForwardedBus(), ForwardedBus(), 50
        async with (
            place.sending(first, poll_interval=0.1),
            place.sending(second, poll_interval=0.1),
        ):
            soon = (await place.store.next_schedule()).now + timedelta(seconds=0.2)
            async with place.unit_of_work() as unit:
                for number in range(count):
                    schedule_id = f"{number}"
                    await unit.outbox.put(
                        TOPIC, Counted(number), available_at=soon, schedule_id=schedule_id
                    )
            await eventually(lambda: len(first.messages + second.messages) == count, DEADLINE)
        assert sorted(first.numbers + second.numbers) == list(range(count))

    async def test_what_is_rolled_back_was_not_scheduled(self, place: SchedulingPlace) -> None:
        async with undone(place.unit_of_work()) as unit:
            await _put(unit.outbox, 1)
        async with place.unit_of_work() as unit:
            async with undone(unit.savepoint()):
                await _put(unit.outbox, 2, "savepoint")
            await _put(unit.outbox, 3)
        assert await _ids(place) == [REMINDER]
        assert (await _sent_all(place)).numbers == [3]

    # --- cancelled ------------------------------------------------------------------------------

    async def test_cancelled_is_never_sent(self, place: SchedulingPlace) -> None:
        async with place.unit_of_work() as unit:
            await _put(unit.outbox, 1)
            await _put(unit.outbox, 2, "other")
        async with place.unit_of_work() as unit:
            assert await unit.outbox.cancel(REMINDER) is True
            assert await unit.outbox.cancel(REMINDER) is False
            assert await unit.outbox.cancel("nobody") is False
        assert (await _sent_all(place)).numbers == [2]

    async def test_put_and_cancelled_in_one_transaction(self, place: SchedulingPlace) -> None:
        async with place.unit_of_work() as unit:
            await _put(unit.outbox, 1)
            assert [each.schedule_id for each in await unit.outbox.scheduled()] == [REMINDER]
            assert await unit.outbox.cancel(REMINDER) is True
            assert await unit.outbox.scheduled() == []
        assert (await _sent_all(place)).numbers == []

    async def test_cancelled_and_rolled_back_is_sent(self, place: SchedulingPlace) -> None:
        async with place.unit_of_work() as unit:
            await _put(unit.outbox, 1)
        async with undone(place.unit_of_work()) as unit:
            assert await unit.outbox.cancel(REMINDER) is True
        async with place.unit_of_work() as unit, undone(unit.savepoint()):
            assert await unit.outbox.cancel(REMINDER) is True
        assert (await _sent_all(place)).numbers == [1]

    async def test_no_cancelling_of_what_a_relay_is_sending(self, place: SchedulingPlace) -> None:
        async with place.unit_of_work() as unit:
            await _put(unit.outbox, 1, at=PAST)
        bus = HeldBus()
        async with place.sending(bus) as sender, asyncio.timeout(DEADLINE):
            await bus.sending.wait()
            async with place.unit_of_work() as unit:
                assert await unit.outbox.cancel(REMINDER) is False
                assert await unit.outbox.reschedule(REMINDER, LATER) is False
                assert await unit.outbox.scheduled() == []
                await _put(unit.outbox, 2)  # the id is free again
            bus.go_on.set()
            await sender.drain()
        assert bus.numbers == [1]
        assert await _ids(place) == [REMINDER]

    async def test_a_relay_passes_over_what_is_being_cancelled(
        self, place: SchedulingPlace
    ) -> None:
        async with place.unit_of_work() as unit:
            await _put(unit.outbox, 1, at=PAST)
            await _put(unit.outbox, 2, "kept", at=PAST)
        async with place.unit_of_work() as unit:
            assert await unit.outbox.cancel(REMINDER) is True
            # Begins before the commit. Where one who writes locks all, it waits or is refused.
            releasing = asyncio.create_task(place.store.release(10))
        await asyncio.wait([releasing])
        assert (await sent(place)).numbers == [2]

    @pytest.mark.parametrize("step", ["released", "selected", "sent"])
    async def test_after_a_relay_was_killed_it_is_sent_and_cannot_be_cancelled(
        self, place: SchedulingPlace, tmp_path: Path, step: str
    ) -> None:
        async with place.unit_of_work() as unit:
            await _put(unit.outbox, 1, at=PAST)
        async with place.process(tmp_path / "accepted", step) as process:
            async with asyncio.timeout(DEADLINE):
                assert await process.wait() == -signal.SIGKILL
        async with place.unit_of_work() as unit:
            assert await unit.outbox.cancel(REMINDER) is False
        assert (await sent(place)).numbers == [1]

    async def test_of_many_who_cancel_and_release_one_alone_succeeds(
        self, place: SchedulingPlace
    ) -> None:
        count = 40
        async with place.unit_of_work() as unit:
            for number in range(count):
                await _put(unit.outbox, number, f"{number}", at=PAST)
        cancelled: list[int] = []

        async def cancel(numbers: Sequence[int]) -> None:
            for number in numbers:
                async with place.unit_of_work() as unit:
                    done = await unit.outbox.cancel(f"{number}")
                if done:
                    cancelled.append(number)

        async def release() -> None:
            for _ in range(count):
                await place.store.release(1)

        backwards = range(count - 1, -1, -1)
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(cancel(backwards), cancel(backwards), release())
        bus = await sent(place)
        assert sorted(cancelled + bus.numbers) == list(range(count))

    # --- one for each id ------------------------------------------------------------------------

    async def test_one_id_twice_is_an_error_that_ends_no_transaction(
        self, place: SchedulingPlace
    ) -> None:
        async with place.unit_of_work() as unit:
            await _put(unit.outbox, 1)
        async with place.unit_of_work() as unit:
            with pytest.raises(ScheduleIdTakenError, match=REMINDER):
                await _put(unit.outbox, 2)
            await _put(unit.outbox, 3, "other")
        assert (await _sent_all(place)).numbers == [1, 3]

    async def test_the_new_one_takes_the_place_of_the_other_if_asked(
        self, place: SchedulingPlace
    ) -> None:
        event_id = ""
        for number in (1, 2):
            async with place.unit_of_work() as unit:
                event_id = await unit.outbox.put(
                    TOPIC, Counted(number), available_at=LATER, schedule_id=REMINDER, replace=True
                )
        async with place.unit_of_work() as unit:
            [found] = await unit.outbox.scheduled()
        assert found.event_id == event_id
        assert (await _sent_all(place)).numbers == [2]

    async def test_of_two_sessions_that_race_for_an_id_one_has_it(
        self, place: SchedulingPlace
    ) -> None:
        async def put(number: int) -> bool:
            with suppress(ScheduleIdTakenError):
                async with place.unit_of_work() as unit:
                    await _put(unit.outbox, number)
                    return True
            return False

        async with asyncio.timeout(DEADLINE):
            had = await asyncio.gather(*map(put, range(5)))
        assert sum(had) == 1
        assert (await _sent_all(place)).numbers == [had.index(True)]

    # --- rescheduled and listed -----------------------------------------------------------------

    async def test_rescheduled_is_sent_at_the_other_time(self, place: SchedulingPlace) -> None:
        async with place.unit_of_work() as unit:
            await _put(unit.outbox, 1)
            await _put(unit.outbox, 2, "sooner, but not so")
        async with place.unit_of_work() as unit:
            assert await unit.outbox.reschedule(REMINDER, PAST) is True
            assert await unit.outbox.reschedule("nobody", PAST) is False
        async with undone(place.unit_of_work()) as unit:
            assert await unit.outbox.reschedule("sooner, but not so", PAST) is True
        assert (await sent(place)).numbers == [1]

    async def test_lists_what_waits_by_conditions_and_pages(self, place: SchedulingPlace) -> None:
        other = Topic("outbox-contract.other")
        async with place.unit_of_work() as unit:
            for number, topic in enumerate([TOPIC, TOPIC, TOPIC, TOPIC, other]):
                at = LATER + timedelta(days=number)
                await unit.outbox.put(
                    topic,
                    Counted(number),
                    key=f"{number}",
                    available_at=at,
                    schedule_id=f"Invoice-{number}_%" if number else "invoice-0_%",
                )
            await unit.outbox.put(TOPIC, Counted(9), available_at=LATER)
        async with place.unit_of_work() as unit:
            outbox = unit.outbox
            first = await outbox.scheduled(limit=2)
            rest = await outbox.scheduled(limit=100, after=first[-1].id)
            assert [each.key for each in first + rest] == ["0", "1", "2", "3", "4"]
            [last] = await outbox.scheduled(topic=other)
            assert (last.schedule_id, last.topic, last.type) == (
                "Invoice-4_%",
                other.name,
                Counted.type,
            )
            assert last.available_at == LATER + timedelta(days=4)
            assert [each.key for each in await outbox.scheduled(prefix="Invoice-")] == [*"1234"]
            assert [each.key for each in await outbox.scheduled(prefix="Invoice-3_")] == ["3"]
            assert await outbox.scheduled(prefix="Invoice-%") == []
            soon = await outbox.scheduled(before=LATER + timedelta(days=2))
            assert [each.key for each in soon] == ["0", "1"]
            with pytest.raises(ValueError, match="limit"):
                await outbox.scheduled(limit=0)

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"schedule_id": REMINDER}, "needs available_at"),
            ({"available_at": LATER, "replace": True}, "schedule_id"),
            ({"available_at": datetime(2101, 1, 1), "schedule_id": "x"}, "time zone"),  # noqa: DTZ001
            ({"available_at": LATER, "schedule_id": ""}, "1 to 255"),
            ({"available_at": LATER, "schedule_id": "x" * 256}, "1 to 255"),
            ({"available_at": LATER, "schedule_id": "x "}, "blanks"),
            ({"available_at": LATER, "schedule_id": "x\0"}, "NUL"),
        ],
    )
    async def test_what_cannot_be_is_refused(
        self, place: SchedulingPlace, options: dict[str, str], reason: str
    ) -> None:
        async with place.unit_of_work() as unit:
            with pytest.raises(ValueError, match=reason):
                await unit.outbox.put(TOPIC, Counted(1), **options)  # type: ignore[arg-type]


async def _put(outbox: Outbox, number: int, id: str = REMINDER, at: datetime = LATER) -> None:
    await outbox.put(TOPIC, Counted(number), available_at=at, schedule_id=id)


async def _ids(place: SchedulingPlace) -> list[str]:
    async with place.unit_of_work() as unit:
        return [each.schedule_id for each in await unit.outbox.scheduled()]


async def _sent_all(place: SchedulingPlace) -> ForwardedBus:
    """Have the time of all come, and send them."""
    async with place.unit_of_work() as unit:
        for each in await unit.outbox.scheduled():
            assert await unit.outbox.reschedule(each.schedule_id, PAST)
    return await sent(place)
