"""The outbox relay as a process of its own: `python -m events.relay DATABASE BROKER`.

Two URLs are enough for a relay with the defaults, from the table `outbox` to RabbitMQ (`amqp://`),
Redis Streams (`redis://`) or NATS (`nats://`). `env:NAME` stands for a URL in the environment, as
other users of the machine can read what a command was given, passwords too:

    python -m events.relay env:DATABASE_URL env:BROKER_URL

For everything else, `python -m events.relay module:factory`. The factory takes no arguments and
returns an `OutboxRelay`, or an async context manager that gives one, which is where the bus is
started and the engine disposed of:

    @asynccontextmanager
    async def make_relay() -> AsyncIterator[OutboxRelay]:
        engine = create_async_engine(DATABASE_URL)
        try:
            async with make_bus() as bus:
                yield OutboxRelay(SQLAlchemyOutboxStore(engine), bus)
        finally:
            await engine.dispose()

SIGTERM and SIGINT let the batch in flight end. The exit status is 0 after a signal, 1 if the relay
or what it needs failed, and 2 if the argument is wrong. A database that is down when it starts is
told in one line, with the traceback at `--log-level DEBUG`; one that goes down later is waited for.

With a verb it does one thing and ends, beside relays that run or without any; of two URLs it then
needs the database's alone, and the broker may be down:

    python -m events.relay module:factory stats             how many rows wait, and since when
    python -m events.relay module:factory parked            what could not be sent, and why
    python -m events.relay module:factory redrive 17 18     have these sent after all
    python -m events.relay module:factory discard all       delete them for good
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
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, TypeAlias, cast

from events.errors import EventsError, MissingExtraError, OutboxError
from events.integration.bus import IntegrationEventBus
from events.integration.outbox import OutboxRelay, ParkedRow
from events.integration.pipeline.retry import describe
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
        usage=f"{prog} [-h] [--log-level LOG_LEVEL] "
        "(MODULE:FACTORY | DATABASE BROKER) [VERB] [ID ...]",
        description="Run an outbox relay.",
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="MODULE:FACTORY | DATABASE BROKER",
        help="what makes the relay, as in myservice.relay:make_relay; or two URLs, each of which "
        "may be env:NAME. Then what to do: "
        f"{', '.join(['run', *_VERBS])} (default: run); redrive and discard take the ids of parked "
        "rows, or 'all'",
    )
    parser.add_argument("--log-level", default="INFO", help="default: %(default)s")
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
            raise ValueError(f"{verb!r} is no verb: {', '.join(['run', *_VERBS])}")
        ids = _ids(verb, given)
        factory = _load(words[0]) if named == 1 else _between(*_urls(words), serve=verb == "run")
    except (ValueError, MissingExtraError) as error:
        parser.error(str(error))
    try:
        asyncio.run(_run(factory, verb, ids))
    except EventsError as error:
        logger.critical("%s", error, exc_info=logger.isEnabledFor(logging.DEBUG))
        return 1
    return 0


async def _run(factory: RelayFactory, verb: str, ids: Ids) -> None:
    made: object = factory()
    if not isinstance(made, AbstractAsyncContextManager):
        raise TypeError(
            f"{factory!r} returned {made!r}: return an OutboxRelay, or write it as an "
            f"@asynccontextmanager that yields one"
        )
    context: AbstractAsyncContextManager[Any] = made
    if isinstance(made, OutboxRelay) and verb != "run":
        context = nullcontext(made)  # to enter it would be to start it
    async with context as relay:
        if not isinstance(relay, OutboxRelay):
            raise TypeError(f"{factory!r} gave {relay!r}, which is not an OutboxRelay")
        try:
            if verb != "run":
                await relay.check()
                await _VERBS[verb](relay, ids)
                return
            logger.info("%r runs; stop it with SIGTERM", relay)
            await relay.run()
        except EventsError:
            raise
        except Exception as error:
            # Whatever the database's library raises. Once it runs, the relay waits for it.
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
    """Give the URLs of database and broker; ValueError says what is wrong with them."""
    if len(words) == 1:
        raise ValueError("the broker's URL is missing after the database's")
    if not _is_url(words[1]):
        raise ValueError(f"{words[1]!r} is no URL: the broker's comes after the database's")
    database, broker = (_from_environment(word) for word in words[:2])
    if database.partition("://")[0] in _BUSES:
        raise ValueError("the database's URL comes first, then the broker's")
    scheme = broker.partition("://")[0]
    if scheme not in _BUSES:
        raise ValueError(f"no broker has URLs of {scheme!r}: one of {', '.join(_BUSES)}")
    return database, broker


def _from_environment(word: str) -> str:
    if not word.startswith("env:"):
        return word
    name = word.removeprefix("env:")
    if not os.environ.get(name):
        raise ValueError(f"there is no environment variable {name}")
    return os.environ[name]


def _between(database: str, broker: str, *, serve: bool) -> RelayFactory:
    """Make what opens a relay between the two; to look at the rows, the bus is not started."""
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
    """Return the ids, or None for all; ValueError says what is wrong with them."""
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
        print(  # noqa: T201 - it was asked for
            f"{row.id}\t{row.parked_at:%Y-%m-%d %H:%M:%S}Z\t{message.topic}\t{message.type}\t"
            f"{message.id}\t{row.reason}, {row.attempts} attempts: {row.error.splitlines()[0]}"
        )


async def _redrive(relay: OutboxRelay, ids: Ids) -> None:
    rows = [row.id async for row in _all_parked(relay)] if ids is None else ids
    print(f"redriven: {await relay.redrive(rows)}")  # noqa: T201 - it was asked for


async def _discard(relay: OutboxRelay, ids: Ids) -> None:
    rows = [row.id async for row in _all_parked(relay)] if ids is None else ids
    print(f"discarded: {await relay.discard(rows)}")  # noqa: T201 - it was asked for


def _all_parked(relay: OutboxRelay) -> AsyncIterator[ParkedRow]:
    return OutboxRows(relay, actor="events-relay").parked()


_WITH_IDS = {"redrive", "discard"}
_VERBS: dict[str, Callable[[OutboxRelay, Ids], Awaitable[None]]] = {
    "stats": _stats,
    "parked": _parked,
    "redrive": _redrive,
    "discard": _discard,
}


def _load(path: str) -> RelayFactory:
    """Import what `module:factory` names; ValueError says what is wrong with it."""
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise ValueError(f"{path!r} is not of the form module:factory")
    # As `python -m` does, and a console script does not: what lies here can be imported.
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"there is no module {error.name!r} to import, here or installed"
        ) from error
    factory: Any = getattr(module, name, None)
    if not callable(factory):
        raise ValueError(  # noqa: TRY004 - the argument is wrong, as all errors here say
            f"{module_name!r} has no callable {name!r}"
        )
    if inspect.iscoroutinefunction(factory):
        raise ValueError(
            f"{path} is `async def`: write it as `def`, or as an @asynccontextmanager that yields"
        )
    return cast("RelayFactory", factory)


if __name__ == "__main__":
    sys.exit(main())
