"""A topic as one sees it who only looks: by an ephemeral consumer, in order, from the end on.

The server keeps it in memory, counts nothing for it, and removes it when no client asks by it
for a while. Where it is gone, as after a restart, the next one begins behind the last message
shown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from events.errors import BusUnavailableError, InvalidTopologyError
from events.integration.cloudevents import attribute
from events.integration.implementation.nats import _wire as wire
from events.integration.implementation.nats._api import Api, ApiError, Nothing
from events.integration.implementation.nats._driver import Incoming
from events.integration.implementation.nats._names import redrive_subject, type_in
from events.integration.implementation.nats._topology import NANO
from events.integration.message import Message

T = TypeVar("T")

_KEPT = 10  # seconds without a request, after which the server removes the consumer
_WAIT = 2.0  # seconds that a request waits for the first message
_AT_ONCE = 500


class _State(msgspec.Struct):
    last_seq: int = 0


class _Stream(msgspec.Struct):
    state: _State


class _Made(msgspec.Struct):
    name: str


class Tail:
    """Show what is added to one stream."""

    def __init__(self, api: Api, stream: str, topic: str) -> None:
        self._api = api
        self._stream = stream
        self._topic = topic
        self._next = 0
        # Events that an operator sent back are for one consumer, and were shown when they came.
        self._redriven = redrive_subject(stream, "")

    async def run(self, show: Callable[[Message], object], begun: Callable[[], object]) -> None:
        """Show each until cancelled."""
        self._next = await self._end() + 1
        name = await self._make()
        begun()
        try:
            while True:
                found = await self._api.pull(self._stream, name, 1, wait=_WAIT)
                if found:
                    found += await self._api.pull(self._stream, name, _AT_ONCE)
                elif not await self._is_there(name):
                    name = await self._make()
                for message in found:
                    self._next = wire.position(message.reply).sequence + 1
                    if not message.subject.startswith(self._redriven):
                        show(self._message(message))
        finally:
            await self._ask(f"CONSUMER.DELETE.{self._stream}.{name}", Nothing)

    async def _end(self) -> int:
        found = await self._ask(f"STREAM.INFO.{self._stream}", _Stream)
        if found is None:
            raise InvalidTopologyError(
                f"topic {self._topic!r}",
                f"NATS has no stream {self._stream!r}: nothing was ever sent to it; see "
                f"`events describe` for the names of topics",
            )
        return found.state.last_seq

    async def _make(self) -> str:
        config = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._next,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _KEPT * NANO,
        }
        asked = {"stream_name": self._stream, "config": config}
        made = await self._ask(f"CONSUMER.CREATE.{self._stream}", _Made, asked)
        if made is None:
            raise BusUnavailableError("NATS", f"stream {self._stream!r} was removed")
        return made.name

    async def _is_there(self, name: str) -> bool:
        return await self._ask(f"CONSUMER.INFO.{self._stream}.{name}", Nothing) is not None

    async def _ask(self, verb: str, answer: type[T], body: object = None) -> T | None:
        try:
            return await self._api.request(verb, body, answer)
        except ApiError as error:
            if error.not_found:
                return None
            raise BusUnavailableError("NATS", f"{verb}: {error}") from error

    def _message(self, message: Incoming) -> Message:
        headers = message.headers or {}
        read = wire.users(headers)
        number = str(wire.position(message.reply).sequence)
        return Message(
            self._topic,
            attribute(read, "type") or type_in(self._stream, message.subject),
            wire.id_of(headers, read, message.body, number),
            message.body,
            read,
            wire.own_key(headers, read),
        )
