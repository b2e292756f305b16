"""What travels over the socket: JSON objects with a `type`, one a frame. The README has the table.

A page asks with an `id` of its own choice and gets one answer with that id: `ok` or `failed`. What
cannot be read is answered too, with the id if there is one to be found. Everything else that comes
is news.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeAlias
from uuid import UUID

from msgspec import DecodeError, Meta, Struct, ValidationError, json

from examples.online_chat.contracts import Attendee
from examples.online_chat.domain.names import RefusedError

RequestId = Annotated[str, Meta(min_length=1, max_length=64)]


# --- what the page asks ---------------------------------------------------------------------------


class Join(Struct, tag_field="type", tag="join", frozen=True):
    """Come into a room. `key` is the page's secret; the id that others see is made of it."""

    id: RequestId
    room: str
    name: str
    key: str


class Say(Struct, tag_field="type", tag="say", frozen=True):
    """Say something. `message` names the message, so that a second try makes no second message."""

    id: RequestId
    message: UUID
    text: str


class Ping(Struct, tag_field="type", tag="ping", frozen=True):
    """Ask whether the server is there."""

    id: RequestId


Request: TypeAlias = Join | Say | Ping


# --- what the server tells ------------------------------------------------------------------------


class Ok(Struct, tag_field="type", tag="ok", frozen=True):
    id: str


class Joined(Struct, tag_field="type", tag="ok", frozen=True):
    """The answer to `join`: the room's one spelling, who you are, and who is there."""

    id: str
    room: str
    you: Attendee
    members: list[Attendee]


class Failed(Struct, tag_field="type", tag="failed", frozen=True):
    """It was not done, and why. `retry` says whether the same may go through another time."""

    id: str | None
    reason: str
    retry: bool = False


class Message(Struct, tag_field="type", tag="message", frozen=True):
    id: UUID
    author: Attendee
    text: str
    at: datetime


class Presence(Struct, tag_field="type", tag="presence", frozen=True):
    """Somebody `joined`, `left`, is `present` (was before we knew), or `lost` (without leaving)."""

    change: str
    member: Attendee


class Reach(Struct, tag_field="type", tag="reach", frozen=True):
    """Whether the servers hear each other; if not, nothing can be said for the moment."""

    connected: bool


Frame: TypeAlias = Ok | Joined | Failed | Message | Presence | Reach


class RefusedFrameError(RefusedError):
    """A frame that is no request; `id` is the request's, if it has one."""

    def __init__(self, reason: str, id: str | None) -> None:
        super().__init__(reason)
        self.id = id


class _Identified(Struct):
    id: RequestId


# Any, as a decoder of a union has no type that both checkers know.
_requests: json.Decoder[Any] = json.Decoder(Request)
_identified = json.Decoder(_Identified)


def read(frame: str | bytes | None) -> Request:
    """Read a request, or raise `RefusedFrameError`."""
    if not isinstance(frame, str):
        raise RefusedFrameError("send text, not binary data", None)
    try:
        request: Request = _requests.decode(frame)
    except ValidationError as error:
        raise RefusedFrameError(f"not a request: {error}", _id_of(frame)) from None
    except (DecodeError, UnicodeError, RecursionError) as error:
        raise RefusedFrameError(f"not JSON: {error}", None) from None
    return request


def write(frame: Frame) -> str:
    return json.encode(frame).decode()


def _id_of(frame: str) -> str | None:
    try:
        return _identified.decode(frame).id
    except DecodeError:
        return None
