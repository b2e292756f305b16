"""What a broker keeps of a dead letter, and reads back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import combinations

import pytest

from events.integration.brokering.dead_letters import (
    DIED_AT,
    ERROR,
    LONGEST_ERROR,
    NAMES,
    RESERVED_BYTES,
    TYPE,
    read_dead_letter,
    record_of,
)
from events.integration.message import DeadLetter, Delivery, Reject

DELIVERY = Delivery("users", "emails", "7", b"{}", {"ce-type": "user.registered"}, key="ada")
REJECT = Reject("retries-exhausted", "ValueError: no", 3)


def read(record: dict[str, str], headers: dict[str, str] | None = None) -> DeadLetter:
    return read_dead_letter("1-0", "emails", record, body=b"{}", headers=headers or {}, key="ada")


def test_all_that_is_known_is_read_back() -> None:
    record = record_of(DELIVERY, REJECT, type="what the broker says")
    assert tuple(record) == NAMES
    letter = read(record, {"ce-type": "user.registered"})
    assert (letter.id, letter.consumer) == ("1-0", "emails")
    assert (letter.reason, letter.error, letter.attempts) == ("retries-exhausted", REJECT.error, 3)
    message = letter.message
    assert (message.id, message.topic, message.type) == ("7", "users", "user.registered")
    assert (message.body, message.key) == (b"{}", "ada")
    assert abs(datetime.now(UTC) - letter.died_at) < timedelta(hours=1)


def test_the_broker_tells_the_type_where_no_header_does() -> None:
    record = record_of(Delivery("users", "emails", "7", b"{}", {}), REJECT, type="user.registered")
    assert record[TYPE] == read(record).message.type == "user.registered"


def test_what_it_takes_is_bounded() -> None:
    long = "n" * 255
    delivery = Delivery(long, long, "i" * 255, b"", {"ce-type": "t" * 255})
    record = record_of(delivery, Reject("retries-exhausted", "e" * 100_000, 8), type="")
    assert len(record.pop(ERROR)) == LONGEST_ERROR
    assert sum(len(name) + len(value) for name, value in record.items()) < RESERVED_BYTES


@pytest.mark.parametrize("missing", [*combinations(NAMES, 1), NAMES])
def test_what_is_missing_hides_nothing(missing: tuple[str, ...]) -> None:
    record = record_of(DELIVERY, REJECT, type="")
    letter = read({name: value for name, value in record.items() if name not in missing})
    assert (letter.id, letter.message.body) == ("1-0", b"{}")
    assert letter.died_at.tzinfo is not None


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-29", "2026-11-29T09:30:00"])
def test_a_time_has_a_zone_whatever_stands_there(text: str) -> None:
    assert read({DIED_AT: text}).died_at.utcoffset() == timedelta(0)


def test_attempts_that_are_no_number_are_none() -> None:
    assert read({"events-attempts": "many"}).attempts == 0
