"""Ours on uvloop, beside ours on asyncio's own event loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks import both, consume, latency, publish
from benchmarks.measuring import Case


def cases() -> Iterator[Case]:
    for subject in (publish, consume, both, latency):
        name = subject.__name__.rpartition(".")[2]
        for case in subject.cases():
            if case.contestant == "ours" and "100 in flight" not in case.group:
                asked = replace(case, group=f"{name}, {case.group}")
                yield replace(asked, contestant="ours, uvloop", uvloop=True)
                yield replace(asked, contestant="asyncio")
