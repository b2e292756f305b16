"""`events completion`: complete commands, verbs and options in bash and zsh."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from events.cli._exit import OK

_SCRIPT = """\
_events() {{
    local words="" at="" each
    for each in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$at/$each" in
            {places}) at="$at/$each" ;;
        esac
    done
    case "$at" in
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _events events
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `events completion`."""
    parser.add_argument(
        "shell",
        choices=["bash", "zsh"],
        help='add `eval "$(events completion bash)"` to ~/.bashrc, or for zsh to ~/.zshrc',
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    from events.cli import COMMANDS  # noqa: PLC0415 - it imports this module

    words = {"": sorted([*COMMANDS, "--help"])}
    for command in COMMANDS:
        parser = argparse.ArgumentParser(prog=f"events {command}")
        import_module(f"events.cli.commands.{command}").add_arguments(parser)
        _collect(parser, f"/{command}", words)
    if arguments.shell == "zsh":
        sys.stdout.write("autoload -Uz bashcompinit && bashcompinit\n")
    places = "|".join(place for place in words if place)
    cases = "\n".join(f'        "{at}") words="{" ".join(some)}" ;;' for at, some in words.items())
    sys.stdout.write(_SCRIPT.format(places=places, cases=cases))
    return OK


def _collect(parser: argparse.ArgumentParser, at: str, words: dict[str, list[str]]) -> None:
    here = words[at] = []
    actions: list[Any] = parser._actions  # noqa: SLF001 - argparse shows them nowhere else
    for action in actions:
        if action.help == argparse.SUPPRESS:
            continue
        here += [option for option in action.option_strings if option.startswith("--")]
        choices: object = action.choices
        if isinstance(choices, Mapping):  # of verbs
            verbs = cast("Mapping[str, argparse.ArgumentParser]", choices)
            here += verbs
            for verb, inner in verbs.items():
                _collect(inner, f"{at}/{verb}", words)
        elif action.choices is not None and not action.option_strings:
            here += map(str, action.choices)
