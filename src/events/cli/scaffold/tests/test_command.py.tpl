import asyncio
import sys

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from {{package}}.__main__ import main
from {{package}}.database import Order


async def test_an_order_is_placed(
    engine: AsyncEngine,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setattr(sys, "argv", ["{{package}}", "ann@example.com", "2"])
    await asyncio.to_thread(main)
    async with AsyncSession(engine) as session:
        assert await session.scalar(select(Order.id)) == capsys.readouterr().out.strip()
