"""The command `events`: run, inspect and repair what the library does, from a terminal.

A command is a module of `events.cli.commands` with two functions: `add_arguments(parser)`, and
`run(arguments)`, which returns the exit status. The table below names each with its line of help,
so `events --help` imports none of them, and a command imports only itself.

Exit statuses: 0 for success, 1 if the command found problems or failed, 2 for wrong arguments, 3 if
a broker or a database is out of reach.

What the application raises while it is imported or made is one line with the file and line of its
own code; with EVENTS_TRACEBACK=1 the traceback comes first.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, TextIO

from events.cli._exit import FAILED, OK, UNAVAILABLE, USAGE, UsageError

__all__ = ["COMMANDS", "FAILED", "OK", "UNAVAILABLE", "USAGE", "UsageError", "main"]

COMMANDS = {
    "asyncapi": "write the AsyncAPI document of a service",
    "backlog": "count the events that wait for each consumer at the broker",
    "catalog": "write a static site of the contracts of one service or of many",
    "check": "check whether the application would start",
    "completion": "print a script that completes commands in bash or zsh",
    "dead": "find, group, redrive, discard and export dead letters",
    "demo": "run a shop on a database file, with the dashboard, and break it",
    "describe": "show topics, consumers, types and versions",
    "new": "write a small, working service with its tests",
    "outbox": "count, list, redrive and discard rows of the outbox",
    "pause": "pause consumers in all processes, until they are resumed",
    "relay": "run an outbox relay until SIGTERM or SIGINT",
    "resume": "end the pause of consumers in all processes",
    "run": "run the consumers of a bus until SIGTERM or SIGINT",
    "schema": "lock, check and compare the contracts of events",
    "send": "send one event, built from JSON",
    "story": "show what happened to the events of one correlation id",
    "tail": "show the events of a topic or a consumer as they are sent",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit status."""
    parser, arguments = _parsed(list(sys.argv[1:] if argv is None else argv))
    if arguments.asks_version:
        from importlib.metadata import version  # noqa: PLC0415 - not for --help

        print(f"integration-events {version('integration-events')}")
        return OK
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return USAGE
    try:
        status: int = _module(arguments.command).run(arguments)
    except UsageError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        return 128 + 2  # as a shell says of a process that SIGINT ended
    except Exception as error:  # noqa: BLE001 - what is no error of ours is raised again
        return _failed(error)
    return status


def _is_read(output: TextIO) -> bool:
    """Return whether the other end of what may be a pipe is open."""
    try:
        ends = select.poll()
        ends.register(output.fileno(), 0)
    except (OSError, ValueError):  # it is none of the system's files
        return True
    return not ends.poll(0)


def _parsed(given: list[str]) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Return the parser, and the arguments it read. Exits if they are wrong."""
    parser = argparse.ArgumentParser(
        prog="events",
        description="Run, inspect and repair domain and integration events.",
        epilog="`events COMMAND --help` describes a command and its options. On call: "
        "`events backlog` shows which consumer is behind, `events dead groups` why events failed, "
        "and `events outbox stats` and `events outbox parked` what was not sent.",
    )
    parser.add_argument(
        "--version", action="store_true", dest="asks_version", help="print the version and exit"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    chosen = next((each for each in given if each in COMMANDS), None)
    for name, help_line in COMMANDS.items():
        command = commands.add_parser(
            name, help=help_line, description=f"{help_line[0].upper()}{help_line[1:]}."
        )
        if name == chosen:
            _module(name).add_arguments(command)
    option = given[0].partition("=")[0] if given else ""
    if option.startswith("-") and option not in {"-h", "--help", "--version"}:
        where = f"`events {chosen or 'COMMAND'} ... {option}`"
        parser.error(f"{option} comes after the command, as in {where}")
    arguments, unknown = parser.parse_known_args(given)
    if unknown:
        names = " ".join(filter(None, (arguments.command, getattr(arguments, "verb", None))))
        parser.error(f"unrecognized arguments: {' '.join(unknown)}; see `events {names} --help`")
    return parser, arguments


def _module(command: str) -> Any:
    return import_module(f"events.cli.commands.{command.replace('-', '_')}")


def _failed(error: Exception) -> int:
    """Report an error that a user can correct in one line; others keep their traceback."""
    if isinstance(error, BrokenPipeError) and not _is_read(sys.stdout):  # `events tail ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor at the exit
        return OK
    from events._named import UserCodeError, traceback_of  # noqa: PLC0415 - not for --help
    from events.cli._output import note  # noqa: PLC0415
    from events.errors import EventsError  # noqa: PLC0415
    from events.operations.checking import out_of_reach  # noqa: PLC0415

    if not isinstance(error, EventsError | UserCodeError):
        raise error
    sys.stderr.write(traceback_of(error) or "")
    note(f"events: {error}")
    return UNAVAILABLE if out_of_reach(error) else FAILED
