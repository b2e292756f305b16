"""Wherever it is mounted, and whatever a proxy strips, its links lead to its own pages."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from events.dashboard import Access, dashboard
from events.integration import OutboxRelay
from events.memory import MemoryBus
from events.sqlalchemy import SQLAlchemyOutboxStore
from tests.unit.dashboard.conftest import Client, Open

BUS = MemoryBus()


def page() -> Starlette:
    return dashboard(BUS, authorize=lambda _: Access("operate", "anna"))


def in_fastapi(root_path: str) -> FastAPI:
    app = FastAPI(root_path=root_path)
    app.mount("/events", page())
    return app


@pytest.mark.parametrize(
    ("app", "root_path", "outside", "inside"),
    [
        (page(), "", "/", "/"),
        (Starlette(routes=[Mount("/a/b", page())]), "", "/a/b/", "/a/b/"),
        (in_fastapi(""), "", "/events/", "/events/"),
        # A proxy that strips /api, and a server that knows it, as `uvicorn --root-path /api` does.
        (in_fastapi(""), "/api", "/api/events/", "/api/events/"),
        # A proxy that strips /api, and nobody who knows it.
        (in_fastapi(""), "", "/api/events/", "/events/"),
    ],
    ids=["alone", "starlette", "fastapi", "root path", "stripped"],
)
async def test_each_link_leads_to_a_page(
    app: ASGIApp, root_path: str, outside: str, inside: str
) -> None:
    transport = httpx.ASGITransport(app, root_path=root_path)
    async with (
        BUS,
        httpx.AsyncClient(transport=transport, base_url="http://shop.example") as http,
    ):
        todo, seen = [outside], set[str]()
        while todo:
            path = todo.pop()
            seen.add(path)
            response = await http.get(inside + path.removeprefix(outside))
            assert response.status_code == 200, path
            if not response.headers["content-type"].startswith("text/html"):
                continue
            for link in re.findall(r'(?:href|src|action)="([^"#]*)"', response.text):
                target = urljoin(f"http://shop.example{path}", link)
                assert target.startswith(f"http://shop.example{outside}"), f"{path} leads to {link}"
                found = target.removeprefix("http://shop.example").partition("?")[0]
                if found not in seen and found not in todo:
                    todo.append(found)
    names = {path.removeprefix(outside) for path in seen}
    assert names >= {"", "dead", "story", "topology", "events", "jobs", "audit"}
    assert names >= {"static/style.css", "static/dashboard.js", "static/icon.svg"}


async def test_a_database_that_is_down_is_a_sentence(open_page: Open, tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/none.db")  # without its tables
    relay = OutboxRelay(SQLAlchemyOutboxStore(engine), MemoryBus())

    async def shows(client: Client, path: str, status: int, text: str) -> None:
        response = await client.get(path)
        assert response.status_code == status
        assert text in response.text
        assert "Traceback" not in response.text

    async with open_page(relay=relay) as client:
        await shows(client, "", 200, "no such table")
        await shows(client, "outbox", 500, "That did not work")
        await shows(client, "dead", 200, "No dead letters")
    await engine.dispose()
