"""`events dead`: the dead letters of a bus: found, grouped, sent back, discarded, exported."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec

from events._named import plain
from events.cli._app import add_app
from events.cli._exit import FAILED, OK, UsageError
from events.cli._operating import (
    add_all,
    add_conditions,
    chosen_of,
    dead_letters,
    moment,
    require_choice,
    up_to,
    whole,
)
from events.cli._output import add_json, first_line, note, print_json, print_table, when
from events.operations import DeadLetters, Progress, Selection, read_lines, to_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verbs and their arguments."""
    parser.epilog = (
        "First `groups` for the causes, then `show` for one of them. When the cause is fixed, "
        "`redrive --group ID` sends one back, waits for its outcome, and sends the others."
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    groups = verbs.add_parser("groups", help="count dead letters by consumer, type and error")
    listed = verbs.add_parser("list", help="list dead letters, oldest first")
    show = verbs.add_parser("show", help="show one dead letter with all its details")
    redrive = verbs.add_parser(
        "redrive",
        help="send dead letters back to their consumer",
        description="Send dead letters back to their consumer: one first, and the others after it "
        "was handled.",
    )
    discard = verbs.add_parser("discard", help="delete dead letters")
    export = verbs.add_parser("export", help="write dead letters as JSON lines")

    for verb in (groups, listed, show, redrive, discard, export):
        add_app(verb)
        verb.add_argument(
            "--consumer", metavar="NAME", help="only of this consumer (default: of all)"
        )
    show.add_argument("id", help="the id of a dead letter, as `events dead list` prints it")
    for verb in (groups, listed, redrive, discard, export):
        _add_selection(verb)
    add_json(groups, listed, show, redrive, discard)
    listed.add_argument("--limit", type=whole, default=100, help="default: %(default)s")
    export.add_argument(
        "--output", type=Path, metavar="FILE", help="a new file (default: standard output)"
    )
    for verb in (redrive, discard):
        verb.add_argument("--id", action="append", dest="ids", metavar="ID", help="repeatable")
        verb.add_argument(
            "--from",
            dest="source",
            type=Path,
            metavar="FILE",
            help="the dead letters in a file that `events dead export` wrote",
        )
        verb.add_argument(
            "--batch", type=whole, default=100, help="the size of a batch; default: %(default)s"
        )
        verb.add_argument("--rate", type=_amount, metavar="N", help="the maximum per second")
        add_all(verb)
    redrive.add_argument("--no-canary", action="store_true", help="do not redrive one first")
    redrive.add_argument(
        "--canary-wait",
        type=_amount,
        default=30.0,
        metavar="SECONDS",
        help="how long to wait for the outcome of the first one; default: %(default)g",
    )
    redrive.add_argument(
        "--trust-silence",
        action="store_true",
        help="continue if the first one has not failed again by then",
    )


def _add_selection(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--group", metavar="ID", help="of this group: see `events dead groups`")
    verb.add_argument("--since", type=moment, metavar="TIME", help="as --before")
    add_conditions(verb, text_in="the error or the body")


def _amount(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    verbs = {
        "groups": _groups,
        "list": _list,
        "show": _show,
        "redrive": _move,
        "discard": _move,
        "export": _export,
    }
    return asyncio.run(_run(verbs[arguments.verb], arguments))


async def _run(verb: Any, arguments: argparse.Namespace) -> int:
    async with dead_letters(arguments) as letters:
        status: int = await verb(letters, arguments)
        return status


def _selection(arguments: argparse.Namespace, **more: Any) -> Selection:
    given = chosen_of(arguments, "group", "type", "reason", "text", "since", "before")
    return Selection(**{**given, **more})


async def _groups(letters: DeadLetters, arguments: argparse.Namespace) -> int:
    groups = await letters.groups(_selection(arguments))
    if arguments.json:
        for group in groups:
            print_json(group)
        return OK
    if not groups:
        note("no dead letters")
        return OK
    print_table(
        ("group", "count", "consumer", "type", "reason", "first", "last", "place", "error"),
        (
            (
                g.id,
                g.count,
                g.consumer,
                g.type,
                g.reason,
                when(g.first),
                when(g.last),
                g.place or "-",
                g.error,
            )
            for g in groups
        ),
    )
    note("next: `events dead list --group ID`; after the repair `events dead redrive --group ID`")
    return OK


async def _list(letters: DeadLetters, arguments: argparse.Namespace) -> int:
    found = await up_to(arguments.limit, letters.search(_selection(arguments)))
    listed = found[: arguments.limit]
    if arguments.json:
        for letter in listed:
            sys.stdout.write(to_line(letter) + "\n")
    elif listed:
        print_table(
            ("id", "died at", "consumer", "type", "reason", "attempts", "error"),
            (
                (
                    each.id,
                    when(each.died_at),
                    each.consumer,
                    each.message.type,
                    each.reason,
                    each.attempts,
                    first_line(each.error),
                )
                for each in listed
            ),
        )
    else:
        note("no dead letters")
    if len(found) > arguments.limit:
        note(f"there are more than {arguments.limit}: see --limit, or `events dead groups`")
    return OK


async def _show(letters: DeadLetters, arguments: argparse.Namespace) -> int:
    letter = await letters.show(arguments.id)
    if arguments.json:
        sys.stdout.write(to_line(letter) + "\n")
        return OK
    message = letter.message
    for name, value in {
        "id": letter.id,
        "consumer": letter.consumer,
        "topic": message.topic,
        "type": message.type,
        "event id": message.id,
        "correlation id": message.correlation_id,
        "key": message.key or "-",
        "died at": when(letter.died_at),
        "reason": letter.reason,
        "attempts": letter.attempts,
    }.items():
        sys.stdout.write(f"{name + ':':<16}{plain(str(value))}\n")
    sys.stdout.write(f"\nerror:\n{_indented(letter.error)}\n\nheaders:\n")
    for name, value in sorted(message.headers.items()):
        sys.stdout.write(f"  {plain(name)}: {plain(value)}\n")
    sys.stdout.write(f"\nbody:\n{_indented(_pretty(message.body))}\n")
    return OK


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in plain(text, lines=True).split("\n"))


def _pretty(body: bytes) -> str:
    try:
        return msgspec.json.format(body, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body.decode("utf-8", "backslashreplace")


async def _export(letters: DeadLetters, arguments: argparse.Namespace) -> int:
    if arguments.output is None:
        await _write(letters, arguments, sys.stdout)
        return OK
    try:
        file = arguments.output.open("x", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--output {arguments.output}: {error.strerror}") from None
    with file:
        count = await _write(letters, arguments, file)
    note(f"wrote {count} dead letters to {arguments.output}; they remain dead letters")
    return OK


async def _write(letters: DeadLetters, arguments: argparse.Namespace, file: Any) -> int:
    count = 0
    async with aclosing(letters.search(_selection(arguments))) as found:
        async for letter in found:
            file.write(to_line(letter) + "\n")
            count += 1
    return count


# --- writing ----------------------------------------------------------------------------------


async def _move(letters: DeadLetters, arguments: argparse.Namespace) -> int:
    complete, any_chosen = True, False
    for consumer, selection in _targets(letters, arguments).items():
        if arguments.dry_run:
            groups = await letters.groups(selection, consumer=consumer)
            count = sum(group.count for group in groups)
            last = Progress(action=arguments.verb, consumer=consumer, total=count)
        else:
            last = await _moved(_begun(letters, selection, consumer, arguments))
            complete &= last.gone == 0
        any_chosen |= last.total > 0
        _report(last, arguments)
    if not any_chosen:
        note("no dead letters match: nothing to do")
    return OK if complete else FAILED


def _targets(letters: DeadLetters, arguments: argparse.Namespace) -> Mapping[str, Selection]:
    """Return the selection for each consumer, from the file or the options; raise without any."""
    selection = _selection(arguments)
    if arguments.source is None:
        options = "--id, --group, --type, --reason, --text, --since, --before, --from"
        require_choice(selection, arguments, options)
        return dict.fromkeys(letters.consumers, selection)
    if arguments.ids:
        raise UsageError("use --id or --from, not both")
    ids: dict[str, set[str]] = {}
    try:
        with arguments.source.open("rb") as file:
            for letter in read_lines(file):
                ids.setdefault(letter.consumer, set()).add(letter.id)
    except OSError as error:
        raise UsageError(f"--from {arguments.source}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"--from {arguments.source}: {error}") from None
    return {
        consumer: _selection(arguments, ids=frozenset(some))
        for consumer, some in ids.items()
        if arguments.consumer in {None, consumer}
    }


def _begun(
    letters: DeadLetters, selection: Selection, consumer: str, arguments: argparse.Namespace
) -> AsyncGenerator[Progress]:
    if arguments.verb == "discard":
        return letters.discard(
            selection, consumer=consumer, batch=arguments.batch, rate=arguments.rate
        )
    return letters.redrive(
        selection,
        consumer=consumer,
        canary=None if arguments.no_canary else arguments.canary_wait,
        trust_silence=arguments.trust_silence,
        batch=arguments.batch,
        rate=arguments.rate,
    )


async def _moved(begun: AsyncGenerator[Progress]) -> Progress:
    """Run it to its end; if it is interrupted, print how far it came and how to continue."""
    last: Progress | None = None
    try:
        async with aclosing(begun) as steps:
            async for last in steps:
                if not last.finished:
                    _say(last)
    except BaseException:
        if last is not None:
            note(
                f"{last.consumer}: stopped after {last.done} of {last.total}; the others remain "
                f"dead letters: run the same command again to continue"
            )
        raise
    assert last is not None  # noqa: S101 - the first step comes before any work
    return last


def _say(progress: Progress) -> None:
    if progress.canary == "waiting":
        note(f"{progress.consumer}: one was redriven, waiting for its outcome")
    elif progress.done:
        note(f"{progress.consumer}: {progress.done} of {progress.total}")


def _report(last: Progress, arguments: argparse.Namespace) -> None:
    if arguments.json:
        fields = msgspec.to_builtins(last)
        print_json({**fields, "dry_run": arguments.dry_run})
        return
    verb = {"redrive": "sent back", "discard": "discarded"}[last.action]
    if arguments.dry_run:
        sys.stdout.write(f"{plain(last.consumer)}: {last.total} would be {verb}\n")
    elif last.total:
        gone = f", {last.gone} no longer existed" if last.gone else ""
        sys.stdout.write(f"{plain(last.consumer)}: {last.done} of {last.total} {verb}{gone}\n")
