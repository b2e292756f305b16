"""What a million scheduled rows cost the others: plans and times, with none and with many.

    python -m benchmarks.plans [--rows 1000000] [--only SQLite]

It writes `results/plans.md`.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator
from itertools import groupby

from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.databases import KINDS, database_url
from benchmarks.results import FOLDER
from events.integration.implementation.sqlalchemy import enable_wal
from tests.databases.plans import Plan, analyze, fill, plans

TIMES = 200


async def measured(kind: str, rows: int) -> list[Plan]:
    with database_url(kind) as url:
        engine = create_async_engine(url)
        if kind == "SQLite":
            await enable_wal(engine)
        await fill(engine, rows)
        await analyze(engine)
        found = await plans(engine, times=TIMES)
        await engine.dispose()
    return found


def page(kind: str, none: list[Plan], many: list[Plan], rows: int) -> Iterator[str]:
    yield f"## {kind}\n"
    yield f"| question | ms with none | ms with {rows:,} of each kind |"
    yield "|---|--:|--:|"
    before = {each.question: each.milliseconds for each in none}
    for question, asked in groupby(many, key=lambda each: each.question):
        took = next(asked).milliseconds
        yield f"| {question} | {before[question]:.2f} | {took:.2f} |"
    for each in many:
        yield f"\n{each.question}:\n"
        yield "```text"
        yield from each.lines
        yield "```"
    yield ""


async def main(rows: int, kinds: list[str]) -> None:
    about = (
        f"Made by `python -m benchmarks.plans --rows {rows}`: {rows:,} rows under a schedule id, "
        "and as many with `available_at` alone beside those that are due, in the outbox and in "
        f"the bus. The time of a question is the least of {TIMES}.\n"
    )
    lines = ["# Plans with rows that wait for their time\n", about]
    for kind in kinds:
        lines += page(kind, await measured(kind, 0), await measured(kind, rows), rows)
        print("\n".join(lines[-40:]))
    (FOLDER / "plans.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", choices=KINDS, action="append")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.rows, arguments.only or list(KINDS)))
