"""Messages as NATS has them: headers out and in, and what an acknowledgement's subject tells.

CloudEvents attributes travel as they are. NATS trims values and knows ASCII only, so a value of
another header that would not survive is percent-encoded, and `events-encoded` names those headers:
whatever a program without this package writes is taken as it is. Names that begin with `events-` or
`Nats-`, in this case, are for the transport and the server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple, overload
from urllib.parse import quote, unquote

from events.errors import InvalidTopologyError
from events.integration._attributes import key_in
from events.integration.brokering.dead_letters import ID, PREFIX
from events.integration.cloudevents import own_id

MSG_ID = "Nats-Msg-Id"
ENCODED = "events-encoded"
KEY = "events-key"
LARGEST_BLOCK = (1 << 16) - 1  # bytes of headers that JetStream stores
BLANKS = str.maketrans("\r\n", "  ")  # for what would break a header's line

_survives = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?").fullmatch
_reserved = ("Nats-", PREFIX)
_UUID = 36  # characters
_FIRST_LINE = "NATS/1.0"
_breaks = re.compile(r"[\r\n:]").search
_breaks_line = re.compile(r"[\r\n]").search
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F))).replace("%", "") + " "


def outgoing(headers: Mapping[str, str], id: str, key: str | None) -> bytes:
    """Return what is sent for these headers of a message, as a block."""
    values = "".join(headers.values()) + id
    if len(id) != _UUID and "ce-source" in headers:
        # The server drops what comes with the id of another, and this one may be another's as well.
        id = f"{headers['ce-source']} {id}"  # noqa: A001
    if values.isascii() and values.isprintable() and " " not in values:  # the usual case
        sent = {MSG_ID: id, **headers}
    else:
        sent = {MSG_ID: id if _survives(id) else quote(id)}
        encoded: list[str] = []
        for name, value in headers.items():
            if _survives(value):
                sent[name] = value
            else:
                sent[name] = quote(value, safe="")
                encoded.append(name)
        if encoded:
            sent[ENCODED] = ",".join(encoded)
    if key is not None and "ce-partitionkey" not in headers:
        sent[KEY] = text_out(key)
    return block(sent)


def users(headers: Mapping[str, str]) -> dict[str, str]:
    """Undo `outgoing`: return the headers that the sender gave."""
    read: dict[str, str] = {}
    for name, value in headers.items():
        shown = _shown(name)
        if shown is not None:
            read[shown] = value
    if ENCODED in headers:
        for name in headers[ENCODED].split(","):
            if name in read:
                read[name] = unquote(read[name])
    return read


@lru_cache(1024)
def _shown(name: str) -> str | None:
    """Return a header's name as handlers see it; None if they do not."""
    return None if name.startswith(_reserved) else name.lower()


def id_of(headers: Mapping[str, str], read: Mapping[str, str], body: bytes, otherwise: str) -> str:
    """Return the event's id, or the other one if it has none.

    It is that of CloudEvents, in whichever mode it came; the server's message id may be one that a
    client made up for each publish.
    """
    return own_id(read, body) or text_in(headers.get(ID)) or headers.get(MSG_ID) or otherwise


def own_key(headers: Mapping[str, str], read: Mapping[str, str]) -> str | None:
    """Return the message's key."""
    key = key_in(read)
    return text_in(headers.get(KEY)) if key is None else key


def text_out(text: str) -> str:
    """Encode any text for a header of ours; as readable as ASCII allows."""
    encoded = quote(text, safe=_PRINTABLE, errors="replace")
    return encoded if encoded == encoded.strip() else quote(text, errors="replace")


@overload
def text_in(value: str) -> str: ...
@overload
def text_in(value: str | None) -> str | None: ...
def text_in(value: str | None) -> str | None:
    """Undo `text_out`."""
    return unquote(value) if value and "%" in value else value


def block(headers: Mapping[str, str]) -> bytes:
    """Write headers as they travel: a line each, after a first one.

    What would break a line within a value, as other programs can send it, becomes a blank.

    Raises:
        InvalidTopologyError: a name would be read as something else.
    """
    if _breaks("".join(headers)):
        names = [name for name in headers if _breaks(name)]
        raise InvalidTopologyError(
            f"headers {names}", "NATS cannot carry a name with a colon or a line break"
        )
    if _breaks_line("".join(headers.values())):
        headers = {name: value.translate(BLANKS) for name, value in headers.items()}
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    return f"{_FIRST_LINE}\r\n{''.join(lines)}\r\n".encode()


def parse_block(block: bytes) -> dict[str, str]:
    """Read headers as they travel and as they are stored.

    What stands in the first line, the server says with it: a status, and what that means.
    """
    first, *lines = block.decode("utf-8", "replace").split("\r\n")
    headers: dict[str, str] = {}
    if len(first) > len(_FIRST_LINE):
        status, _, description = first[len(_FIRST_LINE) :].strip().partition(" ")
        headers["Status"], headers["Description"] = status, description
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip()] = value.strip()
    return headers


class Position(NamedTuple):
    """A delivered message's place in its stream, its time, and how often it was delivered."""

    sequence: int
    stored: str
    delivered: int


def position(reply: str) -> Position:
    """Read `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer sequence>.<time>...`.

    With a domain and an account's hash there are two tokens more before the stream's.
    """
    tokens = reply.split(".")
    first = 4 if len(tokens) <= 9 else 6  # noqa: PLR2004 - the two forms there are
    return Position(int(tokens[first + 1]), tokens[first + 3], int(tokens[first]))
