"""`events run`: run the consumers of a bus until a signal ends it."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from events._frozen import frozen
from events.cli._app import add_app, find, load, named, opened
from events.cli._exit import OK, UsageError
from events.cli._reloading import UNTIL_CLOSED, end_when_closed, run_again
from events.integration.implementation.base import TransportIntegrationEventBus

logger = logging.getLogger("events.cli")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `events run`."""
    parser.add_argument("named", nargs="?", metavar="MODULE:NAME", help="short for --app")
    add_app(parser)
    parser.add_argument(
        "--reload",
        action="store_true",
        help="for development: start again when a Python file below this folder has changed",
    )
    parser.add_argument("--log-level", default="INFO", help="default: %(default)s")
    parser.add_argument(UNTIL_CLOSED, type=int, help=argparse.SUPPRESS)  # of --reload


def run(arguments: argparse.Namespace) -> int:
    """Run the bus until SIGTERM or SIGINT, and let running handlers end."""
    if arguments.named and arguments.app:
        raise UsageError(f"name one application: {arguments.named}, or --app {arguments.app}")
    given = arguments.log_level.upper()
    level = logging.getLevelNamesMapping().get(given)
    if level is None:
        raise UsageError(f"--log-level must be DEBUG, INFO, WARNING or ERROR, not {given!r}")
    if arguments.reload:
        app = named(arguments.named or arguments.app)
        command = [sys.executable, "-m", "events", "run", app, "--log-level", given]
        run_again(command, Path.cwd())
        return OK
    if arguments.until_closed is not None:
        end_when_closed(arguments.until_closed)
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(_run(load(arguments.named or arguments.app)))
    return OK


async def _run(app: object) -> None:
    async with opened(app) as parts:
        bus = find(parts, TransportIntegrationEventBus, "bus that has consumers to run")
        if not bus.registrations:
            logger.warning("%r has no registrations: there is nothing to consume", bus)
        with frozen():
            await bus.run()
