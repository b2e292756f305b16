"""What people may call themselves and say."""

from __future__ import annotations

import pytest

from examples.online_chat.domain.names import (
    RefusedError,
    message_text,
    room_name,
    user_id,
    user_name,
)


@pytest.mark.parametrize("given", ["lobby", "Lobby", " #LOBBY ", "\uff4c\uff4f\uff42\uff42\uff59"])
def test_a_room_has_one_spelling(given: str) -> None:
    assert room_name(given) == "lobby"


@pytest.mark.parametrize("given", ["кухня", "<b>", "日本", "🎉", "a-b_c.d", "ß" * 16])
def test_a_room_may_be_called_what_can_be_seen(given: str) -> None:
    assert room_name(given)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("", "a room needs a name"),
        (" # ", "a room needs a name"),
        ("x" * 33, "at most 32 characters, not 33"),
        ("two words", "no spaces"),
        ("a\u202eb", "no invisible characters"),
        ("a\nb", "no spaces"),
        ("a\ud800", "no invisible characters"),
    ],
)
def test_a_room_that_cannot_be_is_refused(given: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        room_name(given)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (" Ada  Lovelace ", "Ada Lovelace"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("\u202eevil", "\u202eevil"),
        ("👩‍👩‍👧‍👦", "👩‍👩‍👧‍👦"),
    ],
)
def test_a_name_stays_what_it_is(given: str, kept: str) -> None:
    assert user_name(given) == kept


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("", "can be seen"),
        ("\u200b\u202e", "can be seen"),
        ("x" * 33, "at most 32 characters, not 33"),
        ("a\x00b", "no control characters"),
        ("a\ud800", "not all of it is text"),
    ],
)
def test_a_name_that_cannot_be_is_refused(given: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        user_name(given)


def test_a_message_may_have_4_kb_of_emoji_and_not_a_byte_more() -> None:
    assert message_text("🎉" * 1024) == "🎉" * 1024
    with pytest.raises(RefusedError, match="4,097 bytes, the limit is 4,096"):
        message_text("🎉" * 1024 + "!")


@pytest.mark.parametrize("given", ["", "  \n ", "\u200b"])
def test_an_empty_message_is_refused(given: str) -> None:
    with pytest.raises(RefusedError, match="the message is empty"):
        message_text(given)


def test_half_a_character_is_refused() -> None:
    with pytest.raises(RefusedError, match="not all of it is text"):
        message_text("half \ud83c of one")


def test_an_id_is_of_its_key_alone_and_short() -> None:
    ada, grace = user_id("a" * 16), user_id("g" * 16)
    assert ada == user_id("a" * 16) != grace
    assert len(ada) == 6
    assert ada.isalnum()


@pytest.mark.parametrize("key", ["", "x" * 15, "x" * 65])
def test_a_key_that_could_be_guessed_or_fills_memory_is_refused(key: str) -> None:
    with pytest.raises(RefusedError, match="16 to 64 characters"):
        user_id(key)
