"""The page in headless Chromium, as somebody on call uses it."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page

from tests.acceptance.browser import new_page
from tests.acceptance.node import node_with

ROOT = Path(__file__).parents[3]
AXE = ROOT / "build" / "axe"
DESK = {"width": 1366, "height": 800}
PHONE = {"width": 390, "height": 800}


def axe() -> str:
    """Return the script that checks the accessibility of a page."""
    node_with(Path(__file__).parents[1] / "axe", AXE, "nobody judges the page's accessibility")
    return (AXE / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")


class Visitor:
    """A user of the page, in a browser profile of their own. No script may fail or be blocked."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console",
            lambda said: self.complaints.append(said.text) if said.type == "error" else None,
        )

    async def open(self, path: str) -> None:
        response = await self.page.goto(self.url + path)
        assert response is not None
        assert response.status == 200, f"{path}: {response.status}"

    async def shoot(self, name: str) -> None:
        folder = os.environ.get("EVENTS_TEST_SCREENSHOTS")
        if folder:
            await self.page.screenshot(
                path=Path(folder) / f"{name}.png", full_page=True, animations="disabled"
            )

    async def is_sound(self, axe: str) -> None:
        """Fail if axe finds a problem, an element is too wide, or a foreign script was executed."""
        await self.page.evaluate(axe)  # not by a tag, which the page's policy forbids
        found: dict[str, Any] = await self.page.evaluate("axe.run()")
        broken = [
            (each["id"], each["help"], [node["html"] for node in each["nodes"]][:3])
            for each in found["violations"]
        ]
        assert broken == [], json.dumps(broken, indent=2)
        assert found["passes"]
        wide = await self.page.evaluate(
            "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )
        assert not wide, f"{self.page.url} scrolls sideways"
        assert await self.page.evaluate("window.hacked === undefined")
        assert self.complaints == []


@asynccontextmanager
async def visitor(
    browser: Browser,
    url: str,
    who: str = "anna",
    *,
    size: dict[str, int] = DESK,
    scheme: str = "light",
    javascript: bool = True,
) -> AsyncGenerator[Visitor]:
    page = await new_page(browser, size, scheme=scheme, javascript=javascript)
    await page.context.add_cookies([{"name": "who", "value": who, "url": url}])
    try:
        yield Visitor(page, url)
    finally:
        await page.context.close()
