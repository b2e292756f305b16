"""Redis Streams with what Redis 6.2 has: a user of a newer server that may use nothing newer.

Which commands, subcommands and words of them came later is the server's own knowledge: it tells by
`COMMAND DOCS` since when each is there. Permissions bar the commands, in scripts as well; for words,
all that the server was asked is looked through.
"""

from __future__ import annotations

import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, Self, cast
from uuid import uuid4

import pytest
from redis import Redis
from redis.connection import Connection
from redis.exceptions import ResponseError

from events.testing.contracts import DeliveryContracts, FailureContracts, LifecycleContracts
from tests.brokers.redis_server import RedisServer
from tests.contracts.test_redis_streams_bus import StreamsHarness

OLDEST = (6, 2)
TIMEOUT = 120.0
NEWEST = (sys.maxsize,)
BARRED = "return redis.call('SINTERCARD', 1, 'key')"


# What changed after 6.2 in what we use, and how to tell that a command makes use of it.
CHANGED: dict[str, Callable[[list[str]], bool]] = {
    "Added support for the `<ms>-*` explicit ID form.": lambda c: bool(
        re.match(r"\d+-\*$", c[c.index("*") if "*" in c else 2])
    ),
    "Added the `entries_read` named argument.": lambda c: "ENTRIESREAD" in c,
    "Added support for taking multiple section arguments.": lambda c: len(c) > 2,
    "Allowed the `NX` and `GET` options to be used together.": lambda c: {"NX", "GET"} <= {*c[3:]},
    # An answer that says more: a reader who looks for fields by name sees no difference, and the
    # bus does without the new ones.
    "Added the `entries-read` and `lag` fields": lambda _: False,
    "Added the `inactive` field.": lambda _: False,
    # The script that counts the backlog looks for one of them by name, and does without it.
    "Added the `max-deleted-entry-id`, `entries-added`, `recorded-first-entry-id`, `entries-read` "
    "and `lag` fields": lambda _: False,
    # From 7.2 on it is the time since the consumer last asked, whether it got anything or not. The
    # bus forgets consumers that have not asked for long, and live ones ask.
    "Added the `inactive` field, and changed the meaning of `idle`.": lambda _: False,
}


class Monitor:
    """All that a server is asked, by clients and by scripts: what `MONITOR` shows."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._shown = bytearray()
        self._socket = socket.create_connection(("127.0.0.1", server.port))
        self._socket.sendall(b"MONITOR\r\n")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        # No more than that: a thread that is busy takes the interpreter from the tests' event loop
        # whenever that waits for an answer, and on a busy machine a contract then runs out of time.
        while shown := self._socket.recv(1 << 20):
            self._shown += shown

    def commands(self) -> list[list[str]]:
        """Return what was asked until now, as words in upper case."""
        now = uuid4().hex
        with Redis.from_url(self._server.url) as redis:
            redis.echo(now)
        give_up = time.monotonic() + TIMEOUT
        while now.encode() not in self._shown:
            assert time.monotonic() < give_up, "the server does not show what it is asked"
            time.sleep(0.001)
        lines = self._shown.decode(errors="replace").split("\r\n")
        said = [re.findall(r'"((?:[^"\\]|\\.)*)"', line) for line in lines]
        return [[word.upper() for word in words] for words in said if words]

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


class OldServer(RedisServer):
    """A server with the user `old`, who has what 6.2 has.

    It keeps nothing on disk, as no test here ends it: with a thousand writes in contract 19, each
    of them waited for, a disk that others keep busy would decide whether its timeout is enough.
    """

    def command(self, binary: str) -> list[str]:
        return [*super().command(binary), "--appendonly", "no"]

    def __enter__(self) -> Self:
        super().__enter__()
        connection: Any = cast("Any", Connection)(port=self.port, protocol=3, decode_responses=True)
        connection.connect()  # bare: a client of the driver rewrites what COMMAND says
        connection.send_command("COMMAND", "DOCS")
        self.docs: dict[str, Any] = connection.read_response()
        rules = ["on", ">secret", "~*", "&*", "-@all", *self._rules()]
        connection.send_command("ACL", "SETUSER", "old", *rules)
        assert connection.read_response() == "OK"
        connection.disconnect()
        self.monitor = Monitor(self)
        return self

    def kill(self) -> None:
        self.monitor.close()
        super().kill()

    @property
    def old_url(self) -> str:
        return self.url.replace("//", "//old:secret@")

    def _rules(self) -> Iterator[str]:
        for name, about in self.docs.items():
            if _since(about) <= OLDEST:
                yield f"+{name}"
                for part, more in about.get("subcommands", {}).items():
                    if _since(more) > OLDEST:
                        yield f"-{part}"

    def changes(self, command: list[str]) -> set[str]:
        """Return how this command changed after 6.2, in the server's own words."""
        about = self.docs[command[0].lower()]
        parts = about.get("subcommands", {})
        known = parts.get("|".join(command[:2]).lower(), about)
        return {change for since, change in known.get("history", []) if _version(since) > OLDEST}


def _since(about: dict[str, Any]) -> tuple[int, ...]:
    # A module's command does not say since when; Redis 8 has some (vector sets), 6.2 had none.
    return NEWEST if "module" in about else _version(about["since"])


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(".")[:2])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[OldServer]:
    with OldServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


class OldHarness(StreamsHarness):
    def __init__(self, server: OldServer) -> None:
        super().__init__()
        self._server = server

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def bus_url(self) -> str:
        return self._server.old_url


class OnOldRedis:
    @pytest.fixture(autouse=True)
    def _server(self, server: OldServer) -> None:
        self.server = server

    def new_harness(self) -> OldHarness:
        return OldHarness(self.server)


async def test_the_user_lacks_what_came_later(server: OldServer) -> None:
    with Redis.from_url(server.old_url) as redis:
        for newer in (["EVAL_RO", "return 1", 0], ["COMMAND", "DOCS"], ["EVAL", BARRED, 0]):
            with pytest.raises(ResponseError, match="(?i)permission|can't run"):
                redis.execute_command(*newer)
    assert server.changes(["XGROUP", "CREATE"]) == {"Added the `entries_read` named argument."}


class TestDelivery(OnOldRedis, DeliveryContracts):
    pass


class TestFailure(OnOldRedis, FailureContracts):
    pass


class TestLifecycle(OnOldRedis, LifecycleContracts):
    pass


def test_no_word_was_used_that_came_later(server: OldServer) -> None:
    """Look through all that the tests above had the server asked."""
    asked = server.monitor.commands()
    assert {"XADD", "XREADGROUP", "XACK", "EVALSHA", "ZADD"} <= {command[0] for command in asked}
    used = [
        f"{' '.join(command)}: {change}"
        for command in asked
        for change in server.changes(command)
        if change not in CHANGED or CHANGED[change](command)
    ]
    assert not used
