from __future__ import annotations

import pytest

from events.domain import DomainEventHandler, DomainEventHandlerRegistry


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> DomainEventHandlerRegistry:
    """Give each test a global registry of its own, as handlers never leave the real one."""
    fresh = DomainEventHandlerRegistry()
    monkeypatch.setattr(DomainEventHandler, "registry", fresh)
    return fresh
