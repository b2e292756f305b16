"""Names as keys of documents and as names of files."""

from __future__ import annotations

import re
from collections.abc import Sequence


def keys_of(names: Sequence[str]) -> list[str]:
    """Make keys of names: letters, digits and `.-_` alone, each once, whatever its case."""
    keys: list[str] = []
    taken: set[str] = set()
    for name in names:
        plain = key = re.sub(r"[^A-Za-z0-9.\-_]", "_", name)
        number = 1
        while key.lower() in taken:
            number += 1
            key = f"{plain}-{number}"
        taken.add(key.lower())
        keys.append(key)
    return keys
