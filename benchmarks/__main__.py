"""Run subjects, all of them or some.

    python -m benchmarks [SUBJECT ...] [--short | --long] [--rounds N] [--show]

Each subject writes its results when it is done: after an interruption, ask for the rest alone.
See benchmarks/README.md for how to read what it prints.
"""

from __future__ import annotations

import argparse
import logging
from importlib import import_module

from benchmarks import results, targets
from benchmarks.measuring import run

SUBJECTS = (
    "dispatch",
    "serialization",
    "publish",
    "consume",
    "both",
    "latency",
    "loops",
    "relay",
    "inbox",
    "database",
    "memory",
    "idle",
    "scaling",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=", ".join(SUBJECTS))
    parser.add_argument("--rounds", type=int, help="5, or 2 with --short")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--short", action="store_true", help="a tenth of the work, to try it out")
    size.add_argument("--long", action="store_true", help="ten times the work")
    parser.add_argument("--case", default="", help="only cases whose name has this in it")
    parser.add_argument("--show", action="store_true", help="show what was measured last")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    chosen = [each for names in options.subjects for each in names.split(",")] or list(SUBJECTS)
    if unknown := set(chosen).difference(SUBJECTS):
        parser.error(f"no subject {', '.join(sorted(unknown))}: there are {', '.join(SUBJECTS)}")
    scale = 0.1 if options.short else 10.0 if options.long else 1.0
    for subject in chosen:
        if options.show:
            figures = results.load(subject)
        else:
            cases = [
                case
                for case in import_module(f"benchmarks.{subject}").cases()
                if options.case in f"{case.group}: {case.contestant}"
            ]
            print(f"{subject}: {len(cases)} cases", flush=True)
            rounds = options.rounds or (2 if options.short else 5)
            figures = run(cases, rounds, scale)
            if not (options.short or options.case):
                results.save(subject, figures, rounds=rounds, scale=scale)
                if subject == "scaling":
                    import_module("benchmarks.plots").draw(figures)
        results.show(subject, figures)
        targets.show(subject, figures)


if __name__ == "__main__":
    main()
