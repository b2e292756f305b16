"""The switch: a middleware of the email service that fails while it is on, and its page."""

from collections.abc import Awaitable, Callable
from html import escape
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from events.integration import Handle, IncomingEvent
from examples.user_registration.contracts import UserRegisteredV1

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Switch</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"></head>
<body>
<h1>User registration</h1>
<p>The handler of <code>registration.email</code> <strong>{state}</strong>. {registered} users have
registered, {sent} mails were accepted by the mail server.</p>
<form method="post" action="/switch">
<button name="turn" value="{turn}">{does}</button>
<button name="register" value="50">Register 50 users</button>
<button name="register" value="500">Register 500 users</button>
</form>
<p><a href="/events/">To the dashboard</a></p>
</body></html>
"""


class Switch:
    """Breaks the handler like a bad deployment."""

    def __init__(self) -> None:
        self.broken = False

    async def fail_while_broken(self, incoming: IncomingEvent, call_next: Handle, /) -> None:
        """A middleware: fail after the handler, in its transaction, so nothing is kept."""
        await call_next(incoming)
        if self.broken and isinstance(incoming.event, UserRegisteredV1):
            raise KeyError(f"no template 'welcome' for user {incoming.event.user_id}")


def switch_routes(
    switch: Switch,
    register: Callable[[int], Awaitable[None]],
    figures: Callable[[], tuple[int, int]],
) -> list[Route]:
    async def show(_request: Request) -> Response:
        registered, sent = figures()
        state = "is broken" if switch.broken else "works"
        turn, does = ("fix", "Fix it") if switch.broken else ("break", "Break it")
        return HTMLResponse(
            _PAGE.format(
                state=escape(state), turn=turn, does=does, registered=registered, sent=sent
            )
        )

    async def turn(request: Request) -> Response:
        fields = parse_qs((await request.body()).decode())
        for way in fields.get("turn", []):
            switch.broken = way == "break"
        for count in fields.get("register", []):
            await register(min(int(count), 1_000))
        return RedirectResponse("/", 303)

    return [Route("/", show, methods=["GET"]), Route("/switch", turn, methods=["POST"])]
