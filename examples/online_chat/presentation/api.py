"""What the application answers over HTTP: the page, the socket, and two probes."""

from pathlib import Path
from urllib.parse import urlsplit

import structlog
from dishka.integrations.fastapi import DishkaRoute, FromDishka, inject
from fastapi import APIRouter, WebSocket
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles

from events.integration.implementation.base import TransportIntegrationEventBus
from examples.online_chat.application.chat import Chat
from examples.online_chat.presentation.connection import FULL, Connection, close
from examples.online_chat.presentation.limits import Doors
from examples.online_chat.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger("online_chat")

router = APIRouter(route_class=DishkaRoute)
page = StaticFiles(directory=Path(__file__).parents[1] / "page", html=True)


@router.get("/livez")
async def livez() -> dict[str, str]:
    """Report that the process runs, and nothing else: a restart does not help a broker."""
    return {"status": "alive"}


@router.get("/readyz")
async def readyz(
    chat: FromDishka[Chat], bus: FromDishka[TransportIntegrationEventBus]
) -> JSONResponse:
    """Tell whether to send people here: the bus is up, and other servers hear of ours."""
    health = bus.health()
    ready = health.healthy and chat.alive
    answer = {
        "status": "ready" if ready else "not ready",
        "bus": {"connected": health.connected, "consumers": len(health.consumers)},
        "roll": "called" if chat.alive else "ended",
    }
    return JSONResponse(answer, 200 if ready else 503)


@router.websocket("/socket")
@inject
async def socket(
    websocket: WebSocket,
    chat: FromDishka[Chat],
    settings: FromDishka[Settings],
    doors: FromDishka[Doors],
) -> None:
    origin = websocket.headers.get("origin")
    if not is_ours(origin, websocket.headers.get("host", ""), settings.allowed_origins):
        log.warning("socket refused", origin=origin)
        await websocket.close()  # before it is accepted: an HTTP 403
        return
    await websocket.accept()
    with doors.entering() as entered:
        if entered:
            await Connection(websocket, chat, settings).serve()
        else:
            log.warning("socket refused", reason=FULL.reason)
            await close(websocket, FULL)


def is_ours(origin: str | None, host: str, allowed: list[str]) -> bool:
    """Tell whether a page of this origin may connect.

    Browsers always say where a page is from, so that other sites' pages cannot use us behind their
    visitors' backs. Programs need not, and could say anything.
    """
    return origin is None or origin in allowed or (bool(host) and urlsplit(origin).netloc == host)
