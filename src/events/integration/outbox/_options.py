"""The options of a relay, checked before they do harm: a lease of "30" would fail once it runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Literal, TypeAlias

from msgspec import Struct

from events.integration.outbox._order import Order
from events.integration.topology import RetryPolicy

__all__ = [
    "RelayOptions",
    "RelayStep",
    "check_count",
    "check_in_flight",
    "check_name",
    "check_seconds",
    "check_type",
]

RelayStep: TypeAlias = Literal["renewed", "selected", "sent", "removed"]

_LONGEST_NAME = 255


class RelayOptions(Struct, frozen=True):
    """What `OutboxRelay` takes. `pipelined` has two batches in flight, if the order allows it."""

    name: str | None
    order: Order
    lease: float
    batch: int
    batch_bytes: int
    poll_interval: float
    retry: RetryPolicy
    on_step: Callable[[RelayStep], None]
    pipelined: bool


def check_seconds(option: str, value: object, like: float, *, may_be_zero: bool = False) -> None:
    """Raise unless the option is a number of seconds, such as `like`."""
    cure = f"give it seconds, as in {option}={like:g}"
    if isinstance(value, timedelta):
        cure = f"give it seconds, as in {option}={value.total_seconds():g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"OutboxRelay: {option} must be a number, not {value!r}: {cure}")
    if math.isnan(value) or value < 0 or (value == 0 and not may_be_zero):
        least = "0 or more" if may_be_zero else "above 0"
        raise ValueError(f"OutboxRelay: {option} must be {least}, not {value!r}: {cure}")
    if option == "lease" and math.isinf(value):
        raise ValueError(f"OutboxRelay: {option} must have an end, not {value!r}: {cure}")


def check_count(option: str, value: object, cure: str) -> None:
    """Raise unless it is a number of something. `cure` says of what, with an example."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"OutboxRelay: {option} must be a whole number, not {value!r}: {cure}")
    if value <= 0:
        raise ValueError(f"OutboxRelay: {option} must be above 0, not {value!r}: {cure}")


def check_in_flight(value: object) -> None:
    """Raise unless it is a number of batches that a relay can have in flight."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"OutboxRelay: batches_in_flight must be 1 or 2, not {value!r}: give it 1 where a "
            f"repeat does harm, else leave it out"
        )
    if value not in {1, 2}:
        raise ValueError(
            f"OutboxRelay: batches_in_flight must be 1 or 2, not {value!r}: more would bring "
            f"nothing; raise batch= instead"
        )


def check_name(value: object) -> None:
    """Raise unless it can be a relay's name."""
    if value is None:
        return
    if not isinstance(value, str):
        raise TypeError(
            f'OutboxRelay: name must be a string, not {value!r}: as in name="orders-1", or leave '
            f"it out"
        )
    if not 1 <= len(value) <= _LONGEST_NAME:
        raise ValueError(
            f"OutboxRelay: name must have 1 to {_LONGEST_NAME} characters, not {len(value)}: "
            f"shorten it, or leave it out"
        )


def check_type(option: str, value: object, wanted: type, cure: str) -> None:
    """Raise unless the option is left out or one of these."""
    if value is not None and not isinstance(value, wanted):
        raise TypeError(
            f"OutboxRelay: {option} must be a {wanted.__name__}, not {value!r}: as in "
            f"{option}={cure}"
        )
