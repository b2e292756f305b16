"""Each page on each bus, with real data, in headless Chromium.

Screenshots go to the folder that EVENTS_TEST_SCREENSHOTS names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.async_api import Page, expect

from events.testing.contracts import Harness
from tests.acceptance.browser import browser
from tests.acceptance.dashboard.person import DESK, PHONE, axe, visitor
from tests.acceptance.dashboard.served import HOSTILE, Shown, UserRegisteredV1, served
from tests.brokers.rabbitmq_server import RabbitMQHarness, rabbitmq_url
from tests.contracts.nats_harness import NatsHarness
from tests.contracts.sqlalchemy_bus import AsyncpgHarness, SQLiteHarness
from tests.contracts.test_memory_bus import MemoryHarness
from tests.contracts.test_redis_pubsub_bus import PubSubHarness
from tests.contracts.test_redis_streams_bus import StreamsHarness

__all__ = ["rabbitmq_url"]


HARNESSES: dict[str, Callable[[], Harness]] = {
    "memory": MemoryHarness,
    "redis": StreamsHarness,
    "nats": NatsHarness,
    "sqlite": SQLiteHarness,
    "postgresql": AsyncpgHarness,
}


@pytest.fixture(params=["rabbitmq", *HARNESSES])
def harness(request: pytest.FixtureRequest) -> Harness:
    if request.param == "rabbitmq":
        return RabbitMQHarness(request.getfixturevalue("rabbitmq_url"))
    return HARNESSES[request.param]()


async def pages_of(shown: Shown) -> list[tuple[str, str]]:
    """Return each page there is, with a name for its screenshot."""
    consumer = quote(shown.mails.name)
    letters = await shown.bus.dead_letters(shown.mails, limit=1)
    rows = await shown.relay.parked(limit=1)
    return [
        ("overview", ""),
        ("groups", "dead"),
        ("letters", f"dead/letters?consumer={consumer}"),
        ("letter", f"dead/letter?consumer={consumer}&id={quote(letters[0].id)}"),
        ("redrive", f"dead/chosen?action=redrive&consumer={consumer}"),
        ("discard", f"dead/chosen?action=discard&consumer={consumer}"),
        ("outbox", "outbox"),
        ("parked", f"outbox/row?id={rows[0].id}"),
        ("scheduled", "scheduled"),
        ("story", f"story?id={quote(letters[0].message.correlation_id)}"),
        ("topology", "topology"),
        ("events", "events"),
        ("event", f"events/event?type={UserRegisteredV1.type}"),
        ("jobs", "jobs"),
        ("audit", "audit"),
    ]


async def heading(page: Page) -> str:
    return await page.locator("h1").inner_text()


async def test_each_page_is_there_and_everybody_can_use_it(
    harness: Harness, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bus = request.node.callspec.params["harness"]
    judge = axe()
    async with served(harness, tmp_path) as shown, browser() as launched:
        await shown.die(*(UserRegisteredV1(number=n, note=f"case {n}") for n in range(60)))
        # The templates are the same on each bus, so one of them is enough for the other width.
        looks = [(DESK, "light"), (PHONE, "dark")] if bus == "memory" else [(DESK, "light")]
        for size, scheme in looks:
            async with visitor(launched, shown.url, size=size, scheme=scheme) as anna:
                for name, path in await pages_of(shown):
                    await anna.open(path)
                    assert await heading(anna.page)
                    await anna.is_sound(judge)
                    await anna.shoot(f"{bus}-{name}-{size['width']}-{scheme}")

        async with visitor(launched, shown.url) as anna:
            await anna.open("")
            card = anna.page.locator("li.card", has_text=shown.mails.name)
            await expect(card.get_by_role("link", name="60 dead letters")).to_be_visible()
            await expect(card.locator("svg.chart").first).to_be_visible()  # without a reload
            rate = card.locator(".figures > div", has_text="Settled overall").locator("dd")
            counts = bus in {"memory", "redis", "nats"}
            await expect(rate).to_contain_text("/s" if counts else "not known")
            await expect(card).to_contain_text("Growth")
            await card.get_by_role("link", name="60 dead letters").click()
            await expect(anna.page.locator("li.card strong")).to_have_text("60")
            await expect(anna.page.locator("li.card h2")).to_have_text(
                "ConnectionError: mail server refused number #: case #"
            )
            await anna.open("topology")
            await expect(anna.page.locator("svg .consumer")).to_contain_text(shown.mails.name)
            await expect(anna.page.locator("svg .topic")).to_contain_text(shown.topic.name)
            await expect(anna.page.locator("svg .service")).to_contain_text("shop")
            await anna.open("scheduled")
            await expect(anna.page.get_by_role("checkbox", name="Choose user-10")).to_have_count(1)
            await anna.open("outbox")
            await expect(anna.page.get_by_role("checkbox", name="Choose row")).to_have_count(3)
            await expect(anna.page.locator("main")).to_contain_text("relay-")
            await expect(anna.page.locator("main")).to_contain_text("in 1 h")
            assert "ada@example.com" not in await anna.page.content()


async def test_hostile_text_is_shown_as_it_is_and_does_nothing(
    harness: Harness, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bus = request.node.callspec.params["harness"]
    judge = axe()
    events = [UserRegisteredV1(number=n, note=note) for n, note in enumerate(HOSTILE)]
    async with served(harness, tmp_path) as shown, browser() as launched:
        await shown.die(*events)
        letters = await shown.bus.dead_letters(shown.mails, limit=100)
        async with visitor(launched, shown.url, "privy", size=PHONE) as privy:
            for path in (
                "",
                "dead",
                f"dead/letters?consumer={shown.mails.name}",
                "outbox",
                "scheduled",
            ):
                await privy.open(path)
                await privy.is_sound(judge)
                assert await privy.page.locator("main script, main img").count() == 0
                assert not re.search(
                    "[\x00-\x08\x0e-\x1f\u202a-\u202e\u2066-\u2069]", await privy.page.content()
                )
            seen = ""
            for letter in letters:
                await privy.open(f"dead/letter?consumer={shown.mails.name}&id={quote(letter.id)}")
                await privy.is_sound(judge)
                seen += await privy.page.locator("main").inner_text()
            await privy.shoot(f"{bus}-hostile")
            for shows in (
                "<script>window.hacked = 1</script>",
                r"\u202egnirts desrever\u202c",
                "{{ 7 * 7 }} {% raw %}",
                "x" * 5_000,
            ):
                assert shows in seen
            assert "\x00" not in seen


@pytest.mark.parametrize("javascript", [True, False])
async def test_parked_rows_go_out_after_all_or_are_deleted(
    tmp_path: Path, *, javascript: bool
) -> None:
    async with (
        served(MemoryHarness(), tmp_path) as shown,
        browser() as launched,
        visitor(launched, shown.url, javascript=javascript) as anna,
    ):
        await anna.open("outbox")
        await anna.page.get_by_role("checkbox", name="Choose row").first.check()
        anna.page.on("dialog", lambda dialog: dialog.accept())
        await anna.page.get_by_role("button", name="Discard").click()
        await expect(anna.page.get_by_role("status")).to_have_text("1 row were deleted.")
        assert (await shown.relay.stats()).parked == 2
        await anna.open("audit")
        await expect(anna.page.locator(".rows")).to_contain_text("anna")
        await expect(anna.page.locator(".rows")).to_contain_text("1 done")


async def test_a_bus_that_keeps_no_dead_letters_says_so(tmp_path: Path) -> None:
    async with (
        served(PubSubHarness(), tmp_path) as shown,
        browser() as launched,
        visitor(launched, shown.url) as anna,
    ):
        await anna.open("")
        await expect(anna.page.get_by_role("status")).to_contain_text("does not support")
        response = await anna.page.goto(shown.url + "dead")
        assert response is not None
        assert response.status == 501
        await expect(anna.page.locator("h1")).to_have_text("This bus cannot")


async def test_a_reader_sees_no_button_and_nobody_sees_anything(tmp_path: Path) -> None:
    async with served(MemoryHarness(), tmp_path) as shown, browser() as launched:
        await shown.die(UserRegisteredV1(number=1))
        async with visitor(launched, shown.url, "reader") as reader:
            for name, path in await pages_of(shown):
                await reader.open(path)
                buttons = await reader.page.locator("main button").all_inner_texts()
                assert set(buttons) <= {"Filter", "Show"}, name
                assert await reader.page.locator("form[method=post]").count() == 0
        async with visitor(launched, shown.url, "stranger") as stranger:
            response = await stranger.page.goto(shown.url)
            assert response is not None
            assert response.status == 403


@pytest.mark.parametrize("javascript", [True, False])
async def test_a_consumer_is_paused_and_resumed(
    harness: Harness, tmp_path: Path, javascript: bool, request: pytest.FixtureRequest
) -> None:
    bus = request.node.callspec.params["harness"]
    if not javascript and bus != "memory":
        pytest.skip("the forms are the same on each bus")
    async with served(harness, tmp_path) as shown, browser() as launched:
        shown.mails.broken = False
        looks = [(DESK, "light"), (PHONE, "dark"), (DESK, "dark"), (PHONE, "light")]
        for size, scheme in looks if bus == "memory" else looks[:1]:
            async with visitor(
                launched, shown.url, size=size, scheme=scheme, javascript=javascript
            ) as anna:
                main = anna.page.locator("main")
                await anna.open("")
                await anna.page.get_by_role("link", name=f"Pause {shown.mails.name}").click()
                await anna.shoot(f"{bus}-pause-{size['width']}-{scheme}")
                if javascript:
                    await anna.is_sound(axe())
                await anna.page.get_by_role("button", name="Pause").click()
                await expect(main).to_contain_text("Paused in all processes by anna")
                await anna.shoot(f"{bus}-paused-{size['width']}-{scheme}")
                if javascript:
                    await anna.is_sound(axe())
                assert await shown.bus.paused() == {shown.mails.name}
                await anna.page.get_by_role("link", name=f"Resume {shown.mails.name}").click()
                await anna.page.get_by_role("button", name="Resume").click()
                await expect(main).not_to_contain_text("Paused in all processes")
                assert await shown.bus.paused() == frozenset()


async def test_it_is_used_by_keyboard_alone(tmp_path: Path) -> None:
    async with served(MemoryHarness(), tmp_path) as shown, browser() as launched:
        await shown.die(UserRegisteredV1(number=1))
        shown.mails.broken = False
        async with visitor(launched, shown.url) as anna:
            page = anna.page
            await anna.open("dead")
            await page.keyboard.press("Tab")
            await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
            await page.keyboard.press("Enter")
            redrive = page.get_by_role("button", name="Redrive…")
            for _ in range(60):  # a field for a time has a stop for each of its parts
                await page.keyboard.press("Tab")
                if await redrive.evaluate("e => e === document.activeElement"):
                    break
            await expect(redrive).to_be_focused()
            await page.keyboard.press("Enter")
            go = page.get_by_role("button", name="Redrive 1 dead letter")
            await go.focus()
            await page.keyboard.press("Enter")
            await expect(page.locator("[data-job-state]")).to_have_text("finished")
            assert shown.mails.handled == [1]
