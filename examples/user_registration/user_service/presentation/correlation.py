import re
from time import monotonic
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from events.integration import correlate
from examples.user_registration.chassis.http import PROBES
from examples.user_registration.chassis.logs import bound

HEADER = "X-Correlation-ID"

_usable = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch
_logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("user_service.http")


class CorrelationMiddleware:
    """Give each request an id, the caller's own if it has a usable one, and what follows from it.

    It is in the response, in every line that is logged meanwhile, and by `correlate` in the events
    that are put into the outbox, so that it goes on in other processes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get(HEADER, "")
        correlation_id = given if _usable(given) else str(uuid4())
        status = 500
        began = monotonic()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = correlation_id
            await send(message)

        with correlate(correlation_id), bound(correlation_id=correlation_id):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                _logger.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    ms=round((monotonic() - began) * 1000, 1),
                )
        return None
