"""Every Python snippet of README.md and docs/ is run.

The snippets of one document share one namespace, from top to bottom, as a reader reads them. An
async snippet says `asyncio.run(main())` itself, as a reader would have to. A snippet that must
not run is fenced as `python no-run`, and a comment says why. The tutorial makes files of its
snippets: `tests/acceptance/test_tutorial.py` does what it says.

With `EVENTS_TEST_UVLOOP=1` in the environment the tests run on uvloop, which has to be installed.
"""

from __future__ import annotations

import asyncio
import os
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

_kept: list[Any] = []
_left_out = pytest.StashKey[int]()


def _begin(_namespace: dict[str, Any]) -> None:
    """Have a document know the library's own events alone: its own may be called as others are."""
    # Not at the top, where it would be imported before its coverage is measured.
    from events.integration import EventRegistry, IntegrationEvent  # noqa: PLC0415

    _kept.append(IntegrationEvent.registry)
    known = IntegrationEvent.registry = EventRegistry()
    for event in _kept[-1].values():
        if event.__module__.startswith("events."):
            known.add(event)


def _end(_namespace: dict[str, Any]) -> None:
    from events.integration import IntegrationEvent  # noqa: PLC0415

    IntegrationEvent.registry = _kept.pop()


pytest_collect_file = Sybil(
    parsers=[SkipParser(), PythonCodeBlockParser()],
    patterns=["README.md", "docs/*.md", "docs/**/*.md", "docs/*/*/*.md"],
    excludes=["docs/tutorial.md"],
    # Snippets are independent of the test suite's event loops and fixtures.
    fixtures=[],
    setup=_begin,
    teardown=_end,
).pytest()


@pytest.hookimpl(trylast=True)  # after pytest has set its own hook, which fails the running test
def pytest_configure() -> None:
    """Let aiosqlite close a connection after the event loop has ended.

    A connection that cannot be opened, or is terminated, is closed by its thread. Nobody can wait
    for that, and the thread fails to report it to a loop that is closed by then.
    """
    others = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        for frame, _ in traceback.walk_tb(args.exc_traceback):
            function = frame.f_locals.get("function")
            if getattr(function, "__name__", None) == "close_and_stop":
                return
        others(args)

    threading.excepthook = hook


def pytest_collection_finish() -> None:
    """Let `eventually` and `until_quiet` wait longer than five seconds, for a busy machine."""
    # Not at the top, where it would be imported before its coverage is measured.
    from events.testing import eventually, until_quiet  # noqa: PLC0415

    for function in (eventually, until_quiet):
        waits: Any = function
        waits.__defaults__ = (120.0,)


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count the tests that are left out, which must not be silent."""
    for item in items:
        if item.get_closest_marker("confidence"):
            stash = item.config.stash
            stash[_left_out] = stash.get(_left_out, 0) + 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Pass the count of a pytest-xdist worker to the process that reports; each saw all tests."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = session.config.stash.get(_left_out, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the count of a worker."""
    node.config.stash[_left_out] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the count."""
    if left_out := config.stash.get(_left_out, 0):
        terminalreporter.write_line(
            f"left out: {left_out} tests that repeat others for confidence; "
            f"`make test-confidence` runs them"
        )


if os.environ.get("EVENTS_TEST_UVLOOP"):
    uvloop: Any = import_module("uvloop")  # no requirement of the tests

    def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
        """Have pytest-asyncio make the tests' event loops with uvloop."""
        return {"uvloop": uvloop.new_event_loop}
