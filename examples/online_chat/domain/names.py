"""What people may call rooms and themselves, and say.

Text stays what it is, whatever it looks like: that it is shown as text is the page's business.
"""

import base64
import hashlib
import unicodedata

ROOM_LENGTH = 32  # characters
NAME_LENGTH = 32
MESSAGE_BYTES = 4096
KEY_LENGTH = range(16, 65)


class RefusedError(Exception):
    """Something that somebody asked for cannot be; the text is for them to read."""


def room_name(given: str) -> str:
    """Give the one spelling of a room's name, so that "Lobby" and "#lobby " are the same room."""
    room = unicodedata.normalize("NFKC", given).strip().removeprefix("#").casefold()
    if not room:
        raise RefusedError("a room needs a name")
    if len(room) > ROOM_LENGTH:
        raise RefusedError(f"a room's name has at most {ROOM_LENGTH} characters, not {len(room)}")
    if not room.isprintable() or any(character.isspace() for character in room):
        raise RefusedError("a room's name has no spaces and no invisible characters")
    return room


def user_name(given: str) -> str:
    """Collapse white space; refuse what nobody could see or what breaks lines."""
    name = " ".join(given.split())
    if not any(_is_visible(character) for character in name):
        raise RefusedError("a name needs at least one character that can be seen")
    if len(name) > NAME_LENGTH:
        raise RefusedError(f"a name has at most {NAME_LENGTH} characters, not {len(name)}")
    if any(unicodedata.category(character) == "Cc" for character in name):
        raise RefusedError("a name has no control characters")
    _utf8(name)
    return name


def message_text(given: str) -> str:
    """Refuse what is empty or too long; the white space within is the author's."""
    text = given.strip()
    size = len(_utf8(text))
    if not any(_is_visible(character) for character in text):
        raise RefusedError("the message is empty")
    if size > MESSAGE_BYTES:
        raise RefusedError(f"the message has {size:,} bytes, the limit is {MESSAGE_BYTES:,}")
    return text


def user_id(key: str) -> str:
    """Return the short id of the holder of this key: the same at each server, after each reconnect.

    It tells two people of one name apart. It proves nothing: something so short can be found for
    another key by trying.
    """
    if len(key) not in KEY_LENGTH:
        raise RefusedError(f"a key has {KEY_LENGTH[0]} to {KEY_LENGTH[-1]} characters")
    digest = hashlib.sha256(b"online-chat:" + _utf8(key)).digest()
    return base64.b32encode(digest).decode().lower()[:6]


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates, as JSON may spell one
        raise RefusedError("not all of it is text") from None


def _is_visible(character: str) -> bool:
    return unicodedata.category(character)[0] not in "CZ"
