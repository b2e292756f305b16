"""A thousand dead letters go back by the page, behind a canary, while the broker restarts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack

import pytest
from playwright.async_api import Page, expect
from sqlalchemy import make_url

from events.integration.implementation.base import BusOptions
from events.integration.implementation.nats import NatsIntegrationEventBus
from events.integration.implementation.rabbitmq import RabbitMQIntegrationEventBus
from events.integration.implementation.redis import RedisStreamsIntegrationEventBus
from events.testing import eventually
from events.testing.contracts import Harness
from tests.acceptance.browser import browser
from tests.acceptance.dashboard.person import visitor
from tests.acceptance.dashboard.served import UserRegisteredV1, served
from tests.brokers.nats_server import NatsServer
from tests.brokers.rabbitmq_server import RabbitMQServer
from tests.brokers.redis_server import RedisServer
from tests.contracts.sqlalchemy_bus import DatabaseHarness
from tests.contracts.test_memory_bus import MemoryHarness
from tests.databases.postgresql_server import PostgreSQLServer
from tests.servers import PrivateServer

COUNT, BATCH, RATE = 1_000, 50, 200

SERVERS: dict[str, Callable[[Path], PrivateServer]] = {
    "rabbitmq": RabbitMQServer,
    "redis": RedisServer,
    "nats": NatsServer,
    "postgresql": PostgreSQLServer,
}


class BrokerHarness(Harness):
    """Buses on a server of this test alone."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def new_bus(self, **options: Unpack[BusOptions]) -> Any:
        options.setdefault("send_timeout", 60)  # a thousand are sent at once
        return self._make(**options)


def harness_on(server: PrivateServer) -> Harness:
    if isinstance(server, PostgreSQLServer):
        return DatabaseHarness(make_url(server.url).set(drivername="postgresql+asyncpg"))
    if isinstance(server, RabbitMQServer):
        return BrokerHarness(partial(RabbitMQIntegrationEventBus, server.url))
    if isinstance(server, RedisServer):
        return BrokerHarness(partial(RedisStreamsIntegrationEventBus, server.url))
    assert isinstance(server, NatsServer)
    return BrokerHarness(partial(NatsIntegrationEventBus, server.url))


@pytest.fixture(params=sorted(SERVERS))
def server(request: pytest.FixtureRequest) -> Generator[PrivateServer]:
    # Not in `tmp_path`, whose parents are open to its owner alone: PostgreSQL has a user of its own.
    with (
        TemporaryDirectory(prefix="events-dashboard-") as folder,
        SERVERS[request.param](Path(folder)) as server,
    ):
        yield server


async def redrive(page: Page) -> None:
    """Send the only group back, in batches at a rate."""
    await page.get_by_role("button", name="Redrive…").click()
    await page.get_by_label("In batches of").fill(str(BATCH))
    await page.get_by_label("At most so many a second").fill(str(RATE))
    await page.get_by_role("button", name="Redrive").click()


@pytest.fixture
def harness(server: PrivateServer) -> Harness:
    return harness_on(server)


async def ended(page: Page) -> None:
    """Return when the job has finished, and fail with what the page says if it has not."""
    state = page.locator("[data-job-state]")
    await expect(state).not_to_have_text("running", timeout=120_000)
    assert await state.inner_text() == "finished", await page.locator("main").inner_text()


async def test_a_thousand_go_back_while_the_broker_restarts(
    server: PrivateServer, harness: Harness, tmp_path: Path
) -> None:
    async with served(harness, tmp_path) as shown, browser() as launched:
        await shown.die(*(UserRegisteredV1(number=number) for number in range(COUNT)))
        shown.mails.broken = False
        async with visitor(launched, shown.url) as anna:
            page = anna.page
            await anna.open("dead")
            await expect(page.locator("li.card strong")).to_have_text("1,000")
            await redrive(page)
            await expect(page.get_by_role("progressbar")).to_be_visible()
            await eventually(lambda: len(shown.mails.handled) >= COUNT / 4)
            if isinstance(server, RabbitMQServer):
                await eventually(server.knows_its_quorum_queues)
            await asyncio.to_thread(server.restart)
            await ended(page)
            assert await page.get_by_role("progressbar").evaluate("e => e.value === e.max")

            # NATS writes down later what was removed, so a crash brings some back. On call one sees
            # them, and sends them back as well.
            await anna.open("dead")
            if await page.locator("li.card strong").count():
                assert isinstance(server, NatsServer)
                await redrive(page)
                await ended(page)
        await eventually(lambda: set(shown.mails.handled) == set(range(COUNT)))
        await shown.dead_are(0)
        twice = [number for number, times in Counter(shown.mails.handled).items() if times > 1]
        print(f"{server.name}: {len(twice)} of {COUNT} came twice")  # noqa: T201 - a figure, with -s
        # At least once: what was on its way when the server died, and no more than that.
        assert len(twice) <= 2 * BATCH


async def test_without_a_script_the_page_goes_on_by_itself(tmp_path: Path) -> None:
    async with served(MemoryHarness(), tmp_path) as shown, browser() as launched:
        await shown.die(*(UserRegisteredV1(number=number) for number in range(30)))
        shown.mails.broken = False
        shown.mails.goes_on.clear()  # until it was seen to run
        async with visitor(launched, shown.url, javascript=False) as anna:
            page = anna.page
            await anna.open("dead")
            await page.get_by_role("button", name="Redrive…").click()
            await page.get_by_label("In batches of").fill("10")
            await page.get_by_label("At most so many a second").fill("10")
            await page.get_by_label("Seconds to wait for it").fill("3600")
            await page.get_by_role("button", name="Redrive 30 dead letters").click()
            await expect(page.locator("[data-job-state]")).to_have_text("running")
            shown.mails.goes_on.set()
            await expect(page.locator("[data-job-state]")).to_have_text("finished")
            await expect(page.locator("main")).to_contain_text("30 of 30 sent back")
        await eventually(lambda: sorted(shown.mails.handled) == list(range(30)))


async def test_a_redrive_is_stopped_by_its_button(tmp_path: Path) -> None:
    async with served(MemoryHarness(), tmp_path) as shown, browser() as launched:
        await shown.die(*(UserRegisteredV1(number=number) for number in range(300)))
        shown.mails.broken = False
        async with visitor(launched, shown.url) as anna:
            page = anna.page
            await anna.open("dead")
            await page.get_by_role("button", name="Redrive…").click()
            await page.get_by_label("In batches of").fill("10")
            await page.get_by_label("At most so many a second").fill("1")  # so 5 minutes
            await page.get_by_role("button", name="Redrive 300 dead letters").click()
            await page.get_by_role("button", name="Stop").click()
            await expect(page.locator("[data-job-state]")).to_have_text("stopped")
        left = len(await shown.bus.dead_letters(shown.mails, limit=300))
        assert left
        await eventually(lambda: len(shown.mails.handled) + left == 300)
