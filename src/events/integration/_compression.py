"""Bodies that arrive compressed: `content-encoding: gzip` is read, other compressions are refused.

How far a body is unpacked is bounded, whatever it claims: some kilobytes can hold gigabytes.
"""

from __future__ import annotations

import zlib

from msgspec.structs import replace

from events.errors import MalformedEventError
from events.integration.message import Delivery

__all__ = ["unpacked"]

_GZIP = ("gzip", "x-gzip")
_COMPRESSIONS = ("br", "compress", "deflate", "lz4", "snappy", "zlib", "zstd")
_AS_GZIP = 31  # zlib's number for a window of 32 KiB and gzip's frame


def unpacked(delivery: Delivery, limit: int) -> Delivery:
    """Return a delivery with its body uncompressed; the header that told of it is then gone.

    What comes out is cut off one byte above the limit, so that it is seen to be too large. Names
    that are no compression, such as `utf-8`, which AMQP clients write there, change nothing.

    Raises:
        MalformedEventError: the compression is not known, or the bytes do not fit it.
    """
    encoding = delivery.headers["content-encoding"].strip().lower()
    if encoding in _COMPRESSIONS:
        raise MalformedEventError(
            f"its content-encoding is {encoding!r}, and only gzip can be read: "
            f"send it as gzip, or uncompressed"
        )
    if encoding not in _GZIP:
        return delivery
    headers = {n: value for n, value in delivery.headers.items() if n != "content-encoding"}
    return replace(delivery, body=_gunzipped(delivery.body, limit + 1), headers=headers)


def _gunzipped(data: bytes, most: int) -> bytes:
    parts: list[bytes] = []
    left = most
    while data and left > 0:
        member = zlib.decompressobj(_AS_GZIP)
        try:
            part = member.decompress(data, left)
        except zlib.error as exc:
            raise MalformedEventError(
                f"its content-encoding is gzip, and its body is not: {exc}"
            ) from exc
        parts.append(part)
        left -= len(part)
        if left > 0 and not member.eof:
            raise MalformedEventError("its content-encoding is gzip, and its body is cut off")
        data = member.unused_data
    return b"".join(parts)
