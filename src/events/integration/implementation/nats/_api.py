"""Requests to JetStream's API, with a deadline and our own errors."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, TypeVar

import msgspec
from nats.errors import Error as NatsError

from events.errors import BusUnavailableError
from events.integration.implementation.nats._denials import Denial
from events.integration.implementation.nats._driver import Incoming
from events.integration.implementation.nats._link import Link
from events.integration.implementation.nats._writer import Outgoing, Writer

T = TypeVar("T")

_PREFIX = "$JS.API."
_HEARTBEAT = "100"


class ApiError(Exception):
    """An error of JetStream: an HTTP-like code, JetStream's own code, and the reason."""

    def __init__(self, code: int, number: int, description: str) -> None:
        super().__init__(f"{description} (code {code}, {number})")
        self.code = code
        self.number = number
        self.description = description

    @property
    def not_found(self) -> bool:
        """Return whether it is only that something is not there."""
        return self.code == 404  # noqa: PLR2004


class DeniedError(BusUnavailableError):
    """Raised when we may not ask this; it is the server's permissions that must change."""


class _Error(msgspec.Struct):
    code: int = 500
    err_code: int = 0
    description: str = "no description"


class _Answer(msgspec.Struct):
    error: _Error | None = None


class Nothing(msgspec.Struct):
    """An answer of which only matters that it is no error."""


class Api:
    """Ask JetStream. Every request raises `BusUnavailableError` when there is no answer in time."""

    def __init__(self, link: Link, writer: Writer, timeout: float) -> None:
        self._link = link
        self._writer = writer
        self._timeout = timeout
        self._numbers = itertools.count()
        self._waiting: dict[str, tuple[Outgoing, asyncio.Future[Incoming]]] = {}
        self._inbox = ""
        link.add_listener(self._on_up)
        link.on_denied.append(self._on_denied)

    async def request(self, verb: str, body: Any, answer: type[T]) -> T:
        """Return the answer to a request; raise `ApiError` if it is an error."""
        data = b"" if body is None else msgspec.json.encode(body)
        subject = f"{self._inbox}.{next(self._numbers)}"
        asking = Outgoing(_PREFIX + verb, data, subject)
        waiting: asyncio.Future[Incoming] = asyncio.get_running_loop().create_future()
        self._waiting[subject] = asking, waiting
        self._writer.put(asking)
        try:
            async with asyncio.timeout(self._timeout):
                message = await waiting
        except TimeoutError as error:
            said = f"no answer to {verb} within {self._timeout:g} s"
            raise BusUnavailableError(self._link.name, said) from error
        finally:
            asking.abandoned = True
            del self._waiting[subject]
        if message.headers is not None and "Status" in message.headers:
            raise BusUnavailableError(
                self._link.name,
                "JetStream does not answer: it is not enabled (`-js`), not for this account, or "
                "has no leader",
            )
        failed = msgspec.json.decode(message.body, type=_Answer).error
        if failed is not None:
            raise ApiError(failed.code, failed.err_code, failed.description)
        return msgspec.json.decode(message.body, type=answer)

    async def pull(
        self, stream: str, consumer: str, batch: int, *, wait: float = 0
    ) -> list[Incoming]:
        """Return up to so many messages that a consumer has now, fewer if it has no more.

        With `wait`, return when it has so many, or after these seconds.
        """
        found: list[Incoming] = []
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def hear(message: Incoming) -> None:
            # A stored message comes under its own subject, and may have a header of that name.
            if message.subject == inbox:
                status = (message.headers or {}).get("Status")
                if status != _HEARTBEAT and not over.done():
                    over.set_result(None)
                return
            found.append(message)
            if len(found) >= batch and not over.done():
                over.set_result(None)

        inbox = self._link.client.new_inbox()
        try:
            heard = await self._link.listen(inbox, hear)
            try:
                how = {"expires": int(wait * 10**9)} if wait else {"no_wait": True}
                asked = msgspec.json.encode({"batch": batch, **how})
                verb = f"{_PREFIX}CONSUMER.MSG.NEXT.{stream}.{consumer}"
                self._writer.put(Outgoing(verb, asked, inbox))
                count = -1
                while not over.done():
                    if count == len(found):
                        said = f"no messages from {consumer} within {self._timeout:g} s"
                        raise BusUnavailableError(self._link.name, said)
                    count = len(found)
                    await asyncio.wait([over], timeout=self._timeout + wait)
            finally:
                await self._link.leave(heard)
        except (NatsError, OSError) as error:
            said = f"no messages from {consumer}: {error!r}"
            raise BusUnavailableError(self._link.name, said) from error
        return found

    async def _on_up(self, fresh: bool) -> None:  # noqa: FBT001 - a listener
        if fresh:
            self._inbox = self._link.client.new_inbox()
            await self._link.listen(f"{self._inbox}.*", self._on_answer)
            for asked, waiting in self._waiting.values():
                # Its answer would go to an inbox that no longer exists. The caller asks again.
                asked.abandoned = True
                if not waiting.done():
                    lost = BusUnavailableError(self._link.name, "the connection was lost meanwhile")
                    waiting.set_exception(lost)

    def _on_denied(self, denial: Denial) -> None:
        for asked, waiting in self._waiting.values():
            if asked.written and not waiting.done() and asked.subject.lower() == denial.subject:
                waiting.set_exception(DeniedError(self._link.name, denial.text))
                return

    def _on_answer(self, message: Incoming) -> None:
        _, waiting = self._waiting.get(message.subject, (None, None))
        if waiting is not None and not waiting.done():
            waiting.set_result(message)
