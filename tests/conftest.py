"""Fixtures and hooks for all tests."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from hypothesis import settings

# Nothing is wrong with code that a busy machine runs slowly; what hangs has pytest's timeout.
settings.register_profile("events", deadline=None)
settings.load_profile("events")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape lone surrogates in what a test logged: a worker of pytest-xdist could not report it."""
    report = yield
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode())
        for title, text in report.sections
    ]
    return report
