"""Protection against other sites and hostile texts: tokens, origins, and security headers."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable, MutableMapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from events.dashboard.access import Access

_COOKIE_BYTES = 32
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    # No text of an event becomes markup, even if our own script had it wrong.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not no-referrer, with which a browser says `Origin: null` on our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class SecureHeaders:
    """Adds the security headers to each response, including errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, and add the headers to its responses."""

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, sending)


class Guard:
    """Tokens against forged requests, each for one browser and one visitor.

    The browser has a random cookie that scripts cannot read. A token is a keyed hash of the cookie
    and the visitor, so it is valid only for that browser and that visitor, and cannot be made
    without the key.
    """

    def __init__(self, secret: str | bytes | None, origins: Iterable[str]) -> None:
        key = secret.encode() if isinstance(secret, str) else secret
        self._key = key or secrets.token_bytes(_COOKIE_BYTES)
        self._origins = {each.rstrip("/").lower() for each in origins}

    def cookie(self, request: Request) -> str:
        """Return the browser's cookie, or a new one if it has none."""
        given = request.cookies.get(_cookie_name(request), "")
        if len(given) == 2 * _COOKIE_BYTES and given.isascii() and given.isalnum():
            return given
        return secrets.token_hex(_COOKIE_BYTES)

    def keep(self, request: Request, response: Response, cookie: str) -> None:
        """Set the browser's cookie, if it has another or none."""
        name = _cookie_name(request)
        if request.cookies.get(name) != cookie:
            secure = _is_secure(request)
            response.set_cookie(name, cookie, httponly=True, samesite="strict", secure=secure)

    def token(self, cookie: str, access: Access) -> str:
        """Return the token for the forms of this visitor."""
        visitor = f"{cookie}\0{access.role}\0{access.name}".encode("utf-8", "surrogatepass")
        return hmac.new(self._key, visitor, sha256).hexdigest()

    def refusal(self, request: Request, token: str, access: Access) -> str | None:
        """Return why a request that writes is refused, or None if it is not."""
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return "it comes from another site"
        if not self._is_own(request, request.headers.get("origin", "")):
            return (
                "its header Origin does not name this host; behind a proxy that changes the header "
                "Host, pass the browser's origin to dashboard(origins=[...])"
            )
        cookie = request.cookies.get(_cookie_name(request), "")
        wanted = self.token(cookie, access)
        if not cookie or not hmac.compare_digest(wanted.encode(), token.encode()):
            return "it has no valid token: reload the page and try again"
        return None

    def _is_own(self, request: Request, origin: str) -> bool:
        if origin.lower() in self._origins:
            return True
        # A proxy may speak TLS for us, so the scheme that we see says nothing.
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        host = request.headers.get("host", "")
        return parts.scheme in {"http", "https"} and bool(host) and parts.netloc == host


def _cookie_name(request: Request) -> str:
    # The prefix, which needs TLS, keeps neighbours of a shared domain from setting it.
    return "__Host-events" if _is_secure(request) else "events"


def _is_secure(request: Request) -> bool:
    # Not by the request's URL, which begins with whatever the header Host has.
    return bool(request.scope.get("scheme") == "https")
