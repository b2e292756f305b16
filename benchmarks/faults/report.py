"""The results, as JSON for programs and as a page of the documentation for people."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from benchmarks.faults.stage import ROOT, Outcome

JSON = ROOT / "benchmarks" / "results" / "faults.json"
PAGE = ROOT / "docs" / "reference" / "buses" / "faults.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
BUSES = {"rabbitmq": "RabbitMQ", "redis": "Redis Streams", "nats": "NATS JetStream"}
TITLES = {
    "11": "The handler of one event of 20 always raises",
    "22": "The consumer is killed (SIGKILL) with a backlog, and started again",
    "23": "The broker is killed and restarted in mid-stream of 10,000",
    "23b": "The broker is killed and restarted with a backlog of 1,000 and no consumer",
    "24": "The broker is frozen for 8 s, each send has 2 s",
    "25": "The broker is down when the consumer starts",
    "26": "The consumer is stopped (SIGTERM) with a backlog and slow handlers, and started again",
    "27": "One event of 20 kills its process, which is started again each time",
    "28": "The connection is cut while a handler runs",
}


@dataclass(frozen=True)
class Result:
    bus: str
    property: str
    library: str
    outcome: Outcome


Results: TypeAlias = dict[tuple[str, str, str], Result]


def load() -> Results:
    """Return the results of earlier runs, so that a part can be run again."""
    if not JSON.exists():
        return {}
    return {
        (row["bus"], row["property"], row["library"]): Result(
            row["bus"], row["property"], row["library"], Outcome(**row["outcome"])
        )
        for row in json.loads(JSON.read_text())["results"]
    }


def save(results: Results, versions: dict[str, str]) -> None:
    """Write both."""
    JSON.parent.mkdir(exist_ok=True)
    rows = [asdict(result) for result in results.values()]
    date = datetime.now(UTC).date().isoformat()
    text = {"benchmark": "faults", "date": date, "versions": versions, "results": rows}
    JSON.write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    said = f"{date}: {', '.join(f'{name} {version}' for name, version in versions.items())}."
    tables = "\n".join(_tables(results))
    PAGE.write_text(f"{before}{BEGIN}\n{said}\n{tables}{END}{after}", encoding="utf-8")


def _tables(results: Results) -> list[str]:
    lines: list[str] = []
    for number, title in TITLES.items():
        rows = [result for result in results.values() if result.property == number]
        if not rows:
            continue
        lines += ["", f"### {number}. {title}", ""]
        lines += ["| bus | library | sent | accepted | handled | duplicates | lost | resumed | |"]
        lines += ["|---|---|--:|--:|--:|--:|--:|--:|---|"]
        for bus, shown in BUSES.items():
            lines += [_row(shown, result) for result in rows if result.bus == bus]
    return [*lines, ""]


def _row(bus: str, result: Result) -> str:
    found = result.outcome
    resumed = "" if found.resumed is None else f"{found.resumed:.1f} s"
    lost = f"**{found.lost}**" if found.lost else "0"
    notes = "; ".join(found.notes).replace("|", "\\|")
    counts = (found.sent, found.accepted, found.handled, found.duplicates, lost, resumed)
    return f"| {bus} | {result.library} | {' | '.join(map(str, counts))} | {notes} |"


def versions(python: Path) -> dict[str, str]:
    """Return the versions of what was compared, and of what it ran on."""
    names = ["integration-events", "faststream", "pika", "aio-pika", "redis", "nats-py"]
    code = f"from importlib.metadata import version; print(*map(version, {names!r}))"
    found = _output([str(python), "-c", code])
    servers = {
        "RabbitMQ": ["dpkg-query", "-W", "-f", "${Version}", "rabbitmq-server"],
        "redis-server": ["dpkg-query", "-W", "-f", "${Version}", "redis-server"],
        "nats-server": ["nats-server", "--version"],
    }
    return {
        **dict(zip(names, found.split(), strict=True)),
        **{name: _output(command).split()[-1].lstrip("v") for name, command in servers.items()},
        "Python": platform.python_version(),
        "cores": str(os.cpu_count()),
    }


def _output(command: list[str]) -> str:
    try:
        found = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - ours
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout
