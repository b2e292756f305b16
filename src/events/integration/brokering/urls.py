"""URLs as they may be shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import cast

from events.errors import InvalidTopologyError

_split = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*://)?)(.*)", re.DOTALL).fullmatch


def masked(url: str) -> str:
    """Return the URL without its secrets, for logs, errors and `repr`.

    Secret are a password, a user without one (on NATS that is a token), each value of the query and
    the fragment. The URL need not be valid: a password with an unquoted `@`, `/` or `?` is hidden.
    Where a `?` comes before an `@`, either may be part of a secret, so all of it is hidden.
    """
    matched = _split(url)
    assert matched is not None  # noqa: S101 - the pattern matches every string
    scheme, rest = matched.groups()
    who, at, where = rest.rpartition("@")
    if "?" in who or "#" in who:
        return f"{scheme}***"
    user, colon, _ = who.partition(":")
    place, question, query = where.partition("#")[0].partition("?")
    values = "&".join(
        f"{name}=***" if equals else "***"
        for name, equals, _ in (pair.partition("=") for pair in query.split("&"))
    )
    secret = f"{user}:***" if colon else "***"
    return f"{scheme}{secret if at else ''}{at}{place}{question}{values if question else ''}"


def checked(given: object, bus: str, example: str, check: Callable[[str], None]) -> list[str]:
    """Return one URL, or several, as a list; `check` raises `ValueError` for one that is not valid.

    Raises:
        InvalidTopologyError: it is none, or not valid.
    """
    first = f"it needs a URL first, as in {example!r}"
    urls = [given] if isinstance(given, str) else cast("Sequence[str]", given)
    if not isinstance(urls, Sequence):
        raise InvalidTopologyError(bus, f"{first}, not {given!r}")
    if not urls:
        raise InvalidTopologyError(bus, f"no URL: {first}")
    for url in urls:
        if not (isinstance(url, str) and url):
            raise InvalidTopologyError(bus, f"{first}, not {url!r}")
        try:
            check(url)
        except ValueError as error:
            raise InvalidTopologyError(f"URL {masked(url)!r}", str(error)) from None
    return list(urls)
