"""What RabbitMQ returns, and what is known of routes by it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from events.integration.implementation.rabbitmq._driver import (
    LostError,
    Properties,
    new_properties,
)
from events.integration.implementation.rabbitmq._outgoing import Outgoing, Route, Routes
from events.integration.implementation.rabbitmq._publisher import Publisher
from events.integration.implementation.rabbitmq._wire import shortened


def message(source: str, *, id: str = "1") -> Properties:
    return new_properties(message_id=id, headers={"ce-source": source})


async def outgoing(properties: Properties) -> Outgoing:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    return Outgoing("", "queue", properties, b"", None, future=future, mandatory=True)


async def test_what_is_returned_is_reported_by_id_and_source() -> None:
    ours = await outgoing(message("/ours"))
    assert ours.is_returned_as("", "queue", message("/ours"))
    assert not ours.is_returned_as("", "queue", message("/theirs"))
    assert not ours.is_returned_as("", "queue", message("/ours", id="2"))
    assert not ours.is_returned_as("", "another", message("/ours"))
    assert not ours.is_returned_as("topic", "queue", message("/ours"))
    ours.returned = True
    assert not ours.is_returned_as("", "queue", message("/ours"))


def test_a_route_is_news_when_it_ceases_to_work_and_quiet_if_it_never_did(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "events.integration")
    route = Route("users", "user.registered")
    assert not route.is_quiet(0)
    assert route.missed(0) is None
    assert route.is_quiet(0.5)
    assert not route.is_quiet(1)
    assert route.missed(1) is None
    assert [record.levelname for record in caplog.records] == ["INFO"], "that was said"
    route.reached()
    assert not route.is_quiet(1.5)
    reason = "user.registered on topic 'users' no longer reaches a queue"
    assert reason in (route.missed(1.5) or "")
    assert reason in (route.missed(2) or ""), "each of them is an error"
    assert [record.levelname for record in caplog.records] == ["INFO", "ERROR"]
    assert not route.is_quiet(2), "what used to work is looked at each time"


def test_a_route_is_made_once() -> None:
    routes = Routes()
    assert routes.of("users", "a") is routes.of("users", "a")
    assert routes.of("users", "a") is not routes.of("users", "b")


def test_the_error_is_cut_first_then_the_longest_headers() -> None:
    headers = {
        "events-error": "e" * 10, "events-letter": "l" * 99,
        "long": "\N{EURO SIGN}" * 20, "short": "s" * 10, "table": {"a": 1},
    }  # fmt: skip
    properties = new_properties(headers=headers)
    assert shortened(properties, 4).headers == headers | {"events-error": "e" * 6}
    cut = shortened(properties, 12).headers
    assert "events-error" not in cut
    assert cut["long"] == "\N{EURO SIGN}" * 19
    nothing = shortened(properties, 10_000).headers
    assert nothing == {"events-letter": "l" * 99}
    assert shortened(new_properties(headers=nothing), 1).headers == nothing
    assert properties.headers == headers


class Closing:
    """A connection that the broker is closing, of which the driver tells in a later turn."""

    is_open = blocked = False

    def __init__(self) -> None:
        self.asked = 0

    async def channel(self, timeout: float) -> None:  # noqa: ASYNC109 - as of a connection
        self.asked += 1
        assert self.asked < 3, "it is asked again without a turn of the event loop"
        raise LostError("the connection is closed")


async def test_a_connection_that_is_being_closed_does_not_hold_up_the_event_loop() -> None:
    connection: Any = Closing()
    publisher = Publisher(1.0, why_down=lambda: None)
    publisher.up(connection)
    await asyncio.sleep(0)
    publisher.down()
    await publisher.stop()
    assert connection.asked == 1
