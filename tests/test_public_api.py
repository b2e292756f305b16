"""The public names: what each public module lists in `__all__`, pinned in public_api.txt.

A change here is a change for users, so it needs a line in CHANGELOG.md. To pin anew what there is:

    python -m tests.test_public_api
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
PINNED = Path(__file__).with_name("public_api.txt")

# What only our own transports and buses use: these names promise nothing to users. A prefix that
# ends in a dot leaves the package itself public, with what it re-exports.
_INNER = (
    "events.cli",
    "events.contracts.",
    "events.integration.brokering",
    "events.integration.personal",
    "events.integration.pipeline.",
    "events.operations.",
    "events.integration.implementation.memory.",
    "events.integration.implementation.opentelemetry",
    "events.integration.implementation.redis.",
)


# Extras that may be missing where a part of the suite runs; `make venv` installs them all.
_OF_OPENTELEMETRY = {
    "events.opentelemetry",
    "events.domain.implementation.opentelemetry",
    "events.domain.implementation.opentelemetry.observer",
}
_MISSING = _OF_OPENTELEMETRY if find_spec("opentelemetry") is None else set[str]()


def module_names() -> list[str]:
    names = (
        ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")
        for path in SRC.rglob("*.py")
    )
    return sorted(
        n for n in names if "._" not in n and not n.startswith(_INNER) and n not in _MISSING
    )


def public_names(module: str) -> list[str]:
    listed: list[str] = getattr(import_module(module), "__all__", [])
    return sorted(f"{module}.{name}" for name in listed)


def names_there_are() -> list[str]:
    return [name for module in module_names() for name in public_names(module)]


@pytest.mark.parametrize("module", module_names())
def test_each_listed_name_exists(module: str) -> None:
    listed: list[str] = getattr(import_module(module), "__all__", [])
    assert [name for name in listed if not hasattr(import_module(module), name)] == []
    assert len(listed) == len(set(listed))


def test_public_names_are_the_pinned_ones() -> None:
    pinned = set(PINNED.read_text(encoding="utf-8").splitlines())
    there_are = set(names_there_are())
    gone = {name for name in pinned - there_are if name.rpartition(".")[0] not in _MISSING}
    assert sorted(gone) == [], "gone: this breaks users"
    assert sorted(there_are - pinned) == [], "new: pin them, see above"


if __name__ == "__main__":
    PINNED.write_text("\n".join(names_there_are()) + "\n", encoding="utf-8")
