"""`events relay`: run an outbox relay, until a signal ends it."""

from __future__ import annotations

import argparse

from events.cli._app import configured
from events.cli._exit import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `events relay`."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="MODULE:FACTORY | DATABASE BROKER",
        help="the factory of the relay, as in myservice.relay:make_relay; or two URLs, each of "
        "which may be env:NAME (default: relay under [tool.events] in pyproject.toml)",
    )
    parser.add_argument("--log-level", default="INFO", help="default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    """Run the relay as `events-relay` does."""
    from events.relay import main  # noqa: PLC0415 - not for --help

    words: list[str] = arguments.words or [str(configured().get("relay", ""))]
    if not words[0]:
        raise UsageError(
            "name what makes the relay as module:factory, or in pyproject.toml as "
            'relay = "module:factory" under [tool.events], or give the URLs of database and broker'
        )
    verb = words[2:] or [word for word in words[1:] if ":" not in word]
    if verb:
        raise UsageError(
            f"`events relay` does not take {' '.join(verb)!r}: for the rows of the outbox, use "
            f"`events outbox` or `events-relay`"
        )
    return main([*words, "run", "--log-level", arguments.log_level], prog="events relay")
