"""What the other extensions ask of the code that is documented."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["SRC", "public_names", "resolve"]

PINNED = Path(__file__).parents[2] / "tests" / "public_api.txt"
SRC = Path(__file__).parents[2] / "src"


def resolve(path: str) -> Any:
    """Give what a dotted path names; where a module and a name in a package are alike, the name."""
    parent, dot, name = path.rpartition(".")
    if not dot:
        return import_module(name)
    try:
        return getattr(import_module(parent), name)
    except ModuleNotFoundError:
        return getattr(resolve(parent), name)
    except AttributeError:
        return import_module(path)


def public_names() -> Iterator[tuple[str, list[str]]]:
    """Give every public module with what of its `__all__` is pinned, and so a promise."""
    pinned = set(PINNED.read_text(encoding="utf-8").splitlines())
    for path in sorted(SRC.rglob("*.py")):
        module = ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")
        if "._" not in module:
            listed: list[str] = getattr(import_module(module), "__all__", [])
            names = sorted(name for name in listed if f"{module}.{name}" in pinned)
            if names:
                yield module, names
