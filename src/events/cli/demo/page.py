"""The demo in a browser: an order each second, a button that breaks the handler, the dashboard."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import webbrowser
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from events.cli._exit import UsageError
from events.cli.demo import log_in_lines
from events.cli.demo.shop import Shop, opened
from events.dashboard import Access, dashboard

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Demo</title>
<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="2">
<style>
 body {{ font: 1.1rem/1.6 system-ui, sans-serif; max-width: 38rem }}
 body {{ margin: 3rem auto; padding: 0 1rem }}
 dl {{ display: flex; gap: 2.5rem }} dd {{ margin: 0; font-size: 2rem }}
 button {{ font: inherit; padding: .5rem 1rem }}
</style></head><body>
<h1>A shop</h1>
<p>The shop places an order each second. A handler prints its receipt. {state}</p>
<dl><div><dt>Orders</dt><dd>{placed}</dd></div><div><dt>Receipts</dt><dd>{printed}</dd></div>
<div><dt>Dead letters</dt><dd>{dead}</dd></div></dl>
<form method="post" action="/{action}"><button>{button}</button></form>
<p>The <a href="/events/">dashboard</a> groups the
<a href="/events/dead">dead letters by cause</a> and redrives them.</p>
</body></html>
"""
_PORT = 8000
_WORKS = ("The printer works.", "break", "Take the paper out of the printer")
_BROKEN = (
    "The printer has no paper, so its handler fails.",
    "repair",
    "Put paper into the printer",
)


def application(shop: Shop) -> Starlette:
    """Return the application of a shop's pages, with the dashboard of its bus at `/events`."""

    async def show(_: Request) -> Response:
        placed, printed, dead = await shop.counts()
        state, action, button = _WORKS if shop.has_paper else _BROKEN
        page = _PAGE.format(
            placed=placed, printed=printed, dead=dead, state=state, action=action, button=button
        )
        return HTMLResponse(page)

    async def change(request: Request) -> Response:
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            return Response("only the buttons of this page can do that\n", 403)
        shop.has_paper = request.url.path == "/repair"
        return RedirectResponse("/", 303)

    board = dashboard(shop.bus, authorize=lambda _: Access("operate", name="the demo's visitor"))
    return Starlette(
        routes=[
            Route("/", show),
            Route("/break", change, methods=["POST"]),
            Route("/repair", change, methods=["POST"]),
            Mount("/events", board),
        ]
    )


def serve(*, port: int | None, broken: bool, browser: bool) -> None:
    """Serve the pages on this machine until Ctrl-C.

    Args:
        port: None takes port 8000, or a free one if another program listens there.
        broken: Start with a handler that fails.
        browser: Open the page in a browser, if there is a display.

    Raises:
        UsageError: the port is taken.
    """
    log_in_lines()
    with _listening(port) as listener, suppress(KeyboardInterrupt):
        asyncio.run(_serve(listener, broken=broken, browser=browser and _has_display()))


def _listening(port: int | None) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", _PORT if port is None else port))
    except (OSError, OverflowError) as error:
        if port is None:
            return socket.create_server(("127.0.0.1", 0))
        raise UsageError(
            f"cannot listen on port {port} of 127.0.0.1: {error}; choose another with --port"
        ) from None


def _has_display() -> bool:
    # Without one, webbrowser may start a text browser in this very terminal.
    displays = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in displays)


async def _serve(listener: socket.socket, *, broken: bool, browser: bool) -> None:
    async with opened(print) as shop:
        shop.has_paper = not broken
        server = uvicorn.Server(uvicorn.Config(application(shop), log_level="warning"))
        async with _orders(shop):
            address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            print(f"\nOpen {address} and press the button. Ctrl-C ends the demo.\n", flush=True)
            if browser:
                # Another thread, as a browser may take its time. The socket listens already.
                asyncio.get_running_loop().run_in_executor(None, webbrowser.open, address)
            await server.serve(sockets=[listener])


@asynccontextmanager
async def _orders(shop: Shop) -> AsyncGenerator[None]:
    async def place() -> None:
        while True:
            await shop.place()
            await asyncio.sleep(1)

    placing = asyncio.create_task(place())
    try:
        yield
    finally:
        placing.cancel()
        with suppress(asyncio.CancelledError):
            await placing
