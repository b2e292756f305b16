"""Several servers of one chat: what people hear, and that lists come right whatever gets lost."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from events.testing import eventually
from events.testing.faults import DropSilently, FailPublish, UnknownOutcome
from examples.online_chat.application.chat import Seat
from examples.online_chat.application.ports import UnavailableError
from examples.online_chat.contracts import MessageSentV1, UserConnectedV1, UserDisconnectedV1
from examples.online_chat.domain.names import RefusedError
from examples.online_chat.domain.presence import Change
from tests.acceptance.online_chat.conftest import IMPATIENT, Ear, Servers


def names(seat: Seat) -> list[str]:
    return [member.name for member in seat.members]


async def test_what_one_says_all_of_the_room_hear_in_order(servers: Servers) -> None:
    one, two = await servers.start("one"), await servers.start("two")
    ada, ada_hears = await one.seat("Ada")
    _, grace_hears = await two.seat("Grace")
    _, alan_hears = await two.seat("Alan", room="elsewhere")

    texts = [str(number) for number in range(50)]
    for text in texts:
        await ada.say(uuid4(), text)

    await eventually(lambda: grace_hears.texts == texts and ada_hears.texts == texts)
    assert alan_hears.texts == []
    assert grace_hears.messages[0].author == ada.user


async def test_members_are_the_same_on_every_server(servers: Servers) -> None:
    one, two = await servers.start("one"), await servers.start("two")
    ada, ada_hears = await one.seat("Ada")
    grace, grace_hears = await two.seat("Grace")

    await eventually(lambda: names(ada) == names(grace) == ["Ada", "Grace"])
    assert ada_hears.changes == [(Change.JOINED, "Grace")]
    # Her server has heard of Ada before she sat down, or after; she did not see her come in.
    assert grace_hears.changes in ([], [(Change.PRESENT, "Ada")])


async def test_one_who_leaves_is_seen_to_leave(servers: Servers) -> None:
    one, two = await servers.start("one"), await servers.start("two")
    ada, hears = await one.seat("Ada")
    async with two.chat.join("lobby", "Grace", "x" * 32, Ear()):
        await eventually(lambda: names(ada) == ["Ada", "Grace"])
    await eventually(lambda: (Change.LEFT, "Grace") in hears.changes)
    assert names(ada) == ["Ada"]


async def test_nothing_is_left_of_a_room_that_all_have_left(servers: Servers) -> None:
    server = await servers.start("one")
    for _ in range(3):
        async with server.chat.join("lobby", "Ada", "x" * 32, Ear()):
            assert servers.channels.listeners == 2  # the server's own consumer, and Ada's
            assert server.bus.health().healthy
        assert servers.channels.listeners == 0
        assert server.bus.registrations == []


async def test_announcements_that_get_lost_are_made_good_by_the_roll(servers: Servers) -> None:
    one, two = [await servers.start(name, IMPATIENT) for name in ("one", "two")]
    ada, hears = await one.seat("Ada")
    lost = (UserConnectedV1.type, UserDisconnectedV1.type)
    two.transport.faults.append(DropSilently(when=lambda message: message.type in lost))

    async with two.chat.join("lobby", "Grace", "x" * 32, Ear()):
        await eventually(lambda: names(ada) == ["Ada", "Grace"])
    await eventually(lambda: names(ada) == ["Ada"])
    assert set(hears.changes) == {(Change.PRESENT, "Grace"), (Change.LOST, "Grace")}
    assert hears.changes[-1] == (Change.LOST, "Grace")


async def test_the_people_of_a_server_that_dies_are_missed(servers: Servers) -> None:
    one, two = [await servers.start(name, IMPATIENT) for name in ("one", "two")]
    ada, hears = await one.seat("Ada")
    await two.seat("Grace")
    await eventually(lambda: names(ada) == ["Ada", "Grace"])

    two.transport.faults.append(DropSilently())  # as from a process that is gone, not a byte

    await eventually(lambda: names(ada) == ["Ada"])
    assert hears.changes[-1] == (Change.LOST, "Grace")
    two.transport.faults.clear()  # it was not dead, but frozen
    await eventually(lambda: names(ada) == ["Ada", "Grace"])


async def test_one_who_is_cut_off_sees_it_keeps_all_and_is_whole_again(servers: Servers) -> None:
    one, two = [await servers.start(name, IMPATIENT) for name in ("one", "two")]
    ada, ada_hears = await one.seat("Ada")
    grace, grace_hears = await two.seat("Grace")
    await eventually(lambda: names(ada) == names(grace) == ["Ada", "Grace"])

    await one.transport.lose_connection()
    await eventually(lambda: ada_hears.reach == [False])
    await eventually(lambda: (Change.LOST, "Ada") in grace_hears.changes)
    assert names(ada) == ["Ada", "Grace"], "that she hears nothing is no news of Grace"
    with pytest.raises(UnavailableError, match="cannot reach each other"):
        await ada.say(uuid4(), "hello?")
    with pytest.raises(UnavailableError, match="cannot reach each other"):
        await one.seat("Alan")

    await one.transport.restore_connection()
    await eventually(lambda: ada_hears.reach == [False, True])
    await eventually(lambda: names(grace) == ["Ada", "Grace"])
    await ada.say(uuid4(), "there I am")
    await eventually(lambda: grace_hears.texts == ["there I am"])


async def test_a_message_that_was_not_sent_can_be_sent_again(servers: Servers) -> None:
    server = await servers.start("one")
    ada, hears = await server.seat("Ada")
    said = MessageSentV1.type
    server.transport.faults.append(FailPublish(times=1, when=lambda m: m.type == said))
    message = uuid4()

    with pytest.raises(UnavailableError, match="cannot reach each other"):
        await ada.say(message, "hello")
    await ada.say(message, "hello")
    await eventually(lambda: [heard.message_id for heard in hears.messages] == [message])


async def test_a_message_that_was_perhaps_sent_comes_again_as_the_same_message(
    servers: Servers,
) -> None:
    server = await servers.start("one")
    ada, hears = await server.seat("Ada")
    fault = UnknownOutcome(taken=True, times=1, when=lambda m: m.type == MessageSentV1.type)
    server.transport.faults.append(fault)
    message: UUID = uuid4()

    with pytest.raises(UnavailableError, match="nobody knows whether it was sent"):
        await ada.say(message, "hello")
    await ada.say(message, "hello")
    await eventually(lambda: len(hears.messages) == 2)
    assert {heard.message_id for heard in hears.messages} == {message}  # which pages show once


async def test_one_who_is_refused_leaves_nothing_behind(servers: Servers) -> None:
    server = await servers.start("one")
    for room, name, key in [("", "Ada", "x" * 32), ("lobby", " ", "x" * 32), ("lobby", "Ada", "x")]:
        with pytest.raises(RefusedError):
            async with server.chat.join(room, name, key, Ear()):
                raise AssertionError("nobody is seated")
    assert servers.channels.listeners == 0


async def test_a_roll_that_ends_makes_the_server_unready(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await servers.start("one")
    assert server.chat.alive

    def fail() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(server.bus, "health", fail)
    await eventually(lambda: not server.chat.alive)
