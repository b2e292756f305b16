"""The chat's page in headless Chromium, as a person uses it."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import Page, expect


class Person:
    """A user of the chat's page, in a browser profile of their own."""

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

    async def sees_message(self, text: str) -> None:
        await expect(self.page.locator(".text", has_text=text)).to_have_count(1)

    async def sees_members(self, *names: str) -> None:
        await expect(self.page.locator("#members .name")).to_have_text(sorted(names))

    async def sees_line(self, text: str) -> None:
        await expect(self.page.locator(".line", has_text=text).last).to_be_visible()

    async def scrolls_sideways(self) -> bool:
        wide: bool = await self.page.evaluate(
            "document.documentElement.scrollWidth > document.documentElement.clientWidth"
            " || document.querySelector('#scroll').scrollWidth >"
            " document.querySelector('#scroll').clientWidth"
        )
        return wide
