"""Attributes that all operations at one place share: computed once, then looked up.

Their number is bounded by that of topics and consumers.
"""

from __future__ import annotations

from functools import lru_cache

from events.integration.implementation.opentelemetry import conventions as names

Attributes = dict[str, str | int]


class Place:
    """One operation of one destination, or of several at once. Its dicts are not to be changed.

    `attributes` are those of spans, `at` tells a consumer from others in metrics.
    """

    __slots__ = ("_measured", "at", "attributes", "name")

    def __init__(
        self, operation: str, system: str | None, topic: str | None, consumer: str | None
    ) -> None:
        self.name = operation if topic is None else f"{operation} {topic}"
        at = {names.SYSTEM: system, names.DESTINATION: topic, names.GROUP: consumer}
        self.at: Attributes = {name: value for name, value in at.items() if value is not None}
        did: Attributes = {names.OPERATION_NAME: operation}
        self.attributes: Attributes = {**did, names.OPERATION_TYPE: operation, **self.at}
        self._measured: dict[type[BaseException] | None, Attributes] = {None: {**did, **self.at}}

    def measured(self, error: BaseException | None) -> Attributes:
        """Return the attributes of a duration that ended so."""
        of = None if error is None else type(error)
        found = self._measured.get(of)
        if found is None:
            found = {**self._measured[None], names.ERROR: type_of(error) or ""}
            self._measured[of] = found
        return found


place = lru_cache(1024)(Place)


@lru_cache(1024)
def consumer_attributes(topic: str, consumer: str) -> Attributes:
    """Return what tells a consumer from others, whatever its bus. Do not change it."""
    return {names.DESTINATION: topic, names.GROUP: consumer}


def type_of(error: BaseException | None) -> str | None:
    """Return the class of an error for `error.type`: unlike texts, classes are few."""
    if error is None:
        return None
    of = type(error)
    return of.__qualname__ if of.__module__ == "builtins" else f"{of.__module__}.{of.__qualname__}"
