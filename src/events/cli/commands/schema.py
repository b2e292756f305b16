"""`events schema lock | check | diff`: the contracts of the code, and those of the lock file."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

from events.cli._app import add_app, find, load, opened
from events.cli._exit import FAILED, OK, UsageError
from events.cli._output import add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verbs and their arguments."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    lock = verbs.add_parser("lock", help="write the lock file")
    check = verbs.add_parser("check", help="compare the code with the lock file, for each consumer")
    diff = verbs.add_parser("diff", help="show the differences between the lock file and the code")
    for verb in (lock, check, diff):
        add_app(verb)
        verb.add_argument(
            "--lock",
            type=Path,
            default=Path("events.lock.json"),
            metavar="FILE",
            help="default: %(default)s",
        )
    lock.add_argument(
        "--accept-breaking",
        action="store_true",
        help="write the lock file although consumers break",
    )
    for verb in (check, diff):
        verb.add_argument(
            "--base", metavar="REVISION", help="compare with the lock file of this git revision"
        )
    check.add_argument(
        "--against",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="another team's lock file or AsyncAPI document; may be repeated",
    )
    check.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="TYPE.vN",
        help="report the errors of this event only as warnings",
    )
    check.add_argument("--format", choices=["text", "json", "github", "sarif"], default="text")
    check.add_argument(
        "--json", action="store_const", const="json", dest="format", help="short for --format json"
    )
    add_json(diff)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    service = asyncio.run(service_of(arguments.app))
    verbs = {"lock": _lock, "check": _check, "diff": _diff}
    return verbs[arguments.verb](service, arguments)


async def service_of(path: str | None) -> Any:
    """Return the application's `Service`."""
    from events.contracts import Service  # noqa: PLC0415 - not for --help

    async with opened(load(path)) as parts:
        return find(parts, Service, "events.contracts.Service")


def _lock(service: Any, arguments: argparse.Namespace) -> int:
    from events.contracts.check import check  # noqa: PLC0415
    from events.contracts.lock import dumps, loads, lock_of  # noqa: PLC0415
    from events.contracts.reports import FORMATS  # noqa: PLC0415

    path: Path = arguments.lock
    text = dumps(lock_of(service))
    if path.exists() and not arguments.accept_breaking:
        verdicts = check(service, loads(path.read_text(encoding="utf-8"), path))
        found = [each for of in verdicts for each in of.findings if each.level == "error"]
        if found:
            broken = [each for each in verdicts if any(f in found for f in each.findings)]
            print(FORMATS["text"](broken, found))
            print(f"{path} was not changed; use --accept-breaking to write it nevertheless")
            return FAILED
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}")
    return OK


def _check(service: Any, arguments: argparse.Namespace) -> int:
    from events.contracts.against import check_against  # noqa: PLC0415
    from events.contracts.check import check  # noqa: PLC0415
    from events.contracts.findings import Finding  # noqa: PLC0415
    from events.contracts.lock import dumps, loads, lock_of  # noqa: PLC0415
    from events.contracts.reports import FORMATS  # noqa: PLC0415

    committed = _read(arguments.lock)
    bases = [(committed, str(arguments.lock))]
    if arguments.base:
        bases.append((_at_revision(arguments.lock, arguments.base), arguments.base))
    verdicts: list[Any] = []
    for text, name in bases:
        if text is not None:
            verdicts += [
                each
                for each in check(service, loads(text, name), accept=arguments.accept)
                if each not in verdicts
            ]
    for path in arguments.against:
        verdicts += check_against(service, _theirs(path))
    findings = [each for verdict in verdicts for each in verdict.findings]
    now = dumps(lock_of(service))
    if committed != now:
        findings.append(
            Finding(
                "error",
                "lock-out-of-date",
                f"{arguments.lock} does not describe the code",
                cure="run `events schema lock`, and commit the file",
                file=str(arguments.lock),
                line=1,
            )
        )
    report = FORMATS[arguments.format](verdicts, findings)
    if report:
        print(report)
    return FAILED if any(each.level == "error" for each in findings) else OK


def _diff(service: Any, arguments: argparse.Namespace) -> int:
    from events.contracts.diff import differences  # noqa: PLC0415
    from events.contracts.lock import loads, lock_of  # noqa: PLC0415

    text = _at_revision(arguments.lock, arguments.base) if arguments.base else _read(arguments.lock)
    empty: dict[str, Any] = {"events": {}, "sends": {}, "consumers": {}}
    old = loads(text, arguments.base or arguments.lock) if text is not None else empty
    found = differences(old, lock_of(service))
    for each in found:
        if arguments.json:
            print_json({"difference": each})
        else:
            print(each)
    return FAILED if found else OK


def _theirs(path: Path) -> Any:
    from events.contracts.foreign import read_contracts  # noqa: PLC0415

    if not path.exists():
        raise UsageError(f"--against {path}: the file does not exist")
    return read_contracts(path)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _at_revision(path: Path, revision: str) -> str | None:
    """Return the file at a revision, or None if it does not exist there.

    Raises:
        UsageError: the revision or the repository does not exist.
    """
    known = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if known.returncode:
        why = known.stderr.strip() or "the revision does not exist here; fetch it first"
        raise UsageError(f"--base {revision}: {why}")
    shown = _git("show", f"{known.stdout.strip()}:./{path.as_posix()}")
    if shown.returncode:
        print(f"events: {revision} has no {path}: nothing to compare with", file=sys.stderr)
        return None
    return shown.stdout


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - no shell
            ["git", *arguments],  # noqa: S607 - as the user has it on the path
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
    except FileNotFoundError:
        raise UsageError("--base needs git, which is not on the path") from None
