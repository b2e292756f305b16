from __future__ import annotations

import pytest

from events.domain import DomainEventHandler, DomainEventHandlerRegistry


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> DomainEventHandlerRegistry:
    """Give each test its own global registry, because handlers are never removed from the real one."""
    fresh = DomainEventHandlerRegistry()
    monkeypatch.setattr(DomainEventHandler, "registry", fresh)
    return fresh
