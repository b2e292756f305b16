"""CloudEvents 1.0: attributes in headers (binary mode), or around the body (structured mode).

Binary mode follows the HTTP binding 1.0.2: an attribute is a header with the prefix `ce-`
(section 3.1.3.1), its value percent-encoded (section 3.1.3.2), and `content-type` stands for
`datacontenttype` (section 3.1.1). The binding of NATS 1.0.3-wip, section 3.1, names and encodes
them alike. Structured mode follows the JSON event format 1.0.2, section 3.

An envelope has no place for headers that are not attributes. They are sent in an extension
attribute of this package, `eventheaders`: a JSON object in a string.

A delivery is in structured mode if its content type says so, or if no header names a type and the
body is an envelope: producers forget the content type, and some transports have none. Attributes of
an envelope take precedence over headers, and a CloudEvents id over the broker's id.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from events.integration._attributes import attribute, decoded, encode_value
from events.integration._compression import readable
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
# Headers with these names would be lost: the envelope uses them itself.
NO_ATTRIBUTES = frozenset({"data", "datacontenttype", HEADERS})
FIXED = frozenset({"specversion", "id"})
REQUIRED = ("specversion", "id", "source", "type")
MARK = b'"specversion"'  # of a body that may be an envelope; a look at it costs no parsing

# The same, of JSON: strings in it that have no escapes are what they look like.
_plain_json = bytes(each for each in range(0x21, 0x7F) if each not in b"%\\")
_is_name = re.compile(r"[a-z0-9]+").fullmatch
_is_integer = re.compile(r"0|[1-9][0-9]{0,8}").fullmatch
_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_headers = msgspec.json.Decoder(dict[str, str]).decode
_skip = msgspec.json.Decoder(msgspec.Raw).decode


class Envelope(msgspec.Struct, frozen=True):
    """The contents of a structured message, as in binary mode; `headers` are as in `Message`.

    `id` is None for a bare body, one without an envelope; its headers are then empty.
    """

    id: str | None
    headers: Mapping[str, str]
    body: bytes
    key: str | None = None


@lru_cache(1024)
def _attribute_of(header: str) -> str | None:
    """Return the envelope's attribute for a header, if there is one."""
    name = header.removeprefix("ce-")
    if name != header and name not in NO_ATTRIBUTES and _is_name(name):
        return name
    return None


@lru_cache(1024)
def _header_of(attribute: str) -> str | None:
    """Return the header of an attribute; None if the name is not valid for an attribute."""
    return f"ce-{attribute}" if _is_name(attribute) else None


def to_structured(message: Message) -> bytes:
    """Put a message into one JSON envelope, for transports that have no headers.

    A body that is not JSON becomes `data_base64`, so every body is preserved byte for byte.
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
        elif name not in FIXED and (read := decoded(value)):
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
    """Return the contents of an envelope; anything else is treated as a bare body.

    An envelope has non-empty strings as `specversion` ("1.x"), `id`, `source` and `type`. Without
    `data` and `data_base64`, its body is empty. Never raises: `fault_of_envelope` returns what is
    wrong.
    """
    try:
        return _open(data)
    except (ValueError, TypeError, RecursionError):
        return Envelope(None, {}, data)


def fault_of_envelope(data: bytes) -> str | None:
    """Return why a body that looks like an envelope is invalid; None for any other body."""
    if MARK not in data:
        return None
    try:
        _open(data)
    except _InvalidEnvelopeError as error:
        return f"it is not a valid CloudEvents envelope: {error}"
    except (ValueError, TypeError, RecursionError):
        return None  # it does not look like one
    return None


def unwrapped(delivery: Delivery, *, expected: bool = False) -> Delivery:
    """Return a delivery without its envelope, with the id and key from the envelope.

    `expected` is for transports without headers, where every body may be an envelope.
    """
    headers = delivery.headers
    if not (expected or _may_be_enveloped(headers, delivery.body)):
        return delivery
    envelope = from_structured(delivery.body)
    if envelope.id is None:
        return delivery
    return msgspec.structs.replace(
        delivery,
        id=envelope.id,
        headers={**headers, **envelope.headers} if headers else envelope.headers,
        body=envelope.body,
        key=envelope.key if delivery.key is None else delivery.key,
    )


def own_id(headers: Mapping[str, str], body: bytes) -> str | None:
    """Return a message's CloudEvents id, in either mode, or None."""
    if headers.get("content-type") != JSON or "ce-type" not in headers:
        if _may_be_enveloped(headers, MARK):  # some body may be, so this is worth decompressing
            body = readable(headers, body)
        found = from_structured(body).id if _may_be_enveloped(headers, body) else None
        if found is not None:
            return found
    said = headers.get("ce-id")
    if said and "%" not in said and '"' not in said:  # the usual case
        return said
    return decoded(said) or None if said else None


