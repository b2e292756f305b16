"""Run tests several times, with busy processes beside them; a line for each round.

    python -m tests.soak [--rounds 5] [--burners 2] [memory] [rabbitmq] [redis] [nats] [all]

What is green once on an idle machine may still lean on luck. A round that fails prints what pytest
said; the exit code says whether one did.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUSES = {
    "memory": [
        "tests/contracts/test_memory_bus.py",
        "tests/unit/integration_events/test_memory_bus.py",
    ],
    "rabbitmq": ["tests/contracts/*rabbitmq*", "tests/brokers/test_rabbitmq*"],
    "redis": ["tests/contracts/test_redis*", "tests/brokers/test_redis*"],
    "nats": ["tests/contracts/test_nats*", "tests/brokers/test_nats*"],
}
# As long as its parent lives, however that ends.
BURN = "import os; parent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"


@contextmanager
def burning(count: int) -> Generator[None]:
    """Keep so many cores busy."""
    burners = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(count)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def run(bus: str, options: Sequence[str]) -> tuple[bool, str]:
    """Run the bus's tests, or all there are; return whether they passed, and pytest's output."""
    files = sorted(str(file) for pattern in BUSES.get(bus, ()) for file in ROOT.glob(pattern))
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider"]
    command += [*options, *files]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    return done.returncode == 0, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("buses", nargs="*", metavar="bus", help=f"{', '.join(BUSES)}, or all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--burners", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--pytest", type=shlex.split, default=[], help="options for pytest")
    options = parser.parse_args()
    if unknown := set(options.buses) - {*BUSES, "all"}:
        parser.error(f"no such bus: {', '.join(sorted(unknown))}; there are {', '.join(BUSES)}")
    failed = 0
    with burning(options.burners):
        for bus in options.buses or BUSES:
            for turn in range(1, options.rounds + 1):
                began = time.monotonic()
                passed, said = run(bus, options.pytest)
                took = time.monotonic() - began
                summary = said.strip().splitlines()[-1]
                print(f"{bus} {turn}/{options.rounds}: {summary} ({took:.0f} s)", flush=True)
                if not passed:
                    failed += 1
                    print(said, flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
