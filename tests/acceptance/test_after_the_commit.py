"""The example prints what its page shows, and keeps its promises on a server too."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from events.testing import eventually
from examples.after_the_commit.shop import MAILER, Order, ReceiptDueV1, opened
from tests.databases.database import new_database

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "examples" / "after_the_commit" / "README.md"
DIES = """
import asyncio, os, signal, sys
from examples.after_the_commit.shop import Order, opened

async def die(event):
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with opened(sys.argv[1], die) as shop:
        await shop.pay(Order(email="ada@example.com"), cents=700)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def run(*arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode, out.decode()


@pytest.mark.parametrize("database", ["a file", "PostgreSQL"])
async def test_it_prints_what_its_page_shows(database: str) -> None:
    shown = [line[4:] for line in PAGE.read_text().splitlines() if line.startswith("    ")][1:]
    with new_database("postgresql") as made:
        url = made.url("postgresql+asyncpg").render_as_string(hide_password=False)
        given = [url] if database == "PostgreSQL" else []
        status, out = await run("-m", "examples.after_the_commit", *given)
    # On a server the number that the rolled back order had is not given again.
    printed = out.replace("order 2", "order 1").splitlines()
    # The bus has its first attempt after the commit, be it before this is printed or after it.
    if printed[1:3] == [shown[2], shown[1]]:
        printed[1:3] = shown[1:3]
    assert (status, printed) == (0, shown)


async def test_a_process_killed_after_the_commit_loses_no_receipt(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/shop.db"
    assert (await run("-c", DIES, url))[0] == -signal.SIGKILL
    mailed: list[ReceiptDueV1] = []

    async def mail(event: ReceiptDueV1) -> None:
        mailed.append(event)

    async with opened(url, mail) as shop:
        await eventually(lambda: mailed == [ReceiptDueV1(1, "ada@example.com")])
        assert await shop.bus.dead_letters(MAILER) == []
        assert await shop.pay(Order(email="bob@example.com"), cents=1) == 2
        await eventually(lambda: len(mailed) == 2)
