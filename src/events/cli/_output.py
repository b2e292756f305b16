"""The output of commands: text without control characters, or one JSON object a line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from events._named import plain


def add_json(*parsers: argparse.ArgumentParser) -> None:
    """Add the option `--json`, for output to other programs."""
    for parser in parsers:
        parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def when(time: datetime) -> str:
    """Return a time in the local time zone."""
    return time.astimezone().isoformat(sep=" ", timespec="seconds")


def first_line(error: str | None) -> str:
    """Return the first line of an error, for tables."""
    return (error or "").strip().partition("\n")[0]


def print_json(value: Any) -> None:
    """Print one value as one line of JSON."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows in columns; the last column has no fixed width."""
    table = [list(heads), *([plain(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(heads) - 1)]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        sys.stdout.write("  ".join([*cells, row[-1]]) + "\n")


def note(text: str) -> None:
    """Print a message that is not a result to standard error."""
    sys.stderr.write(plain(text) + "\n")
