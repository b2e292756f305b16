"""Better errors for bodies that cannot be read, where the parser's text misleads."""

from __future__ import annotations

import re

from events.integration.cloudevents import fault_of_envelope

GZIP = b"\x1f\x8b"
_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")  # of UTF-8 and UTF-16

# A half of a surrogate pair that stands alone, after backslashes that escape each other.
_high, _low = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_lone_surrogate = re.compile(
    rb"(?:(?<!\\)(?:\\\\)*)(?:" + _high + rb"(?!" + _low + rb")|(?<!" + _high + rb")" + _low + rb")"
).search


def diagnosis(body: bytes) -> str | None:
    """Return what is wrong and what the producer should do, or None if it is none of these."""
    if not body.strip():
        return (
            "it has no data, only an empty body: send a JSON object "
            "(in an entry of a Redis stream, as the field `data`)"
        )
    if body.startswith(GZIP):
        return (
            "it is compressed with gzip, but has no header that says so: "
            "send the header `content-encoding: gzip`, or do not compress it"
        )
    if body.startswith(_MARKS):
        return "it begins with a byte order mark: send UTF-8 without one"
    if body.lstrip().startswith(b"["):
        return (
            "it is a JSON array, such as a batch of CloudEvents: "
            "send each event as a message of its own"
        )
    found = _lone_surrogate(body)
    if found is not None:
        return (
            f"it has a lone surrogate, half of a character, at byte {found.start()}: "
            f"send whole characters, which UTF-8 can carry"
        )
    return fault_of_envelope(body)
