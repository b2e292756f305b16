"""The demo in a terminal: orders and, if the handler fails, dead letters and their redrive."""

from __future__ import annotations

import asyncio

from events._named import plain
from events.cli.demo import log_in_lines
from events.cli.demo.shop import Shop, opened
from events.operations import DeadLetters, Selection
from events.testing import eventually


def play(*, orders: int, broken: bool) -> None:
    """Place orders, with or without paper in the printer, and print what happens."""
    log_in_lines()
    asyncio.run(_play(orders, broken=broken))


async def _play(orders: int, *, broken: bool) -> None:
    async with opened(_say) as shop:
        shop.has_paper = not broken
        for _ in range(orders):
            await shop.place()
        await _settle(shop)
        if broken:
            await _repair(shop)
        placed, printed, dead = await shop.counts()
        _say(f"\n{placed} orders, {printed} receipts, {dead} dead letters.")
    if not broken:
        _say("Next, let the handler fail: events demo --scene --break")
        _say("Or see it in a browser: events demo --page")


async def _repair(shop: Shop) -> None:
    letters = DeadLetters(shop.bus, actor="the demo")
    _say("\nThe handler failed three times for each event. The dead letters, grouped by cause:")
    for group in await letters.groups():
        _say(f"  {group.count} of {group.type} at {group.consumer}: {group.error}")
    _say("\nThe printer has paper again. Redrive one event first, then the others.")
    shop.has_paper = True
    async for _ in letters.redrive(Selection(), consumer=shop.printer.name):
        pass
    await _settle(shop)


async def _settle(shop: Shop) -> None:
    await eventually(lambda: _settled(shop), timeout=60)


async def _settled(shop: Shop) -> bool:
    return (await shop.counts()).settled


def _say(text: str) -> None:
    print(plain(text, lines=True), flush=True)
