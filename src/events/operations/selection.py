"""Conditions that select dead letters and rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct

from events.integration.message import DeadLetter
from events.operations.groups import group_id


class Conditions(Struct, frozen=True, kw_only=True):
    """Conditions that must all be met; a condition of None is always met."""

    def __str__(self) -> str:
        """Return the conditions, for the audit."""
        given = [
            f"{name}={self._ids(value) if name == 'ids' else value}"
            for name in self.__struct_fields__
            if (value := getattr(self, name)) is not None
        ]
        return ", ".join(given) or "all"

    def _ids(self, ids: frozenset[Any]) -> object:
        return len(ids)


class Selection(Conditions, frozen=True, kw_only=True):
    """Dead letters that meet all given conditions; without conditions, all dead letters.

    - `ids`: only these.
    - `group`: those of the group with this id, from `DeadLetters.groups`.
    - `type`, `reason`: those of this event type, and with this reason.
    - `text`: those with this text in the error or the body; case is ignored.
    - `since`, `before`: those that died from `since` on and before `before`. Times have a zone.
    """

    ids: frozenset[str] | None = None
    group: str | None = None
    type: str | None = None
    reason: str | None = None
    text: str | None = None
    since: datetime | None = None
    before: datetime | None = None

    def __post_init__(self) -> None:
        """Raise for times without a time zone."""
        for name in ("since", "before"):
            time: datetime | None = getattr(self, name)
            if time is not None and time.tzinfo is None:
                raise ValueError(f"{name} must have a time zone, as in datetime.now(UTC)")

    def includes(self, letter: DeadLetter) -> bool:
        """Return whether a dead letter meets the conditions."""
        return (
            (self.ids is None or letter.id in self.ids)
            and (self.type is None or letter.message.type == self.type)
            and (self.reason is None or letter.reason == self.reason)
            and (self.since is None or letter.died_at >= self.since)
            and (self.before is None or letter.died_at < self.before)
            and (self.text is None or _has(letter, self.text.casefold()))
            and (self.group is None or group_id(letter) == self.group)
        )


EVERYTHING = Selection()


def _has(letter: DeadLetter, text: str) -> bool:
    body = letter.message.body.decode("utf-8", "replace")
    return text in letter.error.casefold() or text in body.casefold()
