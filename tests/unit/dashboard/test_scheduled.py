"""What waits for its time is shown, cancelled and rescheduled: of a bus on a database, and of a relay."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from events.dashboard import Access, dashboard
from events.integration import OutboxRelay
from events.memory import MemoryBus
from events.sqlalchemy import (
    SQLAlchemyBus,
    SQLAlchemyOutbox,
    SQLAlchemyOutboxStore,
    bus_table,
    outbox_table,
)
from tests.unit.dashboard.conftest import ORIGIN, USERS, Client, Mails, Registered

LATER = datetime(2101, 1, 1, tzinfo=UTC)
METADATA = MetaData()
BUS, OUTBOX = bus_table(METADATA), outbox_table(METADATA)
AWKWARD = "<user> & 'co' \"7\"=1"


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/page.db")
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    yield engine
    await engine.dispose()


@asynccontextmanager
async def shown(engine: AsyncEngine, role: str = "operate") -> AsyncGenerator[Client]:
    """Open the page of a bus on the database, with the relay of an outbox beside it."""
    bus = SQLAlchemyBus(engine)
    relay = OutboxRelay(SQLAlchemyOutboxStore(engine), MemoryBus())
    page = dashboard(bus, relay=relay, authorize=lambda _: Access(role, "anna"))  # type: ignore[arg-type]
    transport = httpx.ASGITransport(page, root_path="/ops/events")
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as http:
        yield Client(http, Mails(), bus)  # type: ignore[arg-type]


async def schedule(engine: AsyncEngine, table: str, *ids: str) -> None:
    async with engine.begin() as connection:
        outbox = SQLAlchemyOutbox(connection, table=METADATA.tables[table])
        for each in ids:
            await outbox.put(USERS, Registered(number=1), available_at=LATER, schedule_id=each)


async def waiting(engine: AsyncEngine, table: str) -> dict[str, datetime]:
    async with engine.connect() as connection:
        found = await SQLAlchemyOutbox(connection, table=METADATA.tables[table]).scheduled()
    return {each.schedule_id: each.available_at for each in found}


async def test_both_places_are_shown_and_the_one_that_is_meant_is_changed(
    engine: AsyncEngine,
) -> None:
    await schedule(engine, "bus", "same", AWKWARD)
    await schedule(engine, "outbox", "same", "other")
    async with shown(engine) as client:
        page = (await client.get("scheduled")).text
        assert page.index("In the outbox") < page.index("In the bus")
        assert "&lt;user&gt; &amp; &#39;co&#39; &#34;7&#34;=1" in page
        token = {"token": await client.token(path="scheduled")}
        done = await client.post("scheduled/cancel", {**token, "of": "bus", "id": AWKWARD})
        assert (done.status_code, done.headers["location"]) == (303, "../scheduled?cancel=1")
        to = {"to": "2090-01-01T12:00"}
        moved = await client.post(
            "scheduled/reschedule", {**token, **to, "of": "outbox", "id": "same"}
        )
        assert moved.headers["location"] == "../scheduled?reschedule=1"
        gone = await client.post("scheduled/cancel", {**token, "of": "bus", "id": AWKWARD})
        assert "0 events cancelled" in (await client.get(gone.headers["location"][3:])).text
        audit = (await client.get("audit")).text
    assert await waiting(engine, "bus") == {"same": LATER}
    assert await waiting(engine, "outbox") == {
        "same": datetime(2090, 1, 1, 12, tzinfo=UTC),
        "other": LATER,
    }
    assert "cancel of scheduled events of the bus" in audit
    assert "scheduled events of the outbox" in audit


async def test_pages_and_a_prefix(engine: AsyncEngine) -> None:
    await schedule(engine, "bus", *(f"shop-{number}" for number in range(51)), "zoo-1")
    async with shown(engine, "read") as client:
        page = (await client.get("scheduled?prefix=shop-")).text
        assert page.count("dashboard.registered") == 50
        assert "scheduled?bus=50&amp;prefix=shop-" in page
        page = (await client.get("scheduled?bus=50&prefix=shop-")).text
        # No name here is made of hexadecimal digits: the ids of messages stand beside them.
        found = ("shop-50" in page, "shop-49" in page, "zoo-1" in page)
        assert found == (True, False, False)
        assert "Next scheduled" not in page
        assert "checkbox" not in page  # a reader changes nothing


@pytest.mark.parametrize(
    ("path", "fields", "reason"),
    [
        ("cancel", {"of": "bus"}, "no event was ticked"),
        ("cancel", {"of": "bank", "id": "x"}, "nothing is scheduled in"),
        ("reschedule", {"of": "bus", "id": "x"}, "say to which time"),
        ("reschedule", {"of": "bus", "id": "x", "to": "soon"}, "to must be a time"),
        (
            "reschedule",
            {"of": "bus", "id": "x", "to": "9999-12-31T23:59-14:00"},
            "to must be a time",
        ),
        ("cancel", {"of": "bus", "id": "x\0"}, "id has a NUL character"),
    ],
)
async def test_a_form_that_means_nothing_changes_nothing(
    engine: AsyncEngine, path: str, fields: dict[str, str], reason: str
) -> None:
    await schedule(engine, "bus", "x")
    async with shown(engine) as client:
        token = await client.token(path="scheduled")
        answer = await client.post(f"scheduled/{path}", {"token": token, **fields})
    assert answer.status_code == 400
    assert reason in answer.text
    assert await waiting(engine, "bus") == {"x": LATER}


@pytest.mark.parametrize("given", ["x", "-1", "1.5", "nan", str(1 << 63), "9" * 5000])
@pytest.mark.parametrize(
    "field", ["scheduled?bus", "scheduled?outbox", "outbox?after", "outbox?later", "outbox/row?id"]
)
async def test_what_is_no_id_of_a_row_is_refused(
    engine: AsyncEngine, field: str, given: str
) -> None:
    async with shown(engine) as client:
        answer = await client.get(f"{field}={given}")
        assert answer.status_code == 400
        assert "must be the id of a row" in answer.text
        most = await client.get(f"{field}={(1 << 63) - 1}")
        assert most.status_code == (404 if field.startswith("outbox/row") else 200)


async def test_a_bus_without_schedules_has_no_such_section(client: Client) -> None:
    assert 'href="./scheduled"' not in (await client.get("")).text
    assert (await client.get("scheduled")).status_code == 404
