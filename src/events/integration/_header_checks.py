"""Checks that every bus can carry the headers, key and ids of a message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from events.errors import EventEncodeError
from events.integration.cloudevents import encode_value

# Headers that some bus would lose or interpret. All buses refuse them, so that a program that runs
# on one bus runs on the others.
_TAKEN_BY: Final = {
    "ce-": "CloudEvents",
    "cloudevents_": "CloudEvents, in AMQP",
    "content-type": "CloudEvents",
    "content-encoding": "compression",
    "data": "the body, in a Redis stream",
    "__data__": "the body, in a Redis stream",
    "eventheaders": "this package, in an envelope",
    "events-": "this package",
    "nats-": "the NATS server",
    "x-death": "RabbitMQ",
    "x-delivery-count": "RabbitMQ",
    "x-acquired-count": "RabbitMQ",
    "x-received-from": "RabbitMQ",
    "x-first-death-": "RabbitMQ",
    "x-last-death-": "RabbitMQ",
    "x-opt-": "RabbitMQ",
    "cc": "RabbitMQ",
    "bcc": "RabbitMQ",
}
_taken_prefixes: Final = tuple(name for name in _TAKEN_BY if name.endswith(("-", "_")))
_is_header_name = re.compile(r"[!#$%&'*+.^_`|~0-9a-zA-Z-]+").fullmatch
_has_control = re.compile(r"[\x00-\x1f\x7f-\x9f]").search


def checked(headers: Mapping[str, str], event_class: type) -> dict[str, str]:
    """Return a user's headers with lower-case names; their values are sent as they are.

    Raises:
        EventEncodeError: some bus would lose a header or interpret it.
    """
    given: object = headers
    if not isinstance(given, Mapping):
        raise EventEncodeError(event_class, f"headers must be a mapping, not {given!r}")
    checked: dict[str, str] = {}
    for name, value in headers.items():
        reason = _why_not(name, value)
        if reason is None and name.lower() in checked:
            reason = "it is given twice: names are compared without case"
        if reason is not None:
            raise EventEncodeError(event_class, f"header {name!r}: {reason}")
        checked[name.lower()] = value
    return checked


def _why_not(name: object, value: object) -> str | None:
    """Return why a user's header cannot be sent, or None."""
    if not isinstance(name, str) or not isinstance(value, str):
        return f"its value is {value!r}: names and values must be str"
    reason = _why_not_named(name)
    if reason is not None:
        return reason
    if _has_control(value):
        return "its value has a control character, such as a line break: remove it, or encode it"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "its value has a lone surrogate, which UTF-8 cannot encode"
    return None


@lru_cache(1024)
def _why_not_named(name: str) -> str | None:
    if not _is_header_name(name):
        return "its name is invalid: use letters, digits and hyphens"
    lower = name.lower()
    prefixes = (each for each in _taken_prefixes if lower.startswith(each))
    owner = _TAKEN_BY.get(lower) or _TAKEN_BY.get(next(prefixes, ""))
    return None if owner is None else f"its name is reserved for {owner}: use another name"


def encoded(event_class: type, name: str, value: object) -> str:
    """Encode a caller's value of an attribute."""
    if not isinstance(value, str) or not value:
        raise EventEncodeError(event_class, f"{name} must be a non-empty str, not {value!r}")
    try:
        return encode_value(value)
    except UnicodeEncodeError as exc:
        raise EventEncodeError(
            event_class, f"{name} has a lone surrogate, which UTF-8 cannot encode: {value!r}"
        ) from exc
