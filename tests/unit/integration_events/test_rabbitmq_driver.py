"""The bus looks for what it needs of the driver that is not public, and does without it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pika.adapters.asyncio_connection import AsyncioConnection  # type: ignore[import-untyped]
from pika.channel import Channel  # type: ignore[import-untyped]
from pika.connection import Connection  # type: ignore[import-untyped]

from events.integration.implementation.rabbitmq._connection import _QuickConnection
from events.integration.implementation.rabbitmq._driver import moved_places


def test_the_driver_that_is_installed_has_every_place() -> None:
    assert moved_places() == set()


@pytest.mark.parametrize("name", ["_read_frame", "_output_marshaled_frames"])
def test_a_method_that_has_moved_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delattr(Connection, name)
    assert moved_places() == {name}


@pytest.mark.parametrize("name", ["_consumers", "_frame_buffer"])
def test_an_attribute_that_has_moved_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    owner = Channel if name == "_consumers" else Connection
    initialise = owner.__init__

    def shortened(self: Any, *args: Any, **kwargs: Any) -> None:
        initialise(self, *args, **kwargs)
        vars(self).pop(name)

    monkeypatch.setattr(owner, "__init__", shortened)
    assert moved_places() == {name}


def test_without_its_socket_the_driver_writes_as_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    def emit(_: Any, data: bytes) -> None:
        written.append(data)

    monkeypatch.setattr(AsyncioConnection, "_adapter_emit_data", emit)
    connection: Any = _QuickConnection.__new__(_QuickConnection)
    connection._transport = SimpleNamespace(get_write_buffer_size=int)
    connection._emit(b"frame")
    assert written == [b"frame"]
