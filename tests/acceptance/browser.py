"""Headless Chromium: the system's own, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, Page, async_playwright, expect

LONGEST = 90_000  # milliseconds; a machine may have more to do than this
expect.set_options(timeout=LONGEST)

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


async def new_page(
    browser: Browser,
    size: dict[str, int] | None = None,
    *,
    scheme: str = "light",
    javascript: bool = True,
) -> Page:
    """Open an empty page in a profile of its own, which you close as `page.context`."""
    context = await browser.new_context(
        viewport=size,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        color_scheme=scheme,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        java_script_enabled=javascript,
        locale="en-GB",
    )
    context.set_default_timeout(LONGEST)
    return await context.new_page()
