"""`make demo-dashboard`, as somebody on call meets it: a handler is broken, and is put right by the page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.acceptance.browser import browser, new_page
from tests.servers import end

ROOT = Path(__file__).parents[3]
TIMEOUT = 120_000  # milliseconds


@pytest.fixture
def url() -> Generator[str]:
    with subprocess.Popen(
        [sys.executable, "-m", "examples.user_registration.demo_dashboard", "--port", "0"],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline().decode()
            assert first.startswith("http://"), first
            yield first.split()[0]
        finally:
            end(process)


async def test_mails_that_did_not_go_out_are_found_and_sent(url: str) -> None:
    async with browser() as launched:
        page = await new_page(launched)
        await page.goto(url)
        await page.get_by_role("button", name="Break it").click()
        await expect(page.locator("body")).to_contain_text("is broken")
        await page.get_by_role("button", name="Register 50 users").click(timeout=TIMEOUT)
        await expect(page.locator("body")).to_contain_text("50 users have", timeout=TIMEOUT)
        await expect(page.locator("body")).to_contain_text("0 mails were accepted")

        # What is wrong is on the first page, and why on the second.
        await page.goto(f"{url}events/")
        dead = page.get_by_role("link", name="50 dead letters")
        await expect(dead).to_be_visible(timeout=TIMEOUT)
        await dead.click()
        await expect(page.locator("li.card h2")).to_have_text(
            "KeyError: \"no template 'welcome' for user #\""
        )
        await expect(page.locator("li.card strong")).to_have_text("50")

        # Too early: the canary dies, and the others are kept.
        await page.get_by_role("button", name="Redrive…").click()
        await page.get_by_role("button", name="Redrive 50 dead letters").click()
        await expect(page.locator("[data-job-state]")).to_have_text("failed", timeout=TIMEOUT)
        await expect(page.get_by_role("alert")).to_contain_text("The first one failed again")
        await page.get_by_role("link", name="Dead letters of").click()
        await expect(page.locator("li.card strong")).to_have_text("50")

        await page.goto(url)
        await page.get_by_role("button", name="Fix it").click()
        await page.goto(f"{url}events/dead")
        await page.get_by_role("button", name="Redrive…").click()
        await page.get_by_label("In batches of").fill("10")
        await page.get_by_label("At most so many a second").fill("20")
        await page.get_by_role("button", name="Redrive 50 dead letters").click()
        await expect(page.get_by_role("progressbar")).to_be_visible()
        await expect(page.locator("[data-job-state]")).to_have_text("finished", timeout=TIMEOUT)
        await expect(page.locator("main")).to_contain_text("50 of 50 sent back")
        await page.goto(url)
        for _ in range(60):  # the switch's page is no more than a page: it is loaded again
            if "50 mails were accepted" in await page.locator("body").inner_text():
                break
            await page.wait_for_timeout(500)
            await page.reload()
        await expect(page.locator("body")).to_contain_text(re.compile(r"\b50 mails were accepted"))
