"""The public names: what each public module lists in `__all__`, pinned in public_api.txt.

A change here is a change for users, so it needs a line in CHANGELOG.md. To pin the present state:

    python -m tests.test_public_api
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
PINNED = Path(__file__).with_name("public_api.txt")

# What applications import: at most `MOST_NAMES` distinct names are a promise to them.
APPLICATIONS = (
    "events.contracts",
    "events.dashboard",
    "events.dishka",
    "events.domain",
    "events.errors",
    "events.integration",
    "events.integration.health",
    "events.memory",
    "events.nats",
    "events.opentelemetry",
    "events.operations",
    "events.rabbitmq",
    "events.recurring",
    "events.redis",
    "events.sqlalchemy",
    "events.testing",
)
MOST_NAMES = 150

# The same by the paths that the packages have had from the beginning.
LONG_PATHS = (
    "events.domain.event_handler",
    "events.domain.implementation.dishka",
    "events.domain.implementation.sqlalchemy",
    "events.integration.implementation.dishka",
    "events.integration.implementation.memory",
    "events.integration.implementation.nats",
    "events.integration.implementation.rabbitmq",
    "events.integration.implementation.redis",
    "events.integration.implementation.sqlalchemy",
    "events.integration.topology",
    "events.integration.topology.consumer",
)

# For those who write a bus, a store or an observer. They may change in a minor version.
EXTENSIONS = (
    "events.domain.observation",
    "events.integration.implementation.base",
    "events.integration.message",
    "events.integration.observation",
    "events.integration.outbox",
    "events.integration.transport",
    "events.operations.schedules",
    "events.operations.tail",
    "events.relay",
    "events.testing.contracts",
    "events.testing.contracts.harness",
    "events.testing.contracts.inbox",
    "events.testing.contracts.outbox",
    "events.testing.contracts.probe",
    "events.testing.contracts.properties",
    "events.testing.contracts.recurring",
    "events.testing.contracts.relays",
    "events.testing.contracts.schedules",
    "events.testing.contracts.sessions",
    "events.testing.faults",
)


# Extras that may be missing where a part of the suite runs; `make venv` installs them all.
_MISSING = {"events.opentelemetry"} if find_spec("opentelemetry") is None else set[str]()


def every_module() -> list[str]:
    names = (
        ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")
        for path in SRC.rglob("*.py")
    )
    return sorted(name for name in names if "._" not in name)


def module_names() -> list[str]:
    """Give the modules whose names are pinned."""
    return sorted({*APPLICATIONS, *LONG_PATHS, *EXTENSIONS} - _MISSING)


def public_names(module: str) -> list[str]:
    listed: list[str] = getattr(import_module(module), "__all__", [])
    return sorted(f"{module}.{name}" for name in listed)


def _values(module: str) -> list[object]:
    if module in _MISSING:
        return []
    return [getattr(import_module(module), name) for name in import_module(module).__all__]


def names_there_are() -> list[str]:
    return [name for module in module_names() for name in public_names(module)]


def test_a_promise_to_applications_is_short() -> None:
    names = {
        name.rpartition(".")[2]
        for name in PINNED.read_text(encoding="utf-8").splitlines()
        if name.rpartition(".")[0] in APPLICATIONS
    }
    assert len(names) <= MOST_NAMES, f"{len(names)} names"


@pytest.mark.parametrize("long", LONG_PATHS)
def test_a_long_path_has_no_more_than_its_door(long: str) -> None:
    short = {id(resolved) for module in APPLICATIONS for resolved in _values(module)}
    extension = {id(resolved) for module in EXTENSIONS for resolved in _values(module)}
    assert [
        name
        for name in import_module(long).__all__
        if id(getattr(import_module(long), name)) not in short | extension
        and not name.endswith("Transport")  # a base for a bus of your own
    ] == []


@pytest.mark.parametrize("module", [m for m in every_module() if not m.startswith("events.cli")])
def test_each_listed_name_exists(module: str) -> None:
    listed: list[str] = getattr(import_module(module), "__all__", [])
    assert [name for name in listed if not hasattr(import_module(module), name)] == []
    assert len(listed) == len(set(listed))


def test_a_module_that_promises_nothing_has_no_list() -> None:
    """Such a list looks like a promise; what hands on names of other modules needs one."""
    listed = [
        module
        for module in every_module()
        if module not in {*APPLICATIONS, *LONG_PATHS, *EXTENSIONS}
        and hasattr(imported := import_module(module), "__all__")
        and all(
            getattr(getattr(imported, n), "__module__", module) == module for n in imported.__all__
        )
    ]
    assert listed == []


def test_public_names_are_the_pinned_ones() -> None:
    pinned = set(PINNED.read_text(encoding="utf-8").splitlines())
    there_are = set(names_there_are())
    gone = {name for name in pinned - there_are if name.rpartition(".")[0] not in _MISSING}
    assert sorted(gone) == [], "gone: this breaks users"
    assert sorted(there_are - pinned) == [], "new: pin them, see above"


if __name__ == "__main__":
    PINNED.write_text("\n".join(names_there_are()) + "\n", encoding="utf-8")
