"""The catalog in headless Chromium, at the width of a desktop and of a phone; and its files."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import AsyncGenerator
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from events.cli import main
from events.contracts.catalog.layout import laid_out
from events.contracts.catalog.site import write_site
from events.contracts.lock import dumps
from tests.acceptance.browser import browser, new_page

WIDTHS = {"desktop": (1366, 768), "phone": (390, 844)}
WORDS = [
    "order",
    "payment",
    "parcel",
    "user",
    "invoice",
    "stock",
    "refund",
    "coupon",
    "mail",
    "tax",
]
VERBS = ["placed", "changed", "cancelled", "confirmed", "expired"]
SCRIPT = "<script>alert(1)</script>"


def company(events: int) -> list[dict[str, Any]]:
    """Make the locks of a company that has so many events, five to a service and topic."""
    locks: list[dict[str, Any]] = []
    count = max(1, events // 5)
    for index in range(count):
        word = f"{WORDS[index % 10]}{index // 10 or ''}"
        types = [f"{word}.{verb}" for verb in VERBS]
        lock: dict[str, Any] = {
            "lock": 1,
            "service": {
                "name": f"{word} service",
                "owner": f"team {index % 7}",
                "description": f"Takes care of each {word}.",
                "repository": "https://git.example/company/blob/main",
            },
            "events": {type_: described(type_) for type_ in types},
            "sends": {f"{word}s": {type_: [1, 2] for type_ in types}},
            "consumers": {},
        }
        for step in (1, 3):
            other = f"{WORDS[(index + step) % count % 10]}{(index + step) % count // 10 or ''}"
            reads = {f"{other}.{verb}": {"1": 2, "2": 2} for verb in VERBS[: step + 1]}
            lock["consumers"][f"{word} follows {other}"] = {f"{other}s": reads}
        locks.append(lock)
    return locks


def described(type_: str) -> dict[str, Any]:
    name = "".join(part.capitalize() for part in type_.split("."))
    fields: dict[str, Any] = {
        "id": {"type": "string", "format": "uuid", "description": "Which one it is."},
        "amount": {"type": "string", "format": "decimal"},
        "email": {"type": "string", "x-pii": True},
        "address": {"$ref": "#/$defs/Address"},
        "note": {"type": "string", "default": SCRIPT},
    }
    address = {
        "title": "Address",
        "type": "object",
        "properties": {"street": {"type": "string", "x-pii": True}, "city": {"type": "string"}},
        "required": ["street", "city"],
    }
    example = {
        "id": "018f4e3c-8a4b-7c11-9d2e-3f4a5b6c7d8e",
        "amount": "19.99",
        "email": "ada@example.org",
        "address": {"street": "Main Street 1", "city": "London"},
        "note": SCRIPT,
    }
    versions: dict[str, Any] = {}
    for version in (1, 2):
        kept = dict(list(fields.items())[: 3 + 2 * (version - 1)])
        versions[str(version)] = {
            "schema": {
                "title": f"{name}V{version}",
                "description": f"What is known when it was {type_.replace('.', ' ')}.\n\nMore of it.",
                "type": "object",
                "properties": {"type": {"const": type_}, "version": {"const": version}, **kept},
                "required": ["type", "version", *(each for each in kept if each != "note")],
                "$defs": {"Address": address},
            },
            "example": {"type": type_, "version": version, **{k: example[k] for k in kept}},
            "source": "shop/events.py",
            "class": "shop.events.X",
        }
    versions["1"]["deprecated"] = "use version 2"
    return versions


@pytest.fixture(scope="module", params=[5, 500])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalog") / str(request.param)
    write_site(company(request.param), folder)
    return folder


@pytest.fixture(params=WIDTHS)
async def page(request: pytest.FixtureRequest) -> AsyncGenerator[Page]:
    width, height = WIDTHS[request.param]
    async with browser() as launched:
        page = await new_page(launched, {"width": width, "height": height})
        complaints: list[str] = []
        requested: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console", lambda said: complaints.append(said.text) if said.type == "error" else None
        )
        page.on("request", lambda each: requested.append(each.url))
        yield page
        assert complaints == []
        assert [url for url in requested if not url.startswith(("file:", "data:"))] == []


async def shoot(page: Page, site: Path, name: str) -> None:
    folder = os.environ.get("EVENTS_TEST_SCREENSHOTS")
    if folder:
        width = (page.viewport_size or {"width": 0})["width"]
        await page.screenshot(path=Path(folder) / f"catalog-{site.name}-{name}-{width}.png")


async def assert_fits(page: Page) -> None:
    wide = await page.evaluate(
        "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    )
    assert wide is False


async def test_one_finds_an_event_and_follows_it(site: Path, page: Page) -> None:
    await page.goto((site / "index.html").as_uri())
    await expect(page.locator("#cards > li")).to_have_count(int(site.name))
    await assert_fits(page)
    await shoot(page, site, "events")

    await page.keyboard.press("/")
    await page.keyboard.type("order email cancelled")
    await expect(page.locator("#found a").first).to_contain_text("order.cancelled")
    await shoot(page, site, "search")
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_have_text("order.cancelled")
    await expect(page.locator("main")).to_contain_text("Deprecated: use version 2")
    await expect(page.locator(".differences").first).to_contain_text("$.address: added")
    await expect(page.locator("main")).not_to_contain_text("ada@example.org")
    await expect(page.locator("main")).not_to_contain_text("Main Street")
    await expect(page.locator(".highlight").first).to_contain_text(SCRIPT)
    await expect(page.get_by_role("link", name="shop/events.py").first).to_have_attribute(
        "href", "https://git.example/company/blob/main/shop/events.py"
    )
    await assert_fits(page)
    await shoot(page, site, "event")

    await page.locator(".map a.topic").click()
    await expect(page.locator("h1")).to_have_text("orders")
    await assert_fits(page)
    await shoot(page, site, "topic")
    await page.locator(".map a.service").click()
    await expect(page.locator("h1")).to_have_text("order service")


async def test_the_map_shows_what_is_joined(site: Path, page: Page) -> None:
    await page.goto((site / "map.html").as_uri())
    await assert_fits(page)
    await shoot(page, site, "map")
    box = page.locator(".map a.topic").first
    await box.focus()
    await expect(page.locator(".map.pointed")).to_have_count(1)
    near = await page.locator(".map path.near").count()
    assert 0 < near < await page.locator(".map path").count() or site.name == "5"
    await shoot(page, site, "map-pointed")
    await box.press("Enter")
    await expect(page.locator(".path")).to_have_text("Topics")


@pytest.mark.parametrize("section", ["topics", "consumers", "services"])
async def test_the_other_sections_fit(site: Path, page: Page, section: str) -> None:
    await page.goto((site / f"{section}.html").as_uri())
    await expect(page.locator("nav a[aria-current]")).to_have_text(section.capitalize())
    await assert_fits(page)
    await shoot(page, site, section)


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in {"href", "src"}]


def test_each_link_leads_somewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > int(site.name)
    for file in pages:
        links = Links()
        links.feed(file.read_text())
        for each in set(links.found):
            if not each.startswith(("data:", "https://git.example/")):
                assert (file.parent / each).is_file(), f"{file}: {each}"
    index = (site / "search-index.js").read_text()
    for entry in json.loads(index.removeprefix("const INDEX = ").removesuffix(";\n")):
        assert (site / entry["link"]).is_file()


def test_the_site_is_the_same_each_time(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    write_site(company(5), one)
    write_site(company(5), other)

    files = {file.relative_to(one) for file in one.rglob("*") if file.is_file()}
    assert files
    assert [f for f in files if (one / f).read_bytes() != (other / f).read_bytes()] == []


def test_no_text_becomes_markup(site: Path) -> None:
    for file in site.rglob("*.html"):
        assert SCRIPT not in file.read_text()
    assert "</script" not in (site / "search-index.js").read_text()


def test_services_that_describe_an_event_otherwise_are_named(tmp_path: Path) -> None:
    one, other = company(5)[0], company(5)[0]
    other["service"]["name"] = "another"
    other["sends"] = {}
    other["events"]["order.placed"]["1"]["schema"]["properties"]["id"] = {"type": "integer"}
    for locks in ([one, other], [other, one]):
        write_site(locks, tmp_path)
        page = (tmp_path / "events" / "order.placed.html").read_text()
        assert "Not described alike by another and order service" in page
        assert "this is what order service says" in page
    assert "Not described alike" not in (tmp_path / "events" / "order.changed.html").read_text()


def test_the_command_takes_several_lock_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for index, lock in enumerate(company(10)):
        Path(f"{index}.lock.json").write_text(dumps(lock))

    assert main(["catalog", "0.lock.json", "1.lock.json", "-o", "site"]) == 0
    assert re.fullmatch(r"wrote \d+ pages, open site/index.html\n", capsys.readouterr().out)
    assert "payment service" in Path("site/services.html").read_text()
    with pytest.raises(SystemExit):
        main(["catalog", "gone.lock.json"])
    assert "gone.lock.json: the file does not exist" in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.startswith("events.contracts.catalog.site")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)

    with pytest.raises(ImportError, match=r"integration-events\[catalog\]"):
        importlib.import_module("events.contracts.catalog.site")


def test_the_map_has_each_box_once_and_none_on_another() -> None:
    columns = [
        {f"{kind}{index}": (kind, f"{kind} {index}", "", "x.html") for index in range(30)}
        for kind in ("service", "topic", "consumer")
    ]
    edges = [(f"service{i}", f"topic{29 - i}") for i in range(30)]
    edges += [(f"topic{29 - i}", f"consumer{i}") for i in range(30)]

    drawn = laid_out(columns, edges)

    assert len({(box.x, box.y) for box in drawn.boxes}) == 90
    places = {box.id: box.y for box in drawn.boxes}
    assert all(places[a] == places[b] for a, b in edges)  # no line crosses another
    assert laid_out([{}, {}, {}], []).lines == []


def test_templates_and_styles_lie_in_the_package() -> None:
    # A wheel takes what lies below the package; a file outside of it would be missed.
    folder = resources.files("events.contracts.catalog")
    assert {each.name for each in (folder / "static").iterdir()} == {"catalog.js", "style.css"}
    assert (folder / "templates" / "base.html").is_file()
