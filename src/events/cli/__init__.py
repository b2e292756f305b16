"""The command `events`: run, inspect and repair what the library does, from a terminal.

A command is a module of `events.cli.commands` with two functions: `add_arguments(parser)`, and
`run(arguments)`, which returns the exit status. The table below names each with its line of help,
so `events --help` imports none of them, and a command imports only itself.

Exit statuses: 0 for success, 1 if the command found problems or failed, 2 for wrong arguments, 3 if
a broker or a database is out of reach.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from events.cli._exit import FAILED, OK, UNAVAILABLE, USAGE, UsageError

__all__ = ["COMMANDS", "FAILED", "OK", "UNAVAILABLE", "USAGE", "UsageError", "main"]

COMMANDS = {
    "asyncapi": "write the AsyncAPI document of a service",
    "backlog": "count what waits for each consumer at the broker",
    "catalog": "write a static site of the contracts of one service or of many",
    "check": "say whether the application would start",
    "completion": "print a script that completes commands in bash or zsh",
    "dead": "find, group, redrive, discard and export dead letters",
    "describe": "show topics, consumers, types and versions",
    "outbox": "count, list, redrive and discard rows of the outbox",
    "relay": "run an outbox relay until SIGTERM or SIGINT",
    "run": "run the consumers of a bus until SIGTERM or SIGINT",
    "schema": "lock, check and compare the contracts of events",
    "send": "send one event, made of JSON",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="events",
        description="Run, inspect and repair domain and integration events.",
        epilog="`events COMMAND --help` describes a command and its options.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((each for each in given if each in COMMANDS), None)
    for name, help_line in COMMANDS.items():
        command = commands.add_parser(
            name, help=help_line, description=f"{help_line[0].upper()}{help_line[1:]}."
        )
        if name == chosen:
            _module(name).add_arguments(command)
    arguments = parser.parse_args(given)
    try:
        status: int = _module(arguments.command).run(arguments)
    except UsageError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        return 128 + 2  # as a shell says of a process that SIGINT ended
    except Exception as error:  # noqa: BLE001 - what is no error of ours is raised again
        return _failed(error)
    return status


def _module(command: str) -> Any:
    return import_module(f"events.cli.commands.{command.replace('-', '_')}")


def _failed(error: Exception) -> int:
    """Say in one line what a user can mend; anything else is a bug and keeps its traceback."""
    from events.errors import EventsError  # noqa: PLC0415 - not for --help
    from events.operations.checking import out_of_reach  # noqa: PLC0415

    if not isinstance(error, EventsError):
        raise error
    print(f"events: {error}", file=sys.stderr)
    return UNAVAILABLE if out_of_reach(error) else FAILED
