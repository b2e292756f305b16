"""URLs as they may be shown."""

from __future__ import annotations

import re

__all__ = ["masked"]

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
