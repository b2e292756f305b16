"""Requests to JetStream's API, with a deadline and our own errors."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from events.errors import BusUnavailableError
from events.integration.implementation.nats._link import Link

__all__ = ["Api", "ApiError", "Nothing"]

T = TypeVar("T")

_PREFIX = "$JS.API."


class ApiError(Exception):
    """What JetStream answered instead: an HTTP-like code, its own number, and why."""

    def __init__(self, code: int, number: int, description: str) -> None:
        super().__init__(f"{description} (code {code}, {number})")
        self.code = code
        self.number = number
        self.description = description

    @property
    def not_found(self) -> bool:
        """Tell whether it is only that something is not there."""
        return self.code == 404  # noqa: PLR2004


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

    def __init__(self, link: Link, timeout: float) -> None:
        self._link = link
        self._timeout = timeout

    async def request(self, verb: str, body: Any, answer: type[T]) -> T:
        """Return the answer to a request; raise `ApiError` if it is an error."""
        data = b"" if body is None else msgspec.json.encode(body)
        try:
            # nats-py waits without a limit where its buffer is full.
            async with asyncio.timeout(self._timeout):
                message = await self._link.client.request(_PREFIX + verb, data, self._timeout)
        except NoRespondersError as error:
            raise BusUnavailableError(
                self._link.name,
                "JetStream does not answer: it is not enabled (`-js`), not for this account, or "
                "has no leader",
            ) from error
        except (NatsError, OSError, TimeoutError) as error:
            self._link.suspect()
            said = str(error) or type(error).__name__
            raise BusUnavailableError(
                self._link.name, f"{verb.split('.', 2)[:2]}: {said}"
            ) from error
        failed = msgspec.json.decode(message.data, type=_Answer).error
        if failed is not None:
            raise ApiError(failed.code, failed.err_code, failed.description)
        return msgspec.json.decode(message.data, type=answer)
