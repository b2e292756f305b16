"""The fields of forms and queries, and the selection that they describe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

from events.errors import InvalidTopologyError
from events.integration.paging import as_number
from events.integration.topology.topic import check_name
from events.operations import Selection

if TYPE_CHECKING:
    from starlette.requests import Request

_LARGEST = 256 << 10  # bytes of a form
_MOST = 2_000  # fields
_FILTERS = ("consumer", "group", "type", "reason", "text", "since", "before")


class BadFormError(ValueError):
    """A field is invalid; the text names it, and is shown to the visitor."""


class Fields:
    """The fields of a query or a form. Empty fields are treated as missing."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            if value.strip():
                self._values.setdefault(name, []).append(value)

    def get(self, name: str) -> str | None:
        """Return the first value of a field."""
        values = self._values.get(name)
        return values[0] if values else None

    def need(self, name: str) -> str:
        """Return the first value of a required field."""
        value = self.get(name)
        if value is None:
            raise BadFormError(f"the field {name} is missing")
        return value

    def all(self, name: str) -> Sequence[str]:
        """Return each value of a field."""
        return self._values.get(name, [])

    def number(self, name: str, least: float, most: float) -> float | None:
        """Return a number within bounds, or None without one."""
        given = self.get(name)
        if given is None:
            return None
        try:
            number = float(given)
        except ValueError:
            number = float("nan")
        if not least <= number <= most:
            raise BadFormError(f"{name} must be a number from {least:g} to {most:g}, not {given!r}")
        return number

    def row(self, name: str) -> int | None:
        """Return the id of a row, or None without one."""
        given = self.get(name)
        return None if given is None else row_id(given, name)

    def time(self, name: str) -> datetime | None:
        """Return a time, which is one in UTC if it has no zone."""
        given = self.get(name)
        if given is None:
            return None
        try:
            time = datetime.fromisoformat(given)
            return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            raise BadFormError(
                f"{name} must be a time such as 2026-11-29T14:00, not {given!r}"
            ) from None

    def check(self) -> None:
        """Raise `BadFormError` for a character that no id has, or a name that no consumer has."""
        for name, values in self._values.items():
            if any("\0" in value for value in values):
                raise BadFormError(f"{name} has a NUL character")
        for consumer in self.all("consumer"):
            try:
                check_name("Consumer", consumer)
            except InvalidTopologyError as error:
                raise BadFormError(str(error)) from None

    def selection(self, *, text: bool = True) -> Selection:
        """Return the selection, without `text` if the caller searches for it."""
        ids = self.all("id")
        return Selection(
            ids=frozenset(ids) if ids else None,
            group=self.get("group"),
            type=self.get("type"),
            reason=self.get("reason"),
            text=self.get("text") if text else None,
            since=self.time("since"),
            before=self.time("before"),
        )

    @property
    def filters(self) -> Mapping[str, str]:
        """The fields that select dead letters, without empty ones."""
        return {name: value for name in _FILTERS if (value := self.get(name)) is not None}

    def query(self, **changes: str | None) -> str:
        """Return the filters as a query, with these added, or removed if None."""
        values = {**self.filters, **changes}
        return urlencode({name: value for name, value in values.items() if value is not None})


def row_id(given: str, name: str = "id") -> int:
    """Return the id of a row. Raises `BadFormError` for what is none."""
    number = as_number(given.strip())
    if number is None:
        raise BadFormError(f"{name} must be the id of a row, not {given!r}")
    return number


async def read_form(request: Request) -> Fields:
    """Read a form without files."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST:
            raise BadFormError(f"the form is larger than {_LARGEST} bytes")
    try:
        return Fields(
            parse_qsl(
                body.decode(),
                keep_blank_values=False,
                max_num_fields=_MOST,
                strict_parsing=bool(body),
            )
        )
    except ValueError as error:
        raise BadFormError(f"the form cannot be read: {error}") from None
