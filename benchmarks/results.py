"""Figures as tables for people and as JSON for later."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.measuring import Figure, ratio

FOLDER = Path(__file__).parent / "results"
OURS = "ours"
PACKAGES = (
    "integration-events", "msgspec", "pika", "aio-pika", "nats-py", "redis", "hiredis",
    "faststream", "sqlalchemy", "asyncpg", "asyncmy", "aiosqlite", "dishka", "python-cqrs",
    "bazario", "blinker", "diator", "pyventus", "lato", "bubus", "orjson", "pydantic", "uvloop",
    "pgqueuer", "procrastinate", "faststream-outbox",
)  # fmt: skip


def show(title: str, figures: Iterable[Figure]) -> None:
    """Print a table for each group: medians, their spread, and ours by each."""
    print(f"\n## {title}")
    for group, members in groupby(figures, key=lambda figure: figure.group):
        rows = list(members)
        ours = next((row for row in rows if row.contestant.startswith(OURS)), rows[0])
        print(f"\n{group} ({rows[0].events:,} events a round)")
        metrics = list(rows[0].rounds)
        print(f"  {'':<44}" + "".join(f"{each:>14}{'spread':>8}{'ours/it':>9}" for each in metrics))
        for row in rows:
            cells = [
                f"{row.median(each):>14,.{_digits(row.median(each))}f}"
                f"{row.spread(each):>8.0%}{ratio(ours, row, each):>9.2f}"
                if each in row.rounds
                else " " * 31
                for each in metrics
            ]
            print(f"  {row.contestant:<44}" + "".join(cells))


def _digits(value: float) -> int:
    return 0 if value >= 1_000 else 1 if value >= 100 else 2


def save(subject: str, figures: list[Figure], **conditions: Any) -> Path:
    """Write a subject's result over the last one."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{subject}.json"
    result = {
        "subject": subject,
        "date": datetime.now(UTC).date().isoformat(),
        "conditions": conditions,
        "machine": machine(),
        "versions": versions(),
        "figures": [_as_json(figure) for figure in figures],
    }
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def load(subject: str) -> list[Figure]:
    """Read a subject's result; empty if there is none."""
    path = FOLDER / f"{subject}.json"
    if not path.exists():
        return []
    figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
    names = ("group", "contestant", "events", "rounds")
    return [Figure(**{name: figure[name] for name in names}) for figure in figures]


def machine() -> dict[str, object]:
    """Name the kind of machine, not the machine."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _as_json(figure: Figure) -> dict[str, Any]:
    rounded = {
        metric: [float(f"{value:.4g}") for value in values]
        for metric, values in figure.rounds.items()
    }
    medians = {metric: float(f"{figure.median(metric):.4g}") for metric in figure.rounds}
    return asdict(figure) | {"rounds": rounded, "medians": medians}
