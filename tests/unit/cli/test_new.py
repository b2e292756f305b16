"""What `events new` writes, as far as it is seen without installing it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from events.cli import main

SHOWN = "from shop.contracts import OrderPlacedV1; print(OrderPlacedV1('1', 'ann@example.com', 2))"


def test_the_event_that_it_writes_shows_no_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "shop"]) == 0
    shown = subprocess.run(
        [sys.executable, "-c", SHOWN], cwd="shop", text=True, capture_output=True, check=True
    ).stdout
    assert "quantity=2" in shown
    assert "ann" not in shown
