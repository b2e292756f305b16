"""Who is in a room, whatever gets lost on the way: the rules alone, at given times."""

from __future__ import annotations

import pytest

from examples.online_chat.contracts import Attendee
from examples.online_chat.domain.presence import Change, Presence

ADA = Attendee(id="ada", name="Ada")
GRACE = Attendee(id="grace", name="Grace")
NAMESAKE = Attendee(id="other", name="Ada")


@pytest.fixture
def presence() -> Presence:
    return Presence("here", timeout=7)


def test_one_who_comes_and_goes_is_reported_once_each(presence: Presence) -> None:
    assert presence.connect("there", "c1", ADA, 0) == [(Change.JOINED, ADA)]
    assert presence.connect("there", "c1", ADA, 0) == []
    assert presence.members == [ADA]
    assert presence.disconnect("there", "c1", 1) == [(Change.LEFT, ADA)]
    assert presence.disconnect("there", "c1", 1) == []
    assert presence.members == []


def test_two_of_one_name_are_two(presence: Presence) -> None:
    presence.connect("here", "c1", ADA, 0)
    presence.connect("there", "c2", NAMESAKE, 0)
    assert presence.members == [ADA, NAMESAKE]


def test_one_with_two_connections_is_one_until_both_are_gone(presence: Presence) -> None:
    # A page that reconnects elsewhere before the first server has noticed that it is gone.
    presence.connect("there", "c1", ADA, 0)
    assert presence.connect("here", "c2", ADA, 0) == []
    assert presence.members == [ADA]
    assert presence.disconnect("there", "c1", 1) == []
    assert presence.members == [ADA]
    assert presence.disconnect("here", "c2", 1) == [(Change.LEFT, ADA)]


def test_a_list_puts_right_what_got_lost(presence: Presence) -> None:
    presence.connect("there", "c1", ADA, 0)
    assert presence.attend("there", {"c2": GRACE}, 1) == [
        (Change.LOST, ADA),
        (Change.PRESENT, GRACE),
    ]
    assert presence.members == [GRACE]


def test_a_silent_server_is_missed_after_the_patience_and_not_before(presence: Presence) -> None:
    presence.connect("there", "c1", ADA, 0)
    presence.connect("elsewhere", "c2", GRACE, 0)
    presence.attend("elsewhere", {"c2": GRACE}, 5)
    assert presence.expire(7) == []
    assert presence.expire(7.1) == [(Change.LOST, ADA)]
    assert presence.members == [GRACE]
    assert presence.expire(8) == []


def test_a_server_never_misses_itself(presence: Presence) -> None:
    presence.connect("here", "c1", ADA, 0)
    assert presence.expire(1000) == []
    assert presence.members == [ADA]


def test_one_who_was_cut_off_holds_silence_against_nobody(presence: Presence) -> None:
    presence.connect("there", "c1", ADA, 0)
    presence.excuse(100)
    assert presence.expire(106) == []
    assert presence.expire(108) == [(Change.LOST, ADA)]


def test_a_missed_server_that_speaks_again_is_back(presence: Presence) -> None:
    presence.attend("there", {"c1": ADA}, 0)
    presence.expire(10)
    assert presence.attend("there", {"c1": ADA}, 11) == [(Change.PRESENT, ADA)]


def test_what_is_handed_out_changes_nothing(presence: Presence) -> None:
    presence.connect("here", "c1", ADA, 0)
    presence.members.clear()
    given = {"c2": GRACE}
    presence.attend("there", given, 0)
    given.clear()
    assert presence.members == [ADA, GRACE]
    assert presence.of("here") == {"c1": ADA}
    assert presence.of("nowhere") == {}
