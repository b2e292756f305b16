"""Put ours and FastStream to the same faults, on servers that are started and killed for it.

    python -m benchmarks.faults [--bus redis] [--property 23] [--library ours] [--python ...]

The whole takes about half an hour. A part of it changes that part of the results alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.faults.report import Result, load, save, versions
from benchmarks.faults.scenarios import SCENARIOS
from benchmarks.faults.stage import ROOT, SERVERS, Library, Outcome, Stage

CONTESTANTS = "benchmarks.faults.contestants"
LIBRARIES = (
    Library("ours", f"{CONTESTANTS}.ours"),
    Library("FastStream", f"{CONTESTANTS}.with_faststream"),
    Library("FastStream, durable settings", f"{CONTESTANTS}.with_faststream", "durable"),
)
PYTHON = ROOT / ".venv-bench" / "bin" / "python"


def play(bus: str, number: str, library: Library, python: Path) -> Outcome:
    with (
        tempfile.TemporaryDirectory(prefix="events-faults-") as folder,
        Stage(bus, library, python, Path(folder)) as stage,
    ):
        try:
            return SCENARIOS[number](stage)
        except RuntimeError as error:
            # A program that cannot start or send is a result, too, not the end of the run.
            outcome = stage.outcome(None, f"broke off: {str(error).splitlines()[0]}")
            print(error, file=sys.stderr)
            return outcome


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults")
    parser.add_argument("--bus", action="append", choices=list(SERVERS))
    parser.add_argument("--property", action="append", choices=list(SCENARIOS))
    parser.add_argument("--library", action="append", choices=[each.name for each in LIBRARIES])
    parser.add_argument("--python", type=Path, default=PYTHON, help="that has the libraries")
    options = parser.parse_args()
    if not options.python.exists():
        parser.error(f"{options.python} is not there: run this by `make bench-faults`")

    results = load()
    for bus in options.bus or SERVERS:
        for number in options.property or SCENARIOS:
            for library in LIBRARIES:
                if options.library and library.name not in options.library:
                    continue
                began = time.monotonic()
                outcome = play(bus, number, library, options.python)
                results[bus, number, library.name] = Result(bus, number, library.name, outcome)
                took = time.monotonic() - began
                print(f"{bus} {number} {library.name} ({took:.0f} s): {json.dumps(vars(outcome))}")
                save(results, versions(options.python))


if __name__ == "__main__":
    main()
