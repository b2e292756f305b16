"""The outbox relay as a separate process: `python -m events.relay DATABASE BROKER`.

Two URLs are enough for a relay with the defaults, from the table `outbox` to RabbitMQ (`amqp://`),
Redis Streams (`redis://`) or NATS (`nats://`). `env:NAME` takes a URL from the environment: other
users of the machine can read the arguments of a command, including passwords:

    python -m events.relay env:DATABASE_URL env:BROKER_URL

For other options, use `python -m events.relay module:factory`. The factory takes no arguments and
returns an `OutboxRelay`, or an async context manager that yields one and that starts the bus and
disposes of the engine:

    @asynccontextmanager
    async def make_relay() -> AsyncIterator[OutboxRelay]:
        engine = create_async_engine(DATABASE_URL)
        try:
            async with make_bus() as bus:
                yield OutboxRelay(SQLAlchemyOutboxStore(engine), bus)
        finally:
            await engine.dispose()

After SIGTERM or SIGINT, the relay finishes the batch in flight. The exit status is 0 after a
signal, 1 if the relay, the database or the bus failed, and 2 for wrong arguments. If the database
is down at startup, the relay exits with one line, and the traceback at `--log-level DEBUG`; during
a later outage it waits.

With a verb, the command does one thing and ends. Other relays may run or not. It does not start
the bus of two URLs, so the broker may be down:

    python -m events.relay module:factory stats             count the waiting rows, with their age
    python -m events.relay module:factory parked            list rows that could not be sent
    python -m events.relay module:factory redrive 17 18     send parked rows again
    python -m events.relay module:factory discard all       delete parked rows

With `--dry-run`, `redrive` and `discard` count the rows and change nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import logging
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from typing import Any, Literal, TypeAlias, cast

from events._frozen import frozen
from events._named import UserCodeError, load_named, plain, running, traceback_of
from events.errors import EventsError, MissingExtraError, OutboxError
from events.integration.bus import IntegrationEventBus
from events.integration.outbox import OutboxRelay, ParkedRow
from events.integration.pipeline.retry import describe
from events.operations.audit import recorded, this_user
from events.operations.outbox import OutboxRows

__all__ = ["main"]

Ids: TypeAlias = Sequence[int] | None
RelayFactory: TypeAlias = Callable[[], AbstractAsyncContextManager[OutboxRelay]]

logger = logging.getLogger("events.relay")


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run the relay that the factory makes, and return the exit status."""
    if prog is None:
        prog = "python -m events.relay" if __name__ == "__main__" else "events-relay"
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [-h] [--log-level LOG_LEVEL] [--dry-run] "
        "(MODULE:FACTORY | DATABASE BROKER) [VERB] [ID ...]",
        description="Run an outbox relay.",
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="MODULE:FACTORY | DATABASE BROKER",
        help="the factory of the relay, as in myservice.relay:make_relay; or two URLs, each of "
        "which may be env:NAME. Then the verb: "
        f"{', '.join(['run', *_VERBS])} (default: run); redrive and discard take the ids of parked "
        "rows, or 'all'",
    )
    parser.add_argument("--log-level", default="INFO", help="default: %(default)s")
    parser.add_argument(
        "--dry-run", action="store_true", help="count what redrive or discard would change"
    )
    arguments = parser.parse_intermixed_args(argv)  # so that an option may stand anywhere
    try:
        logging.basicConfig(
            level=arguments.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        words: list[str] = arguments.words
        named = 2 if _is_url(words[0]) else 1
        verb, *given = words[named:] or ["run"]
        if verb != "run" and verb not in _VERBS:
            raise ValueError(f"{verb!r} is not a verb: use {', '.join(['run', *_VERBS])}")
        if arguments.dry_run and verb not in _WITH_IDS:
            raise ValueError(f"{verb} changes nothing: omit --dry-run")
        ids = _ids(verb, given)
        factory = _load(words[0]) if named == 1 else _between(*_urls(words), serve=verb == "run")
    except (ValueError, MissingExtraError) as error:
        parser.error(str(error))
    except UserCodeError as error:
        return _failed(error)
    try:
        asyncio.run(_run(factory, verb, ids, dry_run=arguments.dry_run))
    except (EventsError, UserCodeError) as error:
        return _failed(error)
    return 0


def _failed(error: Exception) -> int:
    logger.critical("%s", error)
    if full := traceback_of(error, wanted=logger.isEnabledFor(logging.DEBUG)):
        logger.critical("%s", full)
    return 1


async def _run(factory: RelayFactory, verb: str, ids: Ids, *, dry_run: bool) -> None:
    async with AsyncExitStack() as stack:
        ours = factory.__module__ == __name__  # of two URLs
        with nullcontext() if ours else running(factory.__module__):
            made: object = factory()
            if not isinstance(made, AbstractAsyncContextManager):
                raise TypeError(
                    f"{factory!r} returned {made!r}: return an OutboxRelay, or write it as an "
                    f"@asynccontextmanager that yields one"
                )
            context: AbstractAsyncContextManager[Any] = made
            if isinstance(made, OutboxRelay):  # to enter it here would be to start it
                context = nullcontext(made)
            relay = await stack.enter_async_context(context)
            if not isinstance(relay, OutboxRelay):
                raise TypeError(f"{factory!r} yielded {relay!r}, which is not an OutboxRelay")
        try:
            if verb != "run":
                await relay.check()
                if dry_run:
                    count = len(await _chosen(relay, ids))
                    print(f"would be {_WITH_IDS[verb]}: {count}")  # noqa: T201 - it was asked for
                else:
                    await _VERBS[verb](relay, ids)
                return
            logger.info("%r runs; stop it with SIGTERM", relay)
            with frozen():
                await relay.run()
        except EventsError:
            raise
        except Exception as error:
            # An error of the database's library. A relay that runs already waits instead.
            reason = describe(error).splitlines()[0]
            raise OutboxError(
                f"{verb} failed on {relay!r}, is its database up? {reason}"
            ) from error
    logger.info("%r has stopped", relay)


# What the URL of each broker begins with: the door of its bus, and its name there.
_BUSES = {
    **dict.fromkeys(("amqp", "amqps"), ("events.rabbitmq", "RabbitMQBus")),
    **dict.fromkeys(("redis", "rediss", "unix"), ("events.redis", "RedisStreamsBus")),
    **dict.fromkeys(("nats", "tls", "ws", "wss"), ("events.nats", "NATSBus")),
}


def _is_url(word: str) -> bool:
    return "://" in word or word.startswith("env:")


def _urls(words: Sequence[str]) -> tuple[str, str]:
    """Return the URLs of database and broker; raise ValueError if they cannot be used."""
    if len(words) == 1:
        raise ValueError("the broker's URL is missing: write it after the database's")
    if not _is_url(words[1]):
        raise ValueError(f"{words[1]!r} is not a URL: write the broker's URL after the database's")
    database, broker = (_from_environment(word) for word in words[:2])
    if database.partition("://")[0] in _BUSES:
        raise ValueError("the database's URL comes first, then the broker's")
    scheme = broker.partition("://")[0]
    if scheme not in _BUSES:
        raise ValueError(f"no broker has the URL scheme {scheme!r}: use one of {', '.join(_BUSES)}")
    return database, broker


def _from_environment(word: str) -> str:
    if not word.startswith("env:"):
        return word
    name = word.removeprefix("env:")
    if not os.environ.get(name):
        raise ValueError(f"the environment variable {name} is not set")
    return os.environ[name]


def _between(database: str, broker: str, *, serve: bool) -> RelayFactory:
    """Return a factory of the relay between the two; `serve` starts the bus as well."""
    at_url = importlib.import_module("events.integration.implementation.sqlalchemy._at_url")
    at_url.check_url(database)
    door, name = _BUSES[broker.partition("://")[0]]
    make_bus: Callable[[str], IntegrationEventBus] = getattr(importlib.import_module(door), name)

    @asynccontextmanager
    async def opened() -> AsyncGenerator[OutboxRelay]:
        bus = make_bus(broker)
        async with at_url.store_at(database) as store, bus if serve else nullcontext():
            yield OutboxRelay(store, bus)

    return opened


def _ids(verb: str, given: Sequence[str]) -> Ids:
    """Return the ids, or None for all; raise ValueError if they are wrong."""
    if verb not in _WITH_IDS:
        if given:
            raise ValueError(f"{verb} takes no ids: {' '.join(given)}")
        return []
    if list(given) == ["all"]:
        return None
    if not given or not all(text.isdecimal() for text in given):
        raise ValueError(f"{verb} needs the ids of parked rows, as `parked` shows them, or 'all'")
    return [int(text) for text in given]


async def _stats(relay: OutboxRelay, _ids: Ids) -> None:
    stats = await relay.stats()
    print(  # noqa: T201 - it was asked for
        f"pending {stats.pending}, oldest due {stats.oldest_age:.1f} s ago, parked {stats.parked}"
    )


async def _parked(relay: OutboxRelay, _ids: Ids) -> None:
    async for row in _all_parked(relay):
        message = row.message
        error = row.error.strip().partition("\n")[0]
        line = (
            f"{row.id}\t{row.parked_at:%Y-%m-%d %H:%M:%S}Z\t{message.topic}\t{message.type}\t"
            f"{message.id}\t{row.reason}, {row.attempts} attempt{'' if row.attempts == 1 else 's'}"
            f": {error}"
        )
        print(plain(line, lines=True))  # noqa: T201 - it was asked for


async def _chosen(relay: OutboxRelay, ids: Ids) -> list[int]:
    """Return those of the ids that are parked rows'."""
    return [row.id async for row in _all_parked(relay) if ids is None or row.id in ids]


async def _redrive(relay: OutboxRelay, ids: Ids) -> None:
    print(f"redriven: {await _move(relay, 'redrive', ids)}")  # noqa: T201 - it was asked for


async def _discard(relay: OutboxRelay, ids: Ids) -> None:
    print(f"discarded: {await _move(relay, 'discard', ids)}")  # noqa: T201 - it was asked for


async def _move(relay: OutboxRelay, action: Literal["redrive", "discard"], ids: Ids) -> int:
    rows = await _chosen(relay, None) if ids is None else ids
    chosen = "all" if ids is None else ", ".join(map(str, ids))
    target = "parked rows of the outbox"
    with recorded(
        None, actor=this_user(), action=action, target=target, selection=chosen
    ) as written:
        written.chosen = len(rows)
        moved = relay.redrive(rows) if action == "redrive" else relay.discard(rows)
        written.count = await moved
    return written.count


def _all_parked(relay: OutboxRelay) -> AsyncIterator[ParkedRow]:
    return OutboxRows(relay, actor="events-relay").parked()


_WITH_IDS = {"redrive": "redriven", "discard": "discarded"}
_VERBS: dict[str, Callable[[OutboxRelay, Ids], Awaitable[None]]] = {
    "stats": _stats,
    "parked": _parked,
    "redrive": _redrive,
    "discard": _discard,
}


def _load(path: str) -> RelayFactory:
    """Import what `module:factory` names; raise ValueError if it cannot be used."""
    factory = load_named(path, "module:factory")
    if not callable(factory):
        raise ValueError(f"{path} is not callable")  # noqa: TRY004 - the argument is wrong
    if inspect.iscoroutinefunction(factory):
        raise ValueError(
            f"{path} is `async def`: write it as `def`, or as an @asynccontextmanager that yields"
        )
    return cast("RelayFactory", factory)


if __name__ == "__main__":
    sys.exit(main())
