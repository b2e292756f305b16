"""What tells events apart, and what is remembered of those that were handled."""

from __future__ import annotations

from events.integration.brokering.handled import Handled, Identity, identity
from events.integration.message import Delivery


def identity_of(
    id: str, source: str | None, *, topic: str = "t", body: bytes = b"", n: int = 1
) -> Identity:
    headers = {} if source is None else {"ce-source": source}
    return identity(Delivery(topic, "consumer", id, body, headers, n))


def test_an_id_is_unique_at_its_source_alone() -> None:
    assert identity_of("1", "/ours") != identity_of("1", "/theirs")
    assert identity_of("1", "/ours", body=b"a") == identity_of("1", "/ours", body=b"b")
    assert identity_of("1", None, body=b"/ours") != identity_of("1", None, body=b"/theirs")


def test_each_topic_and_each_attempt_is_one_of_its_own() -> None:
    assert identity_of("1", "/ours") != identity_of("1", "/ours", topic="u")
    assert identity_of("1", "/ours") != identity_of("1", "/ours", n=2)


def test_the_last_few_are_remembered() -> None:
    handled = Handled(2)
    one, two, three = (identity_of(each, "/ours") for each in "123")
    for added in (one, two, two, three):
        handled.add(added)
    assert one not in handled
    assert two in handled
    assert three in handled
