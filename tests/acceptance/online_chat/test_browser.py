"""The page in headless Chromium, at two server processes over a Redis of its own.

Screenshots go to the folder that EVENTS_TEST_SCREENSHOTS names, else to pytest's own.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from events.testing import eventually
from tests.acceptance.browser import browser, new_page
from tests.acceptance.online_chat.browser import Person
from tests.acceptance.online_chat.processes import ChatServer
from tests.acceptance.online_chat.test_socket import Client, connect
from tests.brokers.redis_server import RedisServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

PHONE = {"width": 390, "height": 780}
DESK = {"width": 1100, "height": 720}
TIMEOUT = 120.0
UNHURRIED = {"rate": 1000, "burst": 1000}
# Where no server is to be missed, however busy the machine is.
PATIENT = {**UNHURRIED, "send_timeout": 60, "timeout": 60}

Open = Callable[..., Awaitable[Person]]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Generator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def start(redis: RedisServer, tmp_path: Path) -> Generator[Callable[..., ChatServer]]:
    """Start servers of this test alone."""
    with ExitStack() as running:

        def start(name: str, port: int = 0) -> ChatServer:
            log = tmp_path / f"{name}.log"
            return running.enter_context(
                ChatServer(log, redis_url=redis.url, port=port, **UNHURRIED)
            )

        yield start


@pytest.fixture(scope="module")
def both(
    redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Generator[tuple[ChatServer, ChatServer]]:
    folder = tmp_path_factory.mktemp("chat")
    with (
        ChatServer(folder / "one.log", redis_url=redis.url, **PATIENT) as one,
        ChatServer(folder / "two.log", redis_url=redis.url, **PATIENT) as two,
    ):
        yield one, two


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncGenerator[Browser]:
    async with browser() as launched:
        yield launched


@pytest_asyncio.fixture(loop_scope="module")
async def open_page(chromium: Browser) -> AsyncGenerator[Open]:
    """Open the page of a server, in a profile of its own; in the end nothing may have gone wrong."""
    people: list[Person] = []

    async def open_page(
        server: ChatServer, *, size: dict[str, int] = DESK, scheme: str = "light"
    ) -> Person:
        person = Person(await new_page(chromium, size, scheme=scheme))
        people.append(person)
        await person.open(server.url)
        return person

    yield open_page
    for person in people:
        await person.page.context.close()
        assert person.complaints == []


@pytest.fixture
def room() -> str:
    return f"room-{uuid4().hex[:6]}"


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("EVENTS_TEST_SCREENSHOTS") or tmp_path / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


async def readiness(server: ChatServer) -> tuple[int, str]:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        answer = await http.get("readyz")
        return answer.status_code, answer.json()["status"]


async def is_ready(server: ChatServer) -> bool:
    return await readiness(server) == (200, "ready")


async def test_two_people_on_two_servers_talk(
    both: tuple[ChatServer, ChatServer], open_page: Open, shots: Path
) -> None:
    one, two = both
    ada, grace = await open_page(one), await open_page(two, size=PHONE, scheme="dark")
    await ada.shoot(shots / "lobby.png")
    await grace.shoot(shots / "lobby-phone.png")
    await ada.join("tea-room", "Ada")
    await grace.join("tea-room", "Grace")
    await ada.sees_members("Ada", "Grace")
    await grace.sees_members("Ada", "Grace")
    await ada.sees_line("Grace")

    await ada.say("Good morning! Is anybody on the other server?")
    await grace.sees_message("Good morning! Is anybody on the other server?")
    await grace.say("I am. Two processes, one room, and Redis between them.")
    await ada.sees_message("I am. Two processes, one room, and Redis between them.")
    await grace.say("What if somebody says <script>alert('boo')</script>?")
    await ada.sees_message("<script>alert('boo')</script>")
    await ada.say("Then it says so. Text is text.")
    await grace.sees_message("Text is text")

    await expect(ada.page.locator(".own[data-delivery=sent]")).to_have_count(2)
    author = grace.page.locator(".message:not(.own) .author").first
    await expect(author).to_have_text(re.compile(r"^Ada #[a-z2-7]{6}\s*$"))
    clock = grace.page.locator(".message:not(.own) time").first
    await expect(clock).to_have_text(re.compile(r"^\d\d:\d\d$"))
    await ada.shoot(shots / "room.png")
    await grace.shoot(shots / "room-phone.png")

    await grace.page.get_by_role("button", name="Leave").click()
    await ada.sees_line("left")
    await ada.sees_members("Ada")
    await expect(grace.page.get_by_label("Your name")).to_be_focused()


async def test_two_of_one_name_are_distinguished(
    both: tuple[ChatServer, ChatServer], open_page: Open, room: str
) -> None:
    one, two = both
    first, second = await open_page(one), await open_page(two)
    await first.join(room, "Ada")
    await second.join(room, "Ada")
    await first.sees_members("Ada", "Ada")
    ids = await first.page.locator("#members .id").all_text_contents()
    assert len(set(ids)) == 2
    await expect(first.page.locator("#members li", has_text="you")).to_have_count(1)
    await second.say("which of us?")
    await first.sees_message("which of us?")
    said_by = await first.page.locator(".message .author .id").text_content()
    mine = await second.page.locator("#members li", has_text="you").locator(".id").text_content()
    assert said_by == mine


async def test_redis_is_killed_and_the_chat_goes_on_when_it_is_back(
    redis: RedisServer, start: Callable[..., ChatServer], open_page: Open, room: str, shots: Path
) -> None:
    server, other = start("one"), start("two")
    ada, grace = await open_page(server), await open_page(other)
    await ada.join(room, "Ada")
    await grace.join(room, "Grace")
    await ada.sees_members("Ada", "Grace")
    assert await readiness(server) == (200, "ready")

    redis.kill()
    try:
        await ada.say("can you hear me?")
        failed = ada.page.locator(".own[data-delivery=failed]")
        await expect(failed).to_contain_text("Failed: the servers cannot reach each other.")
        await expect(ada.page.locator("#notice-text")).to_contain_text("cannot reach each other")
        await expect(ada.page.locator("#state")).to_have_text("cut off")
        assert await readiness(server) == (503, "not ready")
        await ada.shoot(shots / "cut-off.png")
    finally:
        await asyncio.to_thread(redis.start)

    await expect(ada.page.locator("#notice")).to_be_hidden()
    await ada.sees_line("The servers hear each other again.")
    assert await readiness(server) == (200, "ready")
    # What is published before the other server listens again, it never gets.
    await eventually(partial(is_ready, other), TIMEOUT)
    await ada.page.get_by_role("button", name="Retry").click()
    await grace.sees_message("can you hear me?")
    await expect(ada.page.locator(".own[data-delivery=sent]")).to_have_count(1)
    await expect(failed).to_have_count(0)
    await grace.say("now I can")
    await ada.sees_message("now I can")
    await ada.sees_members("Ada", "Grace")
    await grace.sees_members("Ada", "Grace")


async def test_a_server_is_killed_and_its_people_are_missed_until_they_are_back(
    start: Callable[..., ChatServer], open_page: Open, room: str, shots: Path
) -> None:
    one, two = start("one"), start("two")
    ada, grace = await open_page(one), await open_page(two, size=PHONE)
    await ada.join(room, "Ada")
    await grace.join(room, "Grace")
    await ada.sees_members("Ada", "Grace")

    two.kill()
    await ada.sees_members("Ada")
    await ada.sees_line("disconnected without leaving")

    await expect(grace.page.locator("#state")).to_have_text("offline")
    await expect(grace.page.locator("#notice")).to_contain_text("The connection was lost.")
    await grace.say("is anybody there?")
    await expect(grace.page.locator(".failure")).to_contain_text("you are not connected")
    await grace.shoot(shots / "offline-phone.png")

    port = int(two.url.rstrip("/").rpartition(":")[2])
    await asyncio.to_thread(start, "two", port)
    # Not `click`, which waits for a hidden button, and the page may be connecting by itself.
    await grace.page.locator("#try-now").dispatch_event("click")
    await expect(grace.page.locator("#state")).to_have_text("online")
    await grace.page.get_by_role("button", name="Retry").click()
    await ada.sees_message("is anybody there?")
    await ada.sees_members("Ada", "Grace")


HOSTILE = (
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'>",
    "\u202egnirts desrever\u202c and \u2066more\u2069",
    "&lt;b&gt; &amp; ${1+1} {{1+1}} ');--",
    "javascript:window.hacked=3",
    "x" * 3000,
    "🎉" * 1024,
    "first line\n\n\nand the fourth",
)


async def test_hostile_text_is_shown_as_it_is_and_breaks_nothing(
    both: tuple[ChatServer, ChatServer], open_page: Open, room: str, shots: Path
) -> None:
    one, two = both
    names = ("<script>hacked=1</script>", "<img src=x onerror=hacked=1>", "\u202eevil\u202ereverse")
    watcher = await open_page(one, size=PHONE)
    await watcher.join(room, "Watcher")
    people = [await open_page(two) for _ in names]
    for person, name in zip(people, names, strict=True):
        await person.join(room, name)
        await watcher.sees_line(name)
        await expect(watcher.page.locator("#members .name", has_text=name)).to_have_count(1)
    speaker = people[-1]
    for text in HOSTILE:
        await speaker.say(text)
        await watcher.sees_message(text)

    shown = await watcher.page.locator(".message .text").all_inner_texts()
    assert shown == list(HOSTILE)
    for page in (watcher.page, speaker.page):
        assert await page.evaluate("window.hacked === undefined")
        # Neither bold, nor pictures, nor scripts of anybody's but our own.
        assert await page.locator("#timeline script, #timeline img, #members img").count() == 0
    assert not await watcher.scrolls_sideways()
    # A mark of direction in a name turns what follows it in that name, and nothing else.
    order = await watcher.page.locator(".message .author").first.evaluate(
        "e => e.querySelector('.name').getBoundingClientRect().left"
        " <= e.querySelector('.id').getBoundingClientRect().left"
    )
    assert order
    await watcher.page.locator("#scroll").evaluate("e => e.scrollTop = 0")
    await watcher.shoot(shots / "hostile-phone.png")


async def test_a_policy_of_the_browser_keeps_scripts_out_even_if_the_page_did_not(
    both: tuple[ChatServer, ChatServer], open_page: Open
) -> None:
    person = await open_page(both[0])
    refused = await person.page.evaluate(
        "() => { try { document.body.innerHTML = '<b>no</b>'; return 'taken' }"
        " catch (error) { return error.name } }"
    )
    assert refused == "TypeError"
    await eventually(lambda: person.complaints)  # the browser says aloud what it refused
    person.complaints.clear()


async def test_a_phone_needs_no_scrolling_sideways(
    both: tuple[ChatServer, ChatServer], open_page: Open, room: str, shots: Path
) -> None:
    person = await open_page(both[0], size=PHONE)
    assert not await person.scrolls_sideways()
    await person.join(f"{room}-of-a-long-name-32", "M" * 32)
    await person.say("W" * 500)
    await person.sees_message("W" * 500)
    assert not await person.scrolls_sideways()
    people = person.page.get_by_role("button", name="1 person")
    await people.click()
    await expect(person.page.locator("#members")).to_be_visible()
    assert not await person.scrolls_sideways()
    await person.shoot(shots / "people-phone.png")
    await person.page.keyboard.press("Escape")
    await expect(person.page.locator("#members")).to_be_hidden()
    await expect(people).to_be_focused()
    for control in ("#leave", "#show-people", "#send", "#text"):
        box = await person.page.locator(control).bounding_box()
        assert box is not None
        assert box["height"] >= 40, f"{control} is too small for a thumb"
        assert box["height"] < 60, f"{control} is squeezed until its words break"
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]


async def test_it_is_used_by_keyboard_alone_and_announced_to_screen_readers(
    both: tuple[ChatServer, ChatServer], open_page: Open, room: str
) -> None:
    person = await open_page(both[0])
    page = person.page
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert").first).to_have_text(re.compile("Give a name"))
    await person.join(room, "Ada")
    text = page.get_by_role("textbox", name="Message")
    await expect(text).to_be_focused()
    await page.keyboard.type("first")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("second")
    await page.keyboard.press("Enter")
    await expect(page.locator(".text")).to_have_text("first\nsecond", use_inner_text=True)
    await expect(text).to_be_focused()
    await expect(page.get_by_role("log")).to_have_attribute("aria-live", "polite")
    reached: list[str] = []
    for _ in range(3):
        await page.keyboard.press("Shift+Tab")
        reached.append(await page.evaluate("document.activeElement.id"))
    assert reached == ["scroll", "leave", ""], "messages, leaving, and back out of the page"
    # Whatever can be operated says what it is.
    nameless = await page.evaluate(
        "[...document.querySelectorAll('button, input, textarea')].filter(e => e.checkVisibility()"
        " && !(e.innerText.trim() || e.ariaLabel || e.labels?.length)).map(e => e.id)"
    )
    assert nameless == []


async def test_what_was_not_read_is_counted_in_the_title(
    both: tuple[ChatServer, ChatServer], open_page: Open, room: str
) -> None:
    one, two = both
    ada, grace = await open_page(one), await open_page(two)
    await ada.join(room, "Ada")
    await grace.join(room, "Grace")
    await expect(ada.page).to_have_title(f"#{room} · Online chat")
    # Headless pages are never hidden, so override the property.
    await ada.page.evaluate("Object.defineProperty(document, 'hidden', {value: true, writable: 1})")
    await grace.say("one")
    await grace.say("two")
    await expect(ada.page).to_have_title(f"(2) #{room} · Online chat")
    await ada.page.evaluate(
        "document.hidden = false; document.dispatchEvent(new Event('visibilitychange'))"
    )
    await expect(ada.page).to_have_title(f"#{room} · Online chat")


async def test_a_message_that_is_sent_twice_is_shown_once(
    both: tuple[ChatServer, ChatServer], open_page: Open, room: str
) -> None:
    one, two = both
    person = await open_page(one)
    await person.join(room, "Ada")
    async with connect(two.socket_url) as connection:
        client = Client(connection)
        await client.join(room, "Grace")
        message = str(uuid4())
        for text, name in [("again", message), ("again", message), ("done", str(uuid4()))]:
            assert (await client.say(text, name))["type"] == "ok"
    await person.sees_message("done")
    await expect(person.page.locator(".text")).to_have_text(["again", "done"])


async def test_why_a_server_closed_the_socket_is_shown(tmp_path: Path, open_page: Open) -> None:
    with ChatServer(tmp_path / "log", max_sockets=1) as server:
        async with connect(server.socket_url) as connection:
            await Client(connection).join("lobby", "Ada")
            person = await open_page(server)
            await person.page.get_by_label("Your name").fill("Grace")
            await person.page.keyboard.press("Enter")
            await expect(person.page.locator("#notice-text")).to_have_text("This server is full.")
            await expect(person.page.locator("#countdown")).to_contain_text("Trying again in")
        # There is room now, and the page comes in by itself.
        await expect(person.page.locator("#state")).to_have_text("online")
        await expect(person.page.locator("#notice")).to_be_hidden()


async def test_nothing_moves_for_those_who_want_it_still(
    both: tuple[ChatServer, ChatServer], open_page: Open, room: str
) -> None:
    person = await open_page(both[0])
    await person.join(room, "Ada")
    moving = "getComputedStyle(document.querySelector('.line')).animationName"
    assert await person.page.evaluate(moving) == "rise"
    await person.page.emulate_media(reduced_motion="reduce")
    assert await person.page.evaluate(moving) == "none"


async def test_a_page_that_is_loaded_again_is_still_in_its_room_as_the_same_person(
    both: tuple[ChatServer, ChatServer], open_page: Open, room: str
) -> None:
    person = await open_page(both[0])
    await person.join(room, "Ada")
    before = await person.page.locator("#members .id").text_content()
    await person.page.reload()
    await expect(person.page.locator("#state")).to_have_text("online")
    await expect(person.page.locator("#members .id")).to_have_text(before or "")
    assert person.page.url.endswith(f"#{room}")


async def test_a_message_that_is_too_long_cannot_be_sent_and_says_why(
    both: tuple[ChatServer, ChatServer], open_page: Open, room: str
) -> None:
    person = await open_page(both[0])
    await person.join(room, "Ada")
    await person.say("🎉" * 1024 + "!!!")
    await expect(person.page.locator("#room-left")).to_have_text("3 bytes too long")
    await expect(person.page.locator("#send")).to_be_disabled()
    assert await person.page.locator(".message").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_all_text_stands_out_from_its_ground(
    both: tuple[ChatServer, ChatServer], open_page: Open, room: str, scheme: str
) -> None:
    one, two = both
    ada, grace = await open_page(one, scheme=scheme), await open_page(two)
    contrast = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")
    poor = await ada.page.evaluate(contrast)
    assert poor == [], f"the way in: {json.dumps(poor)}"
    await ada.join(room, "Ada")
    await grace.join(room, "Grace")
    await grace.say("hello")
    await ada.sees_message("hello")
    await ada.say("hello yourself")
    await grace.sees_message("hello yourself")
    for delivery in ("sent", "sending", "failed"):
        await ada.page.evaluate(
            "delivery => { const own = document.querySelector('.own');"
            " own.dataset.delivery = delivery;"
            " const failure = own.querySelector('.failure'); failure.hidden = false;"
            " failure.innerText = 'Failed: because. ';"
            " document.querySelector('#notice').hidden = false;"
            " document.querySelector('#notice-text').innerText = 'Something is wrong.' }",
            delivery,
        )
        poor = await ada.page.evaluate(contrast)
        assert poor == [], f"{delivery}: {json.dumps(poor)}"
