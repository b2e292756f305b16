"""The options of every bus over a transport."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from events.errors import InvalidTopologyError
from events.integration.pipeline.crashes import FEWEST
from events.integration.pipeline.middleware import Middleware
from events.integration.topology import RetryPolicy


class BusOptions(TypedDict, total=False):
    """The options of every bus over a transport. Times are in seconds, sizes in bytes.

    - `source`: the name of this service in each event, a URI reference (a CloudEvents attribute).
      Default `"/events"`.
    - `middlewares`: run around each attempt to handle an event, the first one outermost. A
      `ManagedMiddleware` starts and stops with the bus. Default none.
    - `retry`: the policy of registrations without their own. Default `RetryPolicy()`.
    - `send_timeout`: how long `send` waits for the broker. Default 10.
    - `connect_timeout`: how long `startup` tries to connect before it raises
      `BusUnavailableError`, and the limit of each later attempt. If the broker refuses the
      credentials, `startup` raises immediately. Default 5.
    - `startup_timeout`: the limit of `startup` in total. Default 30.
    - `wait_for_broker`: `startup` waits for a broker that is down or refuses, up to
      `startup_timeout` (`math.inf` means without limit), instead of raising. Default `False`.
    - `shutdown_grace`: how long `shutdown` waits for running handlers. Default 30.
    - `max_body_size`: `send` raises for a larger body, and a larger delivery is a dead letter.
      Default 1 MiB.
    - `check_events`: `send` refuses an event that no consumer could decode, such as a `str` field
      that holds 5. The check takes about a sixth of the time of making a message. It takes a third
      with long collections, or if the event's class has a `__post_init__` and is not frozen: those
      events are decoded at each send. Without the check, such an event is a dead letter at each
      consumer, and a NaN arrives as null. Default `True`.
    - `max_crashes`: with a broker, an event that killed its process so often in a row is a dead
      letter. From the third on, each crash is also an attempt, so an event without attempts left
      is a dead letter earlier. Default 5, minimum 3.
    """

    source: str
    middlewares: Sequence[Middleware]
    retry: RetryPolicy | None
    send_timeout: float
    connect_timeout: float
    startup_timeout: float
    wait_for_broker: bool
    shutdown_grace: float
    max_body_size: int
    check_events: bool
    max_crashes: int


def check_options(bus: str, *, retry: object, max_crashes: object, **amounts: object) -> None:
    """Raise `InvalidTopologyError` for an invalid option."""
    if not (retry is None or isinstance(retry, RetryPolicy)):
        raise InvalidTopologyError(
            bus, f"retry must be a RetryPolicy, as in RetryPolicy(attempts=3), not {retry!r}"
        )
    for name, amount in amounts.items():
        if not _is_amount(amount, least=0):
            raise InvalidTopologyError(bus, f"{name} must be a number of 0 or more, not {amount!r}")
    if not _is_amount(max_crashes, least=FEWEST):
        raise InvalidTopologyError(
            bus,
            f"max_crashes must be at least {FEWEST}, not {max_crashes!r}: fewer crashes do not "
            f"show which event caused them",
        )


def _is_amount(given: object, *, least: int) -> bool:
    # A bool is an int, and `send_timeout=True` is a slip; NaN is no amount either.
    return isinstance(given, int | float) and not isinstance(given, bool) and given >= least
