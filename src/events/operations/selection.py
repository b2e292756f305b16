"""Which dead letters an operator means."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from events.integration.message import DeadLetter
from events.operations.groups import group_id

__all__ = ["EVERYTHING", "Selection"]


class Selection(Struct, frozen=True, kw_only=True):
    """Dead letters that meet each condition given; without one, all of them.

    - `ids`: these alone.
    - `group`: those of the group with this id, as `DeadLetters.groups` gives it.
    - `type`, `reason`: those of this event type, and of this reason.
    - `text`: those that have it in the error or the body, in upper or lower case.
    - `since`, `before`: those that died in this time, the second one excluded. Times have a zone.
    """

    ids: frozenset[str] | None = None
    group: str | None = None
    type: str | None = None
    reason: str | None = None
    text: str | None = None
    since: datetime | None = None
    before: datetime | None = None

    def __post_init__(self) -> None:
        """Refuse times that cannot be compared."""
        for name in ("since", "before"):
            time: datetime | None = getattr(self, name)
            if time is not None and time.tzinfo is None:
                raise ValueError(f"{name} must have a time zone, as in datetime.now(UTC)")

    def includes(self, letter: DeadLetter) -> bool:
        """Tell whether a dead letter is one of them."""
        return (
            (self.ids is None or letter.id in self.ids)
            and (self.type is None or letter.message.type == self.type)
            and (self.reason is None or letter.reason == self.reason)
            and (self.since is None or letter.died_at >= self.since)
            and (self.before is None or letter.died_at < self.before)
            and (self.text is None or _has(letter, self.text.casefold()))
            and (self.group is None or group_id(letter) == self.group)
        )

    def __str__(self) -> str:
        """Name the conditions, for the audit."""
        given = [
            f"{name}={len(self.ids) if name == 'ids' and self.ids else value}"
            for name in self.__struct_fields__
            if (value := getattr(self, name)) is not None
        ]
        return ", ".join(given) or "all"


EVERYTHING = Selection()


def _has(letter: DeadLetter, text: str) -> bool:
    body = letter.message.body.decode("utf-8", "replace")
    return text in letter.error.casefold() or text in body.casefold()
