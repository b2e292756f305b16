"""Headless Chromium: the system's own, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright, expect

expect.set_options(timeout=90_000)  # milliseconds; a machine may have more to do than this

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
