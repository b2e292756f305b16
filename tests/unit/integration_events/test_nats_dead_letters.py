"""How NATS' dead letters are read where the server refuses a consumer for it."""

from __future__ import annotations

from typing import Any

import pytest

from events.integration.implementation.nats._api import ApiError, DeniedError
from events.integration.implementation.nats._dead_letters import NatsDeadLetters
from events.integration.implementation.nats._topology import StreamSpec

DENIED = DeniedError("NATS", "permissions violation")
NOT_FOUND = ApiError(404, 10037, "no message found")


class Refusing:
    """An API without any dead letter, which refuses some verbs."""

    def __init__(self, **refused: Exception) -> None:
        self.refused = refused
        self.asked: list[str] = []

    async def request(self, verb: str, body: Any, answer: type[Any]) -> Any:
        self.asked.append(verb.split(".")[1])
        if error := self.refused.get(self.asked[-1]):
            raise error
        if verb.startswith("STREAM.MSG.GET"):
            raise NOT_FOUND
        return answer(name="reader") if self.asked[-1] == "CREATE" else answer()

    async def pull(self, *_: object) -> list[Any]:
        return []


def store_of(api: Any) -> NatsDeadLetters:
    nothing: Any = None
    return NatsDeadLetters(api, nothing, StreamSpec(name="dead", subject="dead.>"), nothing)


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (ApiError(500, 10074, "insufficient resources"), ["CREATE", "MSG", "CREATE", "MSG"]),
        (DENIED, ["CREATE", "MSG", "MSG"]),
    ],
    ids=["an error", "denied"],
)
async def test_after_an_error_many_are_read_at_once_again_unless_it_is_denied(
    error: Exception, asked: list[str]
) -> None:
    api = Refusing(CREATE=error)
    store = store_of(api)
    for _ in range(2):
        assert await store.read("mails", limit=100, after=None) == []
    assert api.asked == asked


async def test_a_consumer_that_may_not_be_removed_does_not_cost_a_second_reading() -> None:
    api = Refusing(DELETE=DENIED)
    store = store_of(api)
    assert [page async for page in store.scan_heads("mails")] == [[]]
    assert await store.read("mails", limit=100, after=None) == []
    assert api.asked == ["CREATE", "DELETE"] * 2
