import pytest
from httpx import ASGITransport, AsyncClient
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from {{package}}.database import Order
from {{package}}.web import lifespan, web


async def test_an_order_is_posted(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    transport = ASGITransport(web)
    async with lifespan(web), AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/health")).status_code == 200
        refused = await client.post("/orders", json={"email": "ann@example.com", "quantity": 0})
        assert refused.status_code == 422
        posted = await client.post("/orders", json={"email": "ann@example.com", "quantity": 2})
        assert posted.status_code == 201
    async with AsyncSession(engine) as session:
        orders = (await session.scalars(select(Order.id))).all()
    assert orders == [posted.json()["order_id"]]
