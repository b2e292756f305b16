"""What every command has in common, looked up in the parsers themselves."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from events.cli import COMMANDS, FAILED, OK, UNAVAILABLE, USAGE, main

WRITES = {
    *("dead redrive", "dead discard"),
    *("outbox redrive", "outbox discard", "outbox cancel", "outbox reschedule"),
    *("pause", "resume", "send"),
}
READS = {
    *("backlog", "check", "describe", "story", "tail"),
    *("dead groups", "dead list", "dead show"),
    *("outbox stats", "outbox scheduled", "outbox partitions", "outbox parked"),
    *("schema check", "schema diff"),
}
# Those that write a document, which is JSON or a script already, and those that run something.
OTHERS = {
    *("asyncapi", "catalog", "completion", "dead export", "new", "schema lock"),
    *("demo", "relay", "run"),
}


def _leaves(parser: argparse.ArgumentParser, at: str) -> Iterator[tuple[str, set[str]]]:
    actions: list[Any] = parser._actions
    verbs = [action for action in actions if isinstance(action.choices, Mapping)]
    for action in verbs:
        for verb, inner in action.choices.items():
            yield from _leaves(inner, f"{at} {verb}")
    if not verbs:
        shown = [action for action in actions if action.help != argparse.SUPPRESS]
        yield at, {option for action in shown for option in action.option_strings}


def _options() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for command in COMMANDS:
        parser = argparse.ArgumentParser(prog=f"events {command}")
        import_module(f"events.cli.commands.{command}").add_arguments(parser)
        found |= dict(_leaves(parser, command))
    return found


OPTIONS = _options()


def test_each_command_is_one_of_these() -> None:
    assert sorted(OPTIONS) == sorted(WRITES | READS | OTHERS)


@pytest.mark.parametrize("command", sorted(WRITES))
def test_a_command_that_writes_can_be_tried_and_names_who_does_it(command: str) -> None:
    assert {"--dry-run", "--actor", "--audit", "--json", "--app"} <= OPTIONS[command]


@pytest.mark.parametrize("command", sorted(READS))
def test_a_command_that_reads_can_be_read_by_programs(command: str) -> None:
    assert {"--json", "--app"} <= OPTIONS[command]
    assert not {"--dry-run", "--actor"} & OPTIONS[command]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_each_option_is_completed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for command, options in OPTIONS.items():
        place = "/" + command.replace(" ", "/")
        found = re.search(rf'"{re.escape(place)}"\) words="([^"]*)"', script)
        assert found, place
        long = {option for option in options if option.startswith("--")}
        assert long == {word for word in found[1].split() if word.startswith("--")}


def test_the_statuses_are_those_of_the_reference() -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "command.md"
    text = page.read_text(encoding="utf-8")
    (listed,) = re.findall(r"\*\*Status\*\*: (.*?)\n- ", text, re.DOTALL)
    assert re.findall(r"\b\d\b", listed) == list(map(str, (OK, FAILED, USAGE, UNAVAILABLE)))
