"""A third-party library is imported only inside its own implementation.

import-linter holds the floors between our own modules. It can forbid libraries that it is told of,
but not "every other", which is what this law says.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"

# What newer Pythons than the one that runs this test have in their standard library.
NEWER_STDLIB = {"annotationlib"}

# The longest path that a module begins with says what it may import besides the standard library.
ALLOWED = {
    "events": set[str](),
    "events.domain.implementation.dishka": {"dishka"},
    "events.integration": {"msgspec"},
    "events.integration.implementation.dishka": {"msgspec", "dishka"},
    "events.integration.implementation.nats": {"msgspec", "nats"},
    "events.integration.implementation.rabbitmq": {"msgspec", "pika"},
    "events.integration.implementation.redis": {"msgspec", "redis"},
    "events.integration.implementation.sqlalchemy": {"msgspec", "sqlalchemy", "greenlet"},
    "events.testing": {"msgspec", "pytest"},
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


def allowed_in(module: str) -> set[str]:
    home = max(
        (home for home in ALLOWED if f"{module}.".startswith(f"{home}.")),
        key=len,
    )
    return ALLOWED[home]


def third_party_imports(source: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    roots = {name.partition(".")[0] for name in found}
    return roots - sys.stdlib_module_names - NEWER_STDLIB - {"events"}


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=module_name)
def test_only_the_libraries_of_its_place_are_imported(path: Path) -> None:
    imported = third_party_imports(path.read_text(encoding="utf-8"))
    assert imported <= allowed_in(module_name(path))


@pytest.mark.parametrize(
    "source",
    [
        "import sqlalchemy.orm",
        "from sqlalchemy.ext import asyncio",
        "def late():\n    import sqlalchemy",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import sqlalchemy",
    ],
)
def test_every_form_of_import_is_seen(source: str) -> None:
    assert third_party_imports(source) == {"sqlalchemy"}


def test_domain_has_the_standard_library_alone() -> None:
    assert allowed_in("events.domain.dispatcher") == set()
    assert allowed_in("events.domain.implementation.dishka.provider") == {"dishka"}
    assert allowed_in("events.integration.implementation.base") == {"msgspec"}
