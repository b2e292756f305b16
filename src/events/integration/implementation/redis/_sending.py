"""The server's answer to a message: accepted, refused permanently, or not now.

A permission that is missing and a key that is no stream stay so until they are changed: the
message alone fails. All else that the server answers is its state, such as that it is full or a
replica, and passes.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from events.errors import (
    BusError,
    BusUnavailableError,
    SendOutcomeUnknownError,
    SendRefusedError,
)
from events.integration.brokering.problems import Problems
from events.integration.implementation.redis._connecting import DisconnectedError, ReplyError
from events.integration.implementation.redis._link import Link
from events.integration.message import Message

REFUSALS = frozenset({"NOPERM", "WRONGTYPE"})
"""Errors that remain until the server's configuration or data change."""

_ALL = "all"  # the problem that keeps it from any topic


class Sending:
    """Send the messages of one bus, and keep what is wrong with that for `health()`."""

    def __init__(self, bus: str, timeout: float) -> None:
        self._bus = bus
        self._timeout = timeout
        self._problems = Problems(bus)

    @property
    def error(self) -> str | None:
        """Return why something could not be sent when it was last tried."""
        return self._problems.text

    def send(self, link: Link, message: Message, *command: Any) -> asyncio.Future[Any]:
        """Send it now by this command; the future has a `BusError` if it is not taken."""
        sent = link.ask(command, self._timeout, self._not_taken, message)
        if self._problems.reasons:
            sent.add_done_callback(partial(self._taken, message.topic))
        return sent

    def _not_taken(self, message: Message, error: ReplyError | DisconnectedError) -> BusError:
        if isinstance(error, DisconnectedError):
            if error.sent:
                return SendOutcomeUnknownError(self._bus, message.id, str(error))
        elif error.code in REFUSALS:
            self._problems.report(message.topic, f"cannot send to {message.topic!r}: {error}")
            return SendRefusedError(self._bus, message.topic, str(error))
        elif error.code != "READONLY":  # of which the link says all there is
            self._problems.report(_ALL, f"cannot send: {error}")
        return BusUnavailableError(self._bus, str(error))

    def _taken(self, topic: str, sent: asyncio.Future[Any]) -> None:
        if not sent.cancelled() and sent.exception() is None:
            self._problems.clear(topic)
            self._problems.clear(_ALL)
