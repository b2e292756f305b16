"""The options of a relay, checked before it starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Literal, TypeAlias

from msgspec import Struct

from events.integration.bus import IntegrationEventBus
from events.integration.limits import LONGEST_NAME
from events.integration.outbox._order import Order
from events.integration.topology import RetryPolicy

RelayStep: TypeAlias = Literal["renewed", "selected", "sent", "removed", "released"]


class RelayOptions(Struct, frozen=True):
    """Options of `OutboxRelay`. `pipelined` has two batches in flight if the order allows it."""

    name: str | None
    order: Order
    lease: float
    batch: int
    batch_bytes: int
    poll_interval: float
    retry: RetryPolicy
    on_step: Callable[[RelayStep], None]
    pipelined: bool


def check_arguments(  # noqa: PLR0913 - the options, by name
    store: object,
    bus: object,
    *,
    name: object,
    lease: object,
    batch: object,
    batch_bytes: object,
    batches_in_flight: object,
    poll_interval: object,
    send_timeout: object,
    retry: object,
    lag_warning: object,
    keep_parked: object,
    shutdown_grace: object,
) -> None:
    """Raise `TypeError` or `ValueError` for an invalid argument of a relay."""
    if not callable(getattr(store, "due", None)):
        raise TypeError(
            f"OutboxRelay: the first argument must be an OutboxStore, such as "
            f"SQLAlchemyOutboxStore(engine), not {type(store).__name__}"
        )
    if not isinstance(bus, IntegrationEventBus):
        raise TypeError(
            f"OutboxRelay: the second argument must be a bus, an instance of "
            f"IntegrationEventBus, not {bus!r}"
        )
    _check_name(name)
    _check_seconds("lease", lease, 30)
    _check_count("batch", batch, "set the number of rows to send at once, as in batch=500")
    _check_count(
        "batch_bytes",
        batch_bytes,
        "set the bytes of bodies to read at once, as in batch_bytes=8 * 2**20",
    )
    _check_in_flight(batches_in_flight)
    _check_seconds("poll_interval", poll_interval, 2)
    _check_seconds("send_timeout", send_timeout, 30)
    _check_type("retry", retry, RetryPolicy, "RetryPolicy(attempts=3)")
    _check_seconds("lag_warning", lag_warning, 60, may_be_zero=True)
    _check_type("keep_parked", keep_parked, timedelta, "timedelta(days=30)")
    _check_seconds("shutdown_grace", shutdown_grace, 10, may_be_zero=True)


def _check_seconds(option: str, value: object, like: float, *, may_be_zero: bool = False) -> None:
    """Raise unless the option is a number of seconds, such as `like`."""
    cure = f"set seconds, as in {option}={like:g}"
    if isinstance(value, timedelta):
        cure = f"set seconds, as in {option}={value.total_seconds():g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"OutboxRelay: {option} must be a number, not {value!r}: {cure}")
    if math.isnan(value) or value < 0 or (value == 0 and not may_be_zero):
        least = "0 or more" if may_be_zero else "above 0"
        raise ValueError(f"OutboxRelay: {option} must be {least}, not {value!r}: {cure}")
    if option == "lease" and math.isinf(value):
        raise ValueError(f"OutboxRelay: {option} must be finite, not {value!r}: {cure}")


def _check_count(option: str, value: object, cure: str) -> None:
    """Raise unless it is a positive whole number. `cure` says of what, with an example."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"OutboxRelay: {option} must be a whole number, not {value!r}: {cure}")
    if value <= 0:
        raise ValueError(f"OutboxRelay: {option} must be above 0, not {value!r}: {cure}")


def _check_in_flight(value: object) -> None:
    """Raise unless it is a number of batches that a relay can have in flight."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"OutboxRelay: batches_in_flight must be 1 or 2, not {value!r}: set 1 if a repeat "
            f"does harm, or omit it"
        )
    if value not in {1, 2}:
        raise ValueError(
            f"OutboxRelay: batches_in_flight must be 1 or 2, not {value!r}: more would not be "
            f"faster; increase batch= instead"
        )


def _check_name(value: object) -> None:
    """Raise unless it is a valid name of a relay."""
    if value is None:
        return
    if not isinstance(value, str):
        raise TypeError(
            f'OutboxRelay: name must be a string, as in name="orders-1", not {value!r}; or omit it'
        )
    if not 1 <= len(value) <= LONGEST_NAME:
        raise ValueError(
            f"OutboxRelay: name must have 1 to {LONGEST_NAME} characters, not {len(value)}: "
            f"shorten or omit it"
        )


def _check_type(option: str, value: object, wanted: type, cure: str) -> None:
    """Raise unless the option is None or an instance of `wanted`."""
    if value is not None and not isinstance(value, wanted):
        raise TypeError(
            f"OutboxRelay: {option} must be a {wanted.__name__}, not {value!r}: as in "
            f"{option}={cure}"
        )
