"""A third-party library is imported only inside its own implementation.

import-linter holds the floors between our own modules. It can forbid libraries that are listed,
but not "every other", which is what this law says.
"""

from __future__ import annotations

import ast
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"

# What newer Pythons than the one that runs this test have in their standard library.
NEWER_STDLIB = {"annotationlib"}

# The longest path that a module begins with says what it may import besides the standard library.
ALLOWED = {
    "events": set[str](),
    "events.cli": {"msgspec"},
    "events.cli.demo": {"sqlalchemy", "starlette", "uvicorn"},
    "events.contracts": {"msgspec"},
    "events.contracts.catalog": {"jinja2", "markupsafe", "pygments"},
    "events.dashboard": {"jinja2", "msgspec", "starlette"},
    "events.contracts.foreign": {"yaml"},
    "events.domain.implementation.dishka": {"dishka"},
    "events.domain.implementation.opentelemetry": {"opentelemetry"},
    "events.domain.implementation.sqlalchemy": {"sqlalchemy"},
    "events.integration": {"msgspec"},
    "events.integration.implementation.dishka": {"msgspec", "dishka"},
    "events.integration.implementation.nats": {"msgspec", "nats"},
    "events.integration.implementation.opentelemetry": {"msgspec", "opentelemetry"},
    "events.integration.implementation.rabbitmq": {"msgspec", "pika"},
    "events.integration.implementation.redis": {"msgspec", "redis"},
    "events.integration.implementation.sqlalchemy": {"msgspec", "sqlalchemy", "greenlet"},
    "events.integration.outbox.recurring": {"cronsim", "msgspec"},
    "events.operations": {"msgspec"},
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


DOORS = ["dishka", "memory", "nats", "opentelemetry", "rabbitmq", "redis", "sqlalchemy"]


@pytest.mark.parametrize("door", DOORS)
def test_a_door_imports_from_its_implementation_alone(door: str) -> None:
    """It has the name of the library behind it, and must not be taken for it."""
    tree = ast.parse((SRC / "events" / f"{door}.py").read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    homes = {f"events.{half}.implementation.{door}" for half in ("integration", "domain")}
    assert modules
    assert modules <= homes
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]


@pytest.mark.parametrize("door", sorted({*DOORS} - {"memory"}))
def test_a_door_and_the_library_of_its_name_are_two_modules(door: str) -> None:
    inner = "pika" if door == "rabbitmq" else door
    ours, library = import_module(f"events.{door}"), import_module(inner)
    assert ours is not library
    assert sys.modules[inner].__name__ == inner
    extra = r"integration-events\[" + door + r"\]"
    if door == "sqlalchemy":
        extra = r"integration-events\[postgresql\]"
    assert re.search(extra, ours.__doc__ or "")


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
