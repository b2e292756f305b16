"""The command lines of the demos."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from examples.user_registration.chassis.http import CannotStartError
from examples.user_registration.demo.killed import KILLED
from examples.user_registration.demo.play import play
from examples.user_registration.demo.scenes import RESERVED
from examples.user_registration.user_service.domain.email import InvalidEmailError, email_address

DEFAULT = ("ada@example.com", "grace@example.com")
_DESCRIPTION = """\
Registers users over HTTP and follows each registration through the domain event, the outbox, the
relay, the bus and the email service to an SMTP server; then makes parts of it fail, and shows the
outcome. Except for one process that is killed, everything runs in this process, on loopback and on
files in a temporary folder, which is deleted afterwards.
"""


def main(arguments: Sequence[str]) -> int:
    parser = parser_of_emails(
        "examples.user_registration", "demo", _DESCRIPTION, {*RESERVED, KILLED}
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=0,
        help="the port of 127.0.0.1 for the HTTP service; a free one if not given",
    )
    options = parse(parser, arguments)
    return run(lambda: play(options.emails or DEFAULT, port=options.port))


def run(play: Callable[[], Coroutine[Any, Any, bool]]) -> int:
    """Play a demo to its end, and return the exit status."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")  # not every terminal can show every character
    try:
        return asyncio.run(_until_signal(play))
    except CannotStartError as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 1


async def _until_signal(play: Callable[[], Coroutine[Any, Any, bool]]) -> int:
    """Play until the end, or until a signal: then close everything, however often it comes."""
    playing = asyncio.create_task(play())
    signals: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if not signals:
            playing.cancel()
        signals.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # on Windows, where Ctrl-C cancels all of it anyway
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return 0 if await playing else 1
    except asyncio.CancelledError:
        if not signals:
            raise
        print("\nstopped", file=sys.stderr)
        return 128 + signals[0]


def parser_of_emails(
    module: str, target: str, description: str, reserved: Collection[str]
) -> argparse.ArgumentParser:
    """Return a parser of addresses to register, except those with a part in the demo."""

    def email(argument: str) -> str:
        try:
            address = email_address(argument)
        except InvalidEmailError as error:
            raise argparse.ArgumentTypeError(f"{error}; give one like ada@example.com") from None
        if address in reserved:
            raise argparse.ArgumentTypeError(f"{address} is used in a later scene; choose another")
        return address

    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=f'with make: make {target} ARGS="alice@example.com bob@example.com"',
    )
    parser.add_argument(
        "emails",
        metavar="EMAIL",
        nargs="*",
        type=email,
        help=f"addresses to register; {' and '.join(DEFAULT)} if none is given",
    )
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    options = parser.parse_args(arguments)
    for email in set(options.emails):
        if options.emails.count(email) > 1:
            parser.error(f"argument EMAIL: {email} is given more than once")
    return options


def _port(argument: str) -> int:
    if not argument.isdecimal() or not int(argument) < 2**16:
        raise argparse.ArgumentTypeError(f"{argument!r} is not a port from 0 to 65535")
    return int(argument)
