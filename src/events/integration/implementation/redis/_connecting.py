"""Make connections to Redis: the only module that imports the driver.

Every connection is our own, so a read that blocks, a pipeline and a subscription never wait for
each other, nor for other code that shares a client. A client that the user passes in is read for
how to connect (address, credentials, TLS, Sentinel) and otherwise left alone.

`ReplyError` is the server's "no"; `DisconnectedError` is all that ends a connection. No other
exception of the driver's leaves this module or `_link`.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Protocol, TypeAlias, cast
from urllib.parse import urlsplit

from events.errors import InvalidTopologyError, MissingExtraError
from events.integration.brokering.urls import masked

try:
    from redis.asyncio import Redis
    from redis.asyncio.connection import ConnectionPool
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
except ImportError as error:  # pragma: no cover - the packaging test runs it
    raise MissingExtraError("events.integration.implementation.redis", "redis") from error

_pack: Callable[[Any], bytes] | None = None
with suppress(ImportError):  # the extra brings it, and the driver does without
    _pack = import_module("hiredis").pack_command

__all__ = [
    "CONNECTION_ERRORS",
    "Connection",
    "Connector",
    "DisconnectedError",
    "Redis",
    "ReplyError",
    "ResponseError",
    "connector",
    "is_fatal",
    "packed",
]

CONNECTION_ERRORS = (RedisError, OSError, TimeoutError, EOFError)

_CODES = {
    "NoScriptError": "NOSCRIPT",
    "NoPermissionError": "NOPERM",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
}
_in_script = re.compile(r"^Error running script.*@user_script: ?\d+: -?([A-Z]+) ").match
_SCHEMES = frozenset({"redis", "rediss", "unix"})


def is_fatal(error: BaseException) -> bool:
    """Return whether another try to connect would end alike."""
    if isinstance(error, (AuthenticationError, NoPermissionError)):
        return True
    # What TLS said is the cause; the driver wraps it.
    return any(
        isinstance(each, ssl.SSLCertVerificationError)
        for each in (error, error.__cause__, error.__context__)
    )


class ReplyError(Exception):
    """The server answered with an error; it did not do what it was asked.

    `code` is the error's first word, as in `NOGROUP`. The driver drops it where it has a class for
    it; here it stands before the text again.
    """

    def __init__(self, error: ResponseError) -> None:
        text = str(error)
        in_script = _in_script(text)  # Redis 6.2 wraps what a script's command said
        dropped = _CODES.get(type(error).__name__)
        self.code = dropped or (in_script and in_script[1]) or text.partition(" ")[0]
        super().__init__(f"{dropped} {text}" if dropped else text)


class DisconnectedError(Exception):
    """There was no answer. `sent` tells whether the server may have done it nevertheless."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class Connection(Protocol):
    """The part of redis-py's connection that is used here."""

    @property
    def is_connected(self) -> bool: ...

    async def connect(self) -> None: ...

    async def disconnect(self, nowait: bool = False) -> None: ...  # noqa: FBT001, FBT002

    def pack_commands(self, commands: Iterable[Sequence[object]]) -> list[bytes]: ...

    async def send_packed_command(
        self,
        command: list[bytes],
        check_health: bool = True,  # noqa: FBT001, FBT002
    ) -> None: ...

    async def read_response(
        self,
        disable_decoding: bool = False,  # noqa: FBT001, FBT002
        *,
        disconnect_on_error: bool = True,
    ) -> Any: ...


Connector: TypeAlias = Callable[[], Connection]


def packed(connection: Connection, commands: Sequence[tuple[Any, ...]]) -> list[bytes]:
    """Return commands as they are written: by hiredis, as the driver takes four times as long.

    What is text is written as UTF-8, as hiredis does and as we read: a client that was given may
    have another encoding for its own affairs.
    """
    if _pack is None:
        return connection.pack_commands([_in_utf_8(command) for command in commands])
    return [b"".join(map(_pack, commands))]


def _in_utf_8(command: tuple[Any, ...]) -> list[Any]:
    return [word.encode() if isinstance(word, str) else word for word in command]


def connector(bus: str, server: str | Redis) -> Connector:
    """Return what makes a new connection, not yet connected, each time it is called.

    Raises:
        InvalidTopologyError: it is nothing that one can connect to.
    """
    pool: Any
    if isinstance(server, str):
        pool = _pool_of_url(bus, server)
    else:
        pool = getattr(server, "connection_pool", None)
        if pool is None or not hasattr(pool, "connection_kwargs"):
            raise InvalidTopologyError(
                bus,
                f"{type(server).__name__} is neither a URL nor a redis.asyncio.Redis; Redis "
                f"Cluster is not supported; for a master behind Sentinel, pass "
                f"Sentinel(...).master_for(name)",
            )
    options = {
        "protocol": 2,  # one form of each reply, whatever the server is
        "decode_responses": False,
        "socket_timeout": None,  # deadlines are ours: a blocking read and a send differ
        "health_check_interval": 0,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
    }

    def make() -> Connection:
        return cast("Connection", pool.connection_class(**{**_plain(pool), **options}))

    return make


def _plain(pool: Any) -> dict[str, Any]:
    kwargs = dict(pool.connection_kwargs)
    # The driver's own (8.x) for servers that announce their maintenance in RESP3 pushes.
    return {name: kwargs[name] for name in kwargs if "maint_notifications" not in name}


def _pool_of_url(bus: str, url: str) -> Any:
    scheme, database = urlsplit(url).scheme, urlsplit(url).path.strip("/")
    if scheme not in _SCHEMES:
        raise InvalidTopologyError(
            f"{bus} at {masked(url)}",
            f"the scheme must be redis, rediss or unix, not {scheme!r}; for a master behind "
            f"Sentinel pass Sentinel(...).master_for(name); Redis Cluster is not supported",
        )
    if scheme != "unix" and database and not database.isdecimal():
        # The driver takes it for no database at all, which is 0.
        raise InvalidTopologyError(
            f"{bus} at {masked(url)}", f"the database must be a number, as in /0, not {database!r}"
        )
    try:
        of: Any = ConnectionPool
        pool = of.from_url(url)
        pool.connection_class(**_plain(pool))  # which is not connected: it knows its options
    except (ValueError, TypeError) as error:
        raise InvalidTopologyError(f"{bus} at {masked(url)}", str(error)) from error
    return pool
