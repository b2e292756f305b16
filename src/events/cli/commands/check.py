"""`events check`: would the application start."""

from __future__ import annotations

import argparse
import asyncio
import sys

from events._named import UserCodeError, plain, traceback_of
from events.cli._app import add_app, load, opened
from events.cli._exit import FAILED, OK, UNAVAILABLE, UsageError
from events.cli._output import add_json, print_json
from events.operations.checking import Finding, check, out_of_reach


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `events check`."""
    add_app(parser)
    add_json(parser)
    parser.add_argument(
        "--offline", action="store_true", help="ask neither a broker nor a database"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what was looked at; 1 if something is wrong, 3 if it is that something is down."""
    findings = asyncio.run(_findings(arguments))
    for finding in findings:
        if arguments.json:
            print_json(finding)
        else:
            state = "ok" if finding.problem is None else "down" if finding.unavailable else "wrong"
            problem = "" if finding.problem is None else f": {finding.problem}"
            sys.stdout.write(plain(f"{state:<6}{finding.what}{problem}") + "\n")
    problems = [finding for finding in findings if finding.problem is not None]
    if any(not problem.unavailable for problem in problems):
        return FAILED
    return UNAVAILABLE if problems else OK


async def _findings(arguments: argparse.Namespace) -> list[Finding]:
    try:
        async with opened(load(arguments.app)) as parts:
            found = await check(parts, connect=not arguments.offline)
            if not found and not arguments.offline:
                raise UsageError("the application gives neither a bus nor an OutboxRelay to check")
            return found
    except UserCodeError as error:  # on importing it, on defining an event class or a bus
        sys.stderr.write(traceback_of(error) or "")
        down = out_of_reach(error)
        return [Finding(what="the application", problem=str(error), unavailable=down)]
