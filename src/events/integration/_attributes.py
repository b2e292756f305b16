"""Percent-encoded values of CloudEvents attributes in headers (HTTP binding 1.0.2).

Bindings differ in whether values are encoded, and producers do not always follow their binding. So
every bus decodes values in the same way: a value without `%` and quotes stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, unquote

_plain = re.compile(r"[!#$&-~]*").fullmatch
_unquoted = "".join(map(chr, range(0x21, 0x7F))).replace('"', "").replace("%", "")


def encode_value(value: str) -> str:
    """Return an attribute's value, percent-encoded for a header.

    Raises:
        UnicodeEncodeError: it holds a lone surrogate.
    """
    return value if _plain(value) else quote(value, safe=_unquoted)


def decode_value(value: str) -> str:
    """Undo `encode_value`, and the double quotes that older producers write.

    Raises:
        UnicodeDecodeError: the encoded bytes are not UTF-8; the binding requires an error.
    """
    if value.startswith('"') and value.endswith('"') and len(value) > 1:
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    return unquote(value, errors="strict") if "%" in value else value


def attribute(headers: Mapping[str, str], name: str) -> str | None:
    """Return a CloudEvents attribute of a message's headers, or None.

    A value that cannot be decoded is returned unchanged.
    """
    value = headers.get(f"ce-{name}")
    return None if value is None else decoded(value)


def key_in(headers: Mapping[str, str]) -> str | None:
    """Return the attribute of the Partitioning extension. Quick: every delivery needs it."""
    value = headers.get("ce-partitionkey")
    return None if value is None else decoded(value)


def decoded(value: str) -> str:
    """Undo `encode_value`, or return the value unchanged if that is impossible."""
    if "%" not in value and '"' not in value:  # the usual case
        return value
    try:
        return decode_value(value)
    except UnicodeDecodeError:
        return value
