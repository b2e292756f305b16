"""Headless Chromium, and the chat's page in it as a person uses it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, Page, async_playwright, expect

expect.set_options(timeout=10_000)  # milliseconds; a machine may have more to do than this

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str:
    """Return the path of the system's Chromium; nothing is downloaded."""
    found = os.environ.get("EVENTS_TEST_CHROMIUM") or next(
        filter(None, map(shutil.which, NAMES)), ""
    )
    if not found:
        raise RuntimeError(
            "no Chromium: name one in EVENTS_TEST_CHROMIUM, or install one (Debian and Ubuntu: "
            "apt-get install chromium), so that `chromium` is on PATH"
        )
    return found


@asynccontextmanager
async def browser() -> AsyncGenerator[Browser]:
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(
            executable_path=chromium(), args=[*ARGUMENTS, *sandbox]
        )
        try:
            yield launched
        finally:
            await launched.close()


class Person:
    """Somebody at the chat's page, in a browser profile of their own."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._on_console)

    def _on_console(self, message: object) -> None:
        text = str(getattr(message, "text", ""))
        # That a server cannot be reached is what these tests are about; the page copes with it.
        expected = "WebSocket" in text or "net::ERR_CONNECTION" in text
        if getattr(message, "type", "") == "error" and not expected:
            self.complaints.append(text)

    async def shoot(self, path: Path) -> None:
        await self.page.screenshot(path=path, animations="disabled")

    async def open(self, url: str) -> None:
        await self.page.goto(url)
        await expect(self.page.get_by_label("Your name")).to_be_focused()

    async def join(self, room: str, name: str) -> None:
        await self.page.get_by_label("Room").fill(room)
        await self.page.get_by_label("Your name").fill(name)
        await self.page.keyboard.press("Enter")
        await expect(self.page.locator("#state")).to_have_text("online")

    async def say(self, text: str) -> None:
        await self.page.get_by_label("Message", exact=True).fill(text)
        await self.page.keyboard.press("Enter")

    async def sees_message(self, text: str, *, within: float = 10) -> None:
        await expect(self.page.locator(".text", has_text=text)).to_have_count(
            1, timeout=within * 1000
        )

    async def sees_members(self, *names: str, within: float = 10) -> None:
        await expect(self.page.locator("#members .name")).to_have_text(
            sorted(names), timeout=within * 1000
        )

    async def sees_line(self, text: str, *, within: float = 10) -> None:
        await expect(self.page.locator(".line", has_text=text).last).to_be_visible(
            timeout=within * 1000
        )

    async def scrolls_sideways(self) -> bool:
        wide: bool = await self.page.evaluate(
            "document.documentElement.scrollWidth > document.documentElement.clientWidth"
            " || document.querySelector('#scroll').scrollWidth >"
            " document.querySelector('#scroll').clientWidth"
        )
        return wide