def describes_itself(headers: Mapping[str, str], body: bytes) -> bool:
    """Return whether a body may be an event without any headers that describe it.

    It may if it is an envelope, or has a type and a version. A `type` alone may be a field.
    """
    try:
        said = _look(readable(headers, body))
    except (ValueError, RecursionError):
        return True
    return isinstance(said.type, str) and (
        said.specversion is not None
        or (isinstance(said.version, int) and not isinstance(said.version, bool))
    )


def _may_be_enveloped(headers: Mapping[str, str], body: bytes) -> bool:
    described = "ce-type" in headers
    content_type = headers.get("content-type")
    if content_type == JSON and described:  # the usual case
        return False
    if content_type is None:
        content_type = attribute(headers, "datacontenttype") or ""
    if content_type[: len(CLOUDEVENT)].lower() == CLOUDEVENT:
        return True
    return not described and MARK in body


class _Described(msgspec.Struct):
    type: object = None
    version: object = None
    specversion: object = None


_look = msgspec.json.Decoder(_Described).decode


class _InvalidEnvelopeError(ValueError):
    """A body that looks like an envelope but is invalid; the text says why."""


def _open(data: bytes) -> Envelope:
    attributes, body, plain = _parts(data)
    if "specversion" not in attributes:
        raise ValueError
    for name in REQUIRED:
        value = attributes.get(name)
        if not isinstance(value, str) or not value:
            what = f"its `{name}` is {value!r}" if name in attributes else f"it has no `{name}`"
            raise _InvalidEnvelopeError(f"{what}: it must be a non-empty string")
    if not attributes["specversion"].startswith("1."):
        version = attributes["specversion"]
        raise _InvalidEnvelopeError(f"its `specversion` is {version!r}: only 1.x is supported")
    content_type = attributes.pop("datacontenttype", None)
    content_type = JSON if content_type is None else _canonical("datacontenttype", content_type)
    body = _data_of(attributes.pop("data_base64", None), body, content_type)
    headers = _other_headers(attributes)
    for name, value in attributes.items():
        header = _header_of(name)
        if header is not None and value is not None:
            text = value if type(value) is str else _canonical(name, value)
            headers[header] = text if plain else encode_value(text)
    headers["content-type"] = content_type
    key = attributes.get("partitionkey")
    key = None if key is None else _canonical("partitionkey", key)
    return Envelope(attributes["id"], headers, body, key)


def _data_of(encoded: object, data: bytes | None, content_type: str) -> bytes:
    """Return the body from `data_base64` or `data`, or an empty one."""
    if encoded is not None:
        try:
            if isinstance(encoded, str):
                return b64decode(encoded, validate=True)
        except ValueError:
            pass
        raise _InvalidEnvelopeError("its `data_base64` is not base64")
    if data is None or data == b"null":
        return b""
    if content_type == JSON or _is_json_type(content_type):
        return data
    try:
        return msgspec.json.decode(data, type=str).encode()
    except ValueError:
        raise _InvalidEnvelopeError(
            f"its `data` is not a string, as its `datacontenttype` {content_type!r} requires"
        ) from None


def _parts(data: bytes) -> tuple[dict[str, Any], bytes | None, bool]:
    """Split an envelope into its attributes and the bytes of its `data`.

    The last result is true if the strings among the attributes need no encoding, as usual.

    Raises:
        ValueError: it is not a JSON object.
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
    """Remove this package's extension from the attributes; a foreign one of that name stays."""
    if HEADERS not in attributes:
        return {}
    try:
        headers = _decode_headers(attributes[HEADERS])
    except (TypeError, msgspec.DecodeError):
        return {}
    del attributes[HEADERS]
    return headers


def _canonical(name: str, value: object) -> str:
    """Return an attribute's value as text (CloudEvents 1.0.2, section 2.4, type system)."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise _InvalidEnvelopeError(
        f"its attribute `{name}` must be a string, a number or a boolean, not {value!r}"
    )


def _is_object(body: bytes) -> bool:
    """Return whether an envelope can carry these bytes unchanged."""
    if not (body.startswith(b"{") and body.endswith(b"}")):
        return False
    try:
        _skip(body)
        # msgspec does not check the encoding of strings that it skips.
        return body.isascii() or bool(body.decode())
    except (ValueError, RecursionError):
        return False


def _is_json_type(content_type: str) -> bool:
    """JSON event format 1.0.2, section 3.1.1: `*/json` or `*/*+json`, whatever the parameters."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type.endswith(("/json", "+json"))
