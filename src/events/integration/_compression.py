"""Compressed bodies: `content-encoding: gzip` is decompressed, other compressions are refused.

The decompressed size is limited, because a few kilobytes can expand to gigabytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from contextlib import suppress

from msgspec.structs import replace

from events.errors import MalformedEventError
from events.integration.message import Delivery

LARGEST = 16 << 20  # bytes of a body that is decompressed to be looked at

_GZIP = ("gzip", "x-gzip")
_COMPRESSIONS = ("br", "compress", "deflate", "lz4", "snappy", "zlib", "zstd")
_AS_GZIP = 31  # zlib's number for a window of 32 KiB and gzip's frame


def unpacked(delivery: Delivery, limit: int) -> Delivery:
    """Return a delivery with its body decompressed, and without the header.

    The result is cut off one byte above the limit, so later checks see that it is too large. Names
    that are not a compression, such as `utf-8` from some AMQP clients, are ignored.

    Raises:
        MalformedEventError: the compression is unknown, or the bytes are invalid.
    """
    encoding = delivery.headers["content-encoding"].strip().lower()
    if encoding in _COMPRESSIONS:
        raise MalformedEventError(
            f"its content-encoding is {encoding!r}, and only gzip is supported: "
            f"send it as gzip, or uncompressed"
        )
    if encoding not in _GZIP:
        return delivery
    headers = {n: value for n, value in delivery.headers.items() if n != "content-encoding"}
    return replace(delivery, body=_gunzipped(delivery.body, limit + 1), headers=headers)


def readable(headers: Mapping[str, str], body: bytes) -> bytes:
    """Return the body decompressed, up to `LARGEST` bytes, or unchanged if that is impossible."""
    if headers.get("content-encoding", "").strip().lower() in _GZIP:
        with suppress(MalformedEventError):
            return _gunzipped(body, LARGEST)
    return body


def _gunzipped(data: bytes, most: int) -> bytes:
    parts: list[bytes] = []
    left = most
    while data and left > 0:
        member = zlib.decompressobj(_AS_GZIP)
        try:
            part = member.decompress(data, left)
        except zlib.error as exc:
            raise MalformedEventError(
                f"its content-encoding is gzip, but its body is not gzip: {exc}"
            ) from exc
        parts.append(part)
        left -= len(part)
        if left > 0 and not member.eof:
            raise MalformedEventError("its content-encoding is gzip, but its body is truncated")
        data = member.unused_data
    return b"".join(parts)
