"""`events catalog`: a static site of the contracts of one service or of many."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from events.cli._app import add_app
from events.cli._exit import OK, UsageError
from events.cli.commands.schema import service_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `events catalog`."""
    add_app(parser)
    parser.add_argument(
        "locks",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="lock files or AsyncAPI documents of services (default: the Service of the app)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("catalog"),
        metavar="FOLDER",
        help="default: %(default)s",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the site."""
    from events.contracts.catalog.site import write_site  # noqa: PLC0415 - not for --help
    from events.contracts.foreign import read_contracts  # noqa: PLC0415
    from events.contracts.lock import Lock, lock_of  # noqa: PLC0415

    locks: list[Lock] = []
    for path in arguments.locks:
        if not path.is_file():
            raise UsageError(f"{path}: the file does not exist")
        locks.append(read_contracts(path))
    if not locks:
        locks = [lock_of(asyncio.run(service_of(arguments.app)))]
    pages = write_site(locks, arguments.output)
    print(f"wrote {pages} pages, open {arguments.output / 'index.html'}")
    return OK
