"""Guard dispatch and serialization against getting slower, by counting instructions.

    python -m benchmarks.guard [--update]

Time on a shared machine is noise; instructions are not. Each piece of work runs under callgrind,
beside a floor that does the same without us, and what is compared with the committed figure is how
many times the floor's instructions ours takes: that depends little on the compiler and the machine,
but on the Python, so each has its own figures. It exits with 1 if that grew by more than TOLERANCE.
What reads the clock and draws random bytes, as making a message does, differs by 6 % from run to
run and is left out.

It is counted in LAYOUTS processes, each with its objects elsewhere in memory, and the least counts.
CPython keeps the attributes it has looked up in a table of 4,096 places, chosen by the address of
the name and a number of the class (`Objects/typeobject.c`, method cache). Now and then two of the
names that one decoding asks for share a place and drive each other out, which costs 6 %: seen once
in 300 layouts, and it says nothing of our code.

All runs in one process, as starting it is what takes long under callgrind. Between two pieces of
work it calls getppid, at which callgrind writes down what it has counted since the last time.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contestants import domain
from benchmarks.guarded import SERIALIZATION

COMMITTED = Path(__file__).parent / "guard.json"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
TOLERANCE = 0.05  # ten runs on a busy machine differ by less than 0.1 %
LAYOUTS = 3
# Takes numbers of classes and memory before anything of ours does, so that ours get others.
START = (
    "for _ in range({}): type('Shift', (), dict(x=0)).x\nfrom benchmarks.guard import work; work()"
)
TIMES = 2_000
WARMUP = 200
PAIRS = {
    "dispatch, 1 handler": ("dispatch-1", "dispatch-1-floor"),
    "dispatch, 3 handlers": ("dispatch-3", "dispatch-3-floor"),
    "encode": ("encode", "encode-floor"),
    "decode": ("decode", "decode-floor"),
    "delivery to event": ("delivery", "decode-floor"),
}

_total = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE).search


# --- under callgrind --------------------------------------------------------------------------


def _works() -> dict[str, Callable[[int], object]]:
    def dispatch(contestant: domain.Contestant, handlers: int) -> Callable[[int], object]:
        session = domain.Session()
        opened = contestant(handlers, session).__aenter__()
        publish = _finish(opened)
        return lambda times: _finish(publish(times))

    works: dict[str, Callable[[int], object]] = {"nothing": lambda _: None}
    for handlers in (1, 3):
        works[f"dispatch-{handlers}"] = dispatch(domain.ours, handlers)
        works[f"dispatch-{handlers}-floor"] = dispatch(domain.floor, handlers)
    for name, once in SERIALIZATION.items():
        works[name] = partial(_repeat, once)
    return works


def _finish(coroutine: Any) -> Any:
    """Run what never waits, without an event loop and its noise."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


def _repeat(once: Callable[[], object], times: int) -> None:
    for _ in range(times):
        once()


def work() -> None:
    """Do it all, one after another, with a mark between two of them."""
    works = _works()
    for each in works.values():
        each(WARMUP)
    gc.collect()
    gc.disable()
    os.getppid()
    for each in works.values():
        each(TIMES)
        os.getppid()
    print(json.dumps(list(works)))


# --- around it --------------------------------------------------------------------------------


def measure(valgrind: str) -> dict[str, float]:
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        layouts = list(threads.map(partial(_count, valgrind), range(LAYOUTS)))
    each = {name: min(counts[name] for counts in layouts) for name in layouts[0]}
    print("instructions:", ", ".join(f"{n} {v:,.0f}" for n, v in each.items() if v))
    return {group: each[ours] / each[floor] for group, (ours, floor) in PAIRS.items()}


def _count(valgrind: str, layout: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        process = subprocess.run(  # noqa: S603 - our own command
            [
                valgrind, "--tool=callgrind", "--dump-before=getppid",
                f"--callgrind-out-file={out}",
                sys.executable, "-B", "-c", START.format(layout * 100),
            ],
            capture_output=True,
            check=False,
            env={**os.environ, "PYTHONHASHSEED": str(layout), "PYTHONMALLOC": "pymalloc"},
        )  # fmt: skip
        if process.returncode != 0:
            sys.exit(
                f"callgrind ended with {process.returncode}: {process.stderr.decode()[-2_000:]}"
            )
        names: list[str] = json.loads(process.stdout)
        # The first part is the start of Python, the last one its end.
        parts = [int(found[1]) for found in map(_total, _parts(out)) if found][1 : len(names) + 1]
    counts = dict(zip(names, parts, strict=True))
    return {name: (counts[name] - counts["nothing"]) / TIMES for name in names}


def _parts(out: Path) -> list[str]:
    files = sorted(out.parent.glob("out.*"), key=lambda file: int(file.suffix[1:]))
    return [file.read_text(encoding="utf-8", errors="replace") for file in files]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard")
    parser.add_argument("--update", action="store_true", help="commit to what is measured now")
    options = parser.parse_args()
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        sys.exit("no valgrind: install it (Debian and Ubuntu: apt-get install valgrind)")
    measured = measure(valgrind)
    figures: dict[str, dict[str, float]] = json.loads(COMMITTED.read_text(encoding="utf-8"))
    if options.update:
        figures[PYTHON] = {group: round(value, 3) for group, value in measured.items()}
        COMMITTED.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if PYTHON not in figures:
        sys.exit(f"no figures are committed for Python {PYTHON}: --update writes them")
    committed = figures[PYTHON]
    slower = False
    for group, value in measured.items():
        change = value / committed[group] - 1
        worse = change > TOLERANCE
        slower = slower or worse
        verdict = "SLOWER" if worse else "faster: commit --update" if change < -TOLERANCE else "ok"
        print(
            f"{group:<24}{value:>8.3f} x floor, committed {committed[group]:.3f}, "
            f"{change:+.2%}  {verdict}"
        )
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    main()
