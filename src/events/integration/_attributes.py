"""Values of CloudEvents attributes in headers, which are percent-encoded (HTTP binding 1.0.2).

Bindings differ in whether they are encoded, and producers do not always keep to theirs. So what
arrives is decoded alike on every bus: a value without `%` and without quotes is what it looks like.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, unquote

__all__ = ["attribute", "decode_value", "decoded", "encode_value"]

_plain = re.compile(r"[!#$&-~]*").fullmatch
_unquoted = "".join(map(chr, range(0x21, 0x7F))).replace('"', "").replace("%", "")


def encode_value(value: str) -> str:
    """Percent-encode an attribute's value for a header.

    Raises:
        UnicodeEncodeError: it holds a lone surrogate.
    """
    return value if _plain(value) else quote(value, safe=_unquoted)


def decode_value(value: str) -> str:
    """Undo `encode_value`, and the double quotes that older producers write.

    Raises:
        UnicodeDecodeError: the encoded bytes are not UTF-8, which the binding wants rejected.
    """
    if value.startswith('"') and value.endswith('"') and len(value) > 1:
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    return unquote(value, errors="strict") if "%" in value else value


def attribute(headers: Mapping[str, str], name: str) -> str | None:
    """Read a CloudEvents attribute from a message's headers; None if it is not there.

    One that is encoded wrongly is given as it is: whoever needs it will not recognise it.
    """
    value = headers.get(f"ce-{name}")
    return None if value is None else decoded(value)


def decoded(value: str) -> str:
    """Undo `encode_value` where that can be done."""
    if "%" not in value and '"' not in value:  # as nearly always
        return value
    try:
        return decode_value(value)
    except UnicodeDecodeError:
        return value
