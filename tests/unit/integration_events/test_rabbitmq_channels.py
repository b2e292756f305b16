"""Names that are too long, and what RabbitMQ leaves in the log when a channel cannot be had."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from events.integration.implementation.rabbitmq import _bindings
from events.integration.implementation.rabbitmq._apart import Apart
from events.integration.implementation.rabbitmq._bindings import Bindings
from events.integration.implementation.rabbitmq._driver import (
    DriverError,
    LostError,
    NoChannelError,
)
from events.integration.implementation.rabbitmq._pausing import Pauses
from events.integration.implementation.rabbitmq._topology import receipt_queue


@pytest.mark.parametrize(
    "letter",
    ["a" * 300, "\N{CLINKING BEER MUGS}" * 100, "@" * 100, "\ud800" * 90],
    ids=["ASCII", "four bytes", "escaped", "surrogates"],
)
def test_receipts_of_long_ids_have_names_that_amqp_takes_and_that_differ(letter: str) -> None:
    names = {receipt_queue("mails", letter + end).name for end in ("1", "2")}
    assert len(names) == 2
    assert all(len(name.encode()) <= 255 for name in names)
    assert all(name.startswith("mails:receipt:") for name in names)


def test_receipts_of_other_ids_are_named_by_them() -> None:
    assert receipt_queue("mails", "18@x").name == "mails:receipt:18%40x"


class Closing:
    """A channel that the broker closes at the first call."""

    on_closed: Callable[[DriverError], object]

    def on_return(self, _: object) -> None: ...

    async def confirms(self, _: object) -> None:
        reason = LostError("it is gone")
        self.on_closed(reason)
        raise reason


def ask_for_marks(channel: Any) -> Awaitable[object]:
    link: Any = None
    return Pauses(link, "quorum", 1)._missing(channel, ["mails:paused"])


def send_apart(channel: Any) -> Awaitable[object]:
    nothing: Any = None
    apart = Apart(1, write=nothing, confirmed=nothing, refused=nothing)
    out: Any = SimpleNamespace(future=asyncio.get_running_loop().create_future())
    return apart._try(channel, out)


@pytest.mark.parametrize("ask", [ask_for_marks, send_apart])
async def test_a_channel_that_is_closed_at_once_is_one_error(
    ask: Callable[[Any], Awaitable[object]],
) -> None:
    noise: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    with pytest.raises(LostError, match="it is gone"):
        await ask(Closing())
    gc.collect()
    assert not noise


async def test_each_time_that_bindings_lack_a_channel_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_bindings, "_PAUSE", 0)
    lacking = NoChannelError("all channels are open")

    async def done(*_: object) -> None: ...

    class Connection:
        def __init__(self) -> None:
            self.is_open = True
            self.answers = [lacking, lacking, None, lacking]

        async def channel(self, _: float) -> Any:
            bindings.look()
            answer = self.answers.pop(0)
            self.is_open = bool(self.answers)
            if answer is not None:
                raise answer
            return SimpleNamespace(close=done)

    subscribed: Any = SimpleNamespace(attachment=SimpleNamespace(bind=done))
    connection: Any = Connection()
    bindings = Bindings([subscribed], 1)
    bindings.look()
    await bindings._keep(connection)
    assert caplog.text.count("deleted bindings cannot be declared again") == 2
