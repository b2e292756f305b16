"""A container resolves the annotations of what it builds, so ours must have a meaning at run time.

See docs/decisions/0005-annotations-are-resolved-at-run-time.md.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import pytest

import events.domain
import events.integration
import events.testing


def public() -> Iterator[Callable[..., Any]]:
    for package in (events.domain, events.integration, events.testing):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(found.name)
            for name, value in vars(module).items():
                if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                    continue
                if inspect.isclass(value) and "__init__" in vars(value):
                    yield value.__init__


@pytest.mark.parametrize(
    "made", list(public()), ids=lambda made: f"{made.__module__}.{made.__qualname__}"
)
def test_what_a_container_may_build_has_annotations_that_resolve(made: Callable[..., Any]) -> None:
    get_type_hints(made, include_extras=True)
