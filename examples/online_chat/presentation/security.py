"""What the browser may do with the page: run and show what comes from here, and nothing else."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_POLICY = """
    default-src 'none';
    script-src 'self';
    style-src 'self';
    img-src 'self';
    connect-src 'self';
    base-uri 'none';
    form-action 'none';
    frame-ancestors 'none';
    require-trusted-types-for 'script';
    trusted-types 'none'
"""  # the last two: text goes in as text, or not at all

HEADERS = {
    "Content-Security-Policy": " ".join(_POLICY.split()),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # looked at each time, by its ETag
}


class SecurityHeaders:
    """Put the headers on each answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)
