"""What the other extensions ask of the code that is documented."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["SRC", "public_names", "resolve"]

SRC = Path(__file__).parents[2] / "src"


def resolve(path: str) -> Any:
    """Import the longest module that the path begins with, and follow the rest."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(path)


def public_names() -> Iterator[tuple[str, list[str]]]:
    """Give every public module with what its `__all__` lists."""
    for path in sorted(SRC.rglob("*.py")):
        module = ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")
        if "._" not in module:
            names: list[str] = getattr(import_module(module), "__all__", [])
            if names:
                yield module, sorted(names)
