"""CloudEvents 1.0: attributes in headers (binary mode), or around the body (structured mode).

Binary mode follows the HTTP binding 1.0.2: an attribute is a header with the prefix `ce-`
(section 3.1.3.1), its value percent-encoded (section 3.1.3.2), and `content-type` stands for
`datacontenttype` (section 3.1.1). The binding of NATS 1.0.3-wip, section 3.1, names and encodes
them alike. Structured mode follows the JSON event format 1.0.2, section 3.

Headers that are no attributes have no place in an envelope. They travel in an extension attribute
of ours, `eventheaders`: a JSON object in a string.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from events.integration.message import Delivery, Message

__all__ = [
    "JSON",
    "Envelope",
    "attribute",
    "encode_value",
    "from_structured",
    "to_structured",
    "unwrapped",
]

JSON = "application/json"
CLOUDEVENT = "application/cloudevents"
HEADERS = "eventheaders"
INTEGERS = frozenset({"eventversion"})
# Headers by these names would not come back: the envelope has its own use for them.
NO_ATTRIBUTES = frozenset({"data", "datacontenttype", HEADERS})
FIXED = frozenset({"specversion", "id"})
REQUIRED = frozenset({"specversion", "id", "source", "type"})

_plain = re.compile(r"[!#$&-~]*").fullmatch
# The same, of JSON: strings in it that have no escapes are what they look like.
_plain_json = bytes(each for each in range(0x21, 0x7F) if each not in b"%\\")
_unquoted = "".join(map(chr, range(0x21, 0x7F))).replace('"', "").replace("%", "")
_is_name = re.compile(r"[a-z0-9]+").fullmatch
_is_integer = re.compile(r"0|[1-9][0-9]{0,8}").fullmatch
_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_headers = msgspec.json.Decoder(dict[str, str]).decode
_skip = msgspec.json.Decoder(msgspec.Raw).decode


class Envelope(msgspec.Struct, frozen=True):
    """What a structured message holds: as in binary mode, with `headers` as a `Message` has them.

    `id` is None for a bare body, one without an envelope; its headers are then empty.
    """

    id: str | None
    headers: Mapping[str, str]
    body: bytes
    key: str | None = None


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
    return None if value is None else _decoded(value)


def _decoded(value: str) -> str:
    if "%" not in value and '"' not in value:  # as nearly always
        return value
    try:
        return decode_value(value)
    except UnicodeDecodeError:
        return value


@lru_cache(1024)
def _attribute_of(header: str) -> str | None:
    """Return the attribute that a header has as its own place in an envelope, if there is one."""
    name = header.removeprefix("ce-")
    if name != header and name not in NO_ATTRIBUTES and _is_name(name):
        return name
    return None


@lru_cache(1024)
def _header_of(attribute: str) -> str | None:
    """Return the header of an attribute; None if no attribute is called so."""
    return f"ce-{attribute}" if _is_name(attribute) else None


def to_structured(message: Message) -> bytes:
    """Put a message into one JSON envelope, for transports that have no headers.

    What is not JSON goes in as `data_base64`, so every body survives byte for byte.
    """
    attributes: dict[str, str | int] = {"specversion": "1.0", "id": message.id, "source": "/"}
    attributes["type"] = message.type
    others: dict[str, str] = {}
    for header, value in message.headers.items():
        name = _attribute_of(header)
        if header == "content-type":
            attributes["datacontenttype"] = value
        elif name is None:
            others[header] = value
        elif name not in FIXED and (read := _decoded(value)):
            attributes[name] = int(read) if name in INTEGERS and _is_integer(read) else read
    if message.key:
        attributes["partitionkey"] = message.key
    if others:
        attributes[HEADERS] = _encode(others).decode()
    head = _encode(attributes)[:-1]
    if _is_json_type(message.headers.get("content-type", JSON)) and _is_object(message.body):
        return b'%b,"data":%b}' % (head, message.body)
    return b'%b,"data_base64":"%b"}' % (head, b64encode(message.body))


def from_structured(data: bytes) -> Envelope:
    """Take a message out of its envelope; whatever is no envelope is a bare body.

    An envelope has strings as `specversion` ("1.x"), `id`, `source` and `type`, and `data` or
    `data_base64`. An integer `version` beside them makes it a bare event that has such fields.
    Never raises: what cannot be read as an envelope will not be readable as an event either.
    """
    try:
        return _open(data) or Envelope(None, {}, data)
    except (ValueError, TypeError, RecursionError):
        return Envelope(None, {}, data)


def unwrapped(delivery: Delivery, *, expected: bool = False) -> Delivery:
    """Take a delivery out of its envelope, if it is in one; its id and key become those within.

    HTTP binding, section 3: the receiver goes by the content type. `expected` is for transports
    that have no headers to say it: there, every body may be an envelope.
    """
    if not expected:
        content_type = delivery.headers.get("content-type", "")
        if content_type == JSON or content_type[: len(CLOUDEVENT)].lower() != CLOUDEVENT:
            return delivery
    envelope = from_structured(delivery.body)
    if envelope.id is None:
        return delivery
    headers = {**delivery.headers, **envelope.headers} if delivery.headers else envelope.headers
    return msgspec.structs.replace(
        delivery,
        id=envelope.id,
        headers=headers,
        body=envelope.body,
        key=envelope.key if delivery.key is None else delivery.key,
    )


def _open(data: bytes) -> Envelope | None:
    attributes, body, plain = _parts(data)
    for name in REQUIRED:
        value = attributes.get(name)
        if not isinstance(value, str) or not value:
            return None
    if not attributes["specversion"].startswith("1.") or type(attributes.get("version")) is int:
        return None
    content_type = attributes.pop("datacontenttype", None)
    content_type = JSON if content_type is None else _canonical(content_type)
    encoded = attributes.pop("data_base64", None)
    if encoded is not None:
        body = b64decode(encoded, validate=True)
    elif body is None:
        return None
    elif content_type != JSON and not _is_json_type(content_type):
        body = msgspec.json.decode(body, type=str).encode()
    headers = _other_headers(attributes)
    for name, value in attributes.items():
        header = _header_of(name)
        if header is not None and value is not None:
            text = value if type(value) is str else _canonical(value)
            headers[header] = text if plain else encode_value(text)
    headers["content-type"] = content_type
    key = attributes.get("partitionkey")
    return Envelope(attributes["id"], headers, body, None if key is None else _canonical(key))


def _parts(data: bytes) -> tuple[dict[str, Any], bytes | None, bool]:
    """Part an envelope into its attributes and the bytes of its `data`.

    The last tells whether the strings among the attributes need no encoding, as nearly always.

    Raises:
        ValueError: it is no JSON object.
    """
    # Within a string the quotes would be escaped, so this is a member's name; and of the envelope
    # itself, if what is before it and what is behind it make sense. Ours do.
    head, _, rest = data.partition(b',"data":')
    if rest.endswith(b"}") and _is_object(body := rest[:-1]):
        try:
            return _decode_object(head + b"}"), body, not head.translate(None, _plain_json)
        except msgspec.DecodeError:
            pass
    members = _decode_members(data)
    raw = members.pop("data", None)
    attributes = {name: msgspec.json.decode(value) for name, value in members.items()}
    return attributes, None if raw is None else bytes(raw), False


def _other_headers(attributes: dict[str, Any]) -> dict[str, str]:
    """Take our own extension out of the attributes; someone else's of that name stays."""
    if HEADERS not in attributes:
        return {}
    try:
        headers = _decode_headers(attributes[HEADERS])
    except (TypeError, msgspec.DecodeError):
        return {}
    del attributes[HEADERS]
    return headers


def _canonical(value: object) -> str:
    """Write an attribute's value as text (CloudEvents 1.0.2, section 2.4, type system).

    Raises:
        TypeError: attributes have no such type.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise TypeError(value)


def _is_object(body: bytes) -> bool:
    """Tell whether these bytes can stand in an envelope and be taken out again as they are."""
    if not (body.startswith(b"{") and body.endswith(b"}")):
        return False
    try:
        _skip(body)
        # msgspec skips over strings without a look at their encoding.
        return body.isascii() or bool(body.decode())
    except (ValueError, RecursionError):
        return False


def _is_json_type(content_type: str) -> bool:
    """JSON event format 1.0.2, section 3.1.1: `*/json` or `*/*+json`, whatever the parameters."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type.endswith(("/json", "+json"))
