"""Peak memory of a process that sends and handles events: after a tenth of them, and at the end.

    python -m benchmarks.memory BROKER EVENTS     one bus, in this process; prints JSON

A million events with `--long`, a tenth of that otherwise.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from functools import partial

from benchmarks.brokers import BROKERS
from benchmarks.measuring import Case, Measured, own_name
from benchmarks.workload import Counter, make

EVENTS = 100_000
IN_FLIGHT = 100
_UNIT = 1024 if sys.platform == "darwin" else 1  # bytes there, KiB elsewhere


def peak() -> float:
    """Return this process's peak resident memory in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _UNIT / 1024


async def send_and_handle(broker: str, events: int) -> Measured:
    """Send with so many in flight at most, handled as well, so that no backlog is measured."""
    contestant = BROKERS[broker][0]
    peaks: list[float] = []
    counter = Counter(0)
    async with (
        contestant.at(own_name()) as place,
        contestant.consuming(place, counter),
        contestant.publishing(place) as send,
    ):
        for part in range(10):
            counter.count = (part + 1) * (events // 10)
            counter.done.clear()
            for _ in range(events // 10 // 1_000 or 1):
                chunk = min(1_000, events // 10)
                await send(make(chunk, contestant.event), IN_FLIGHT)
                while counter.handled + 10 * IN_FLIGHT < counter.count - events // 10:
                    await asyncio.sleep(0.01)
            await counter.done.wait()
            gc.collect()
            peaks.append(peak())
    return {
        "MiB after a tenth": peaks[0],
        "MiB at the end": peaks[-1],
        "end / tenth": peaks[-1] / peaks[0],
    }


async def in_a_process(broker: str, events: int) -> Measured:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.memory", broker, str(events), stdout=PIPE
    )
    output, _ = await child.communicate()
    assert child.returncode == 0
    measured: Measured = json.loads(output)
    return measured


def cases() -> Iterator[Case]:
    for broker in BROKERS:
        yield Case(broker, "ours", partial(in_a_process, broker), EVENTS, 1)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(send_and_handle(sys.argv[1], int(sys.argv[2])))))
