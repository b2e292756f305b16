"""The command line of the demo."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence

from examples.user_registration.chassis.http import CannotStartError
from examples.user_registration.chassis.logs import to_stdlib
from examples.user_registration.demo_dashboard.stage import stage

_DESCRIPTION = """\
Serves the registration example, a switch that breaks its mails, and the dashboard. Everything runs
in this process, on loopback and on temporary files.
"""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.user_registration.demo_dashboard", description=_DESCRIPTION
    )
    parser.add_argument("--port", type=int, default=8010, help="of 127.0.0.1; 0 for a free one")
    options = parser.parse_args(arguments)
    _log_in_lines()
    try:
        asyncio.run(_serve(options.port))
    except CannotStartError as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(port: int) -> None:
    async with stage(port) as url:
        print(f"{url}/  the switch; the dashboard is at {url}/events/", flush=True)
        await asyncio.Event().wait()


def _log_in_lines() -> None:
    """Log warnings without their tracebacks: the page has the errors."""

    class Lines(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return f"{record.levelname.lower()}: {record.getMessage().splitlines()[0]}"

    handler = logging.StreamHandler()
    handler.setFormatter(Lines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    to_stdlib([])  # what the services log of their own is no warning, so it is not shown
