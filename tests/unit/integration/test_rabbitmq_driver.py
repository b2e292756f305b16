"""The bus looks for what it needs of the driver before it uses it, and says what is not there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pika  # type: ignore[import-untyped]
import pytest
from pika.adapters.asyncio_connection import AsyncioConnection  # type: ignore[import-untyped]
from pika.channel import Channel  # type: ignore[import-untyped]
from pika.connection import Connection  # type: ignore[import-untyped]

from events.errors import EventsError
from events.integration.implementation.rabbitmq import _channel, _connection, _driver
from events.integration.implementation.rabbitmq._connection import _QuickConnection
from events.integration.implementation.rabbitmq._driver import UnfitDriverError, check_places

ROOT = Path(__file__).parents[3]
PLACES = {*_driver._OF_CONNECTION, *_driver._OF_CHANNEL}


def without(name: str, initialise: Callable[..., None]) -> Callable[..., None]:
    def shortened(self: Any, *args: Any, **kwargs: Any) -> None:
        initialise(self, *args, **kwargs)
        vars(self).pop(name)

    return shortened


def test_the_driver_that_is_installed_fits() -> None:
    check_places()
    pinned = (ROOT / "requirements" / "dev.txt").read_text()
    assert f"\npika=={_driver._TESTED} " in pinned, "the cure must name the version that is tested"


@pytest.mark.parametrize("name", ["_read_frame", "_output_marshaled_frames", "_terminate_stream"])
def test_a_method_that_has_moved_is_named_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delattr(Connection, name)
    monkeypatch.setattr(pika, "__version__", "9.9")
    with pytest.raises(UnfitDriverError) as raised:
        check_places()
    assert isinstance(raised.value, ImportError)
    assert isinstance(raised.value, EventsError)
    assert str(raised.value) == (
        f"pika 9.9 does not have Connection.{name}, which "
        f"events.integration.implementation.rabbitmq needs: "
        f"pip install 'pika=={_driver._TESTED}', which is known to fit"
    )


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Connection, "_channels"),
        (Connection, "_frame_buffer"),
        (Channel, "_consumers"),
        (Channel, "_cancelled"),
    ],
)
def test_an_attribute_that_has_moved_is_named(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    monkeypatch.setattr(owner, "__init__", without(name, owner.__init__))
    with pytest.raises(UnfitDriverError) as raised:
        check_places()
    assert raised.value.missing == (f"{owner.__name__}.{name}",)


def test_the_bus_cannot_be_imported_then() -> None:
    program = (
        "import pika.connection\n"
        "del pika.connection.Connection._process_frame\n"
        "import events.integration.implementation.rabbitmq\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "UnfitDriverError: pika" in done.stderr
    assert "Connection._process_frame" in done.stderr


@pytest.mark.parametrize("module", [_connection, _channel])
def test_what_is_used_is_what_is_looked_for(module: Any) -> None:
    """Compare with the source: what is the driver's own there is marked, or is in its subclass."""
    lines = Path(module.__file__).read_text().splitlines()
    theirs = re.compile(
        r"(?:_connection|connection|channel|transport|AsyncioConnection)\.(_[a-z]\w+)"
    )
    used = {name for line in lines if "SLF001" in line for name in theirs.findall(line)}
    if module is _connection:
        source = "\n".join(lines)
        quick = source[source.index("class _QuickConnection") : source.index("_open_connection:")]
        own = {"_frames", "_has_sent", "_end_turn", "_emit_frames", "_emit", "_consumer_of"}
        used |= set(re.findall(r"self\.(_[a-z]\w+)", quick)) - own
    assert used
    assert used <= PLACES


def test_without_its_socket_the_driver_writes_as_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    def emit(_: Any, data: bytes) -> None:
        written.append(data)

    monkeypatch.setattr(AsyncioConnection, "_adapter_emit_data", emit)
    connection: Any = _QuickConnection.__new__(_QuickConnection)
    connection._transport = SimpleNamespace(get_write_buffer_size=int)
    connection._emit(b"frame")
    assert written == [b"frame"]
