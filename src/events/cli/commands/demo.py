"""`events demo`: a shop on a database in a file, to look at and to break."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec

from events.cli._exit import OK, UsageError
from events.cli._operating import whole

_INSTALL = 'pip install "integration-events[demo]"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `events demo`."""
    parser.add_argument(
        "--break",
        action="store_true",
        dest="broken",
        help="start with a handler that fails, so that events become dead letters",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--page",
        action="store_true",
        help="serve a web page and the dashboard, with an order each second, until Ctrl-C; "
        "the default in an interactive terminal",
    )
    where.add_argument(
        "--scene",
        action="store_true",
        help="print a few orders in the terminal, and end; the default elsewhere",
    )
    parser.add_argument(
        "--port",
        type=whole,
        help="the port of the page; default: 8000, or a free port if 8000 is taken",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="do not open the page in a browser"
    )
    parser.add_argument(
        "--orders", type=whole, default=5, help="the number of orders of --scene; default: 5"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    try:
        if arguments.page or (not arguments.scene and _can_show_a_page()):
            from events.cli.demo.page import serve  # noqa: PLC0415 - it needs an extra

            browser = not arguments.no_browser
            serve(port=arguments.port, broken=arguments.broken, browser=browser)
            return OK
        from events.cli.demo.terminal import play  # noqa: PLC0415 - it needs an extra
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "events":
            raise
        raise UsageError(f"{error.name} is missing: the demo needs an extra, {_INSTALL}") from None
    play(orders=arguments.orders, broken=arguments.broken)
    return OK


def _can_show_a_page() -> bool:
    """Return whether a person is at the terminal, and what the page needs is installed."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    missing = [name for name in ("starlette", "uvicorn", "jinja2") if find_spec(name) is None]
    if missing:
        print(f"The dashboard needs {', '.join(missing)}: {_INSTALL}")
    return not missing
