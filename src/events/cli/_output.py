"""What a command prints: text that cannot control the terminal, or one JSON object a line."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

__all__ = ["note", "plain", "print_json", "print_table", "when"]


def plain(text: str, *, lines: bool = False) -> str:
    """Return the text with what is not printable as escapes; `lines` keeps the ends of lines."""
    return "".join(
        c if c.isprintable() or (lines and c in "\n\t") else c.encode("unicode_escape").decode()
        for c in text
    )


def when(time: datetime) -> str:
    """Return a time as it is local to the terminal."""
    return time.astimezone().isoformat(sep=" ", timespec="seconds")


def print_json(value: Any) -> None:
    """Print one value as one line of JSON."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows in columns; the last column is as wide as it is."""
    table = [list(heads), *([plain(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(heads) - 1)]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        sys.stdout.write("  ".join([*cells, row[-1]]) + "\n")


def note(text: str) -> None:
    """Say something that is no result: to standard error."""
    sys.stderr.write(plain(text) + "\n")
