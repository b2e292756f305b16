"""An AsyncAPI 3.1 document of a service's contracts.

The document is made of the lock, so it says what the lock says. A topic is a channel, what is sent
or read there an operation, an event's version a message.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

from events.contracts.diff import inlined
from events.contracts.keys import keys_of
from events.contracts.lock import versions_in
from events.integration.brokering.urls import masked

_PROTOCOLS = {
    "amqp": "amqp",
    "amqps": "amqps",
    "redis": "redis",
    "rediss": "rediss",
    "nats": "nats",
    "tls": "nats",
    "kafka": "kafka",
}
_BINDINGS = {"amqp": "amqp", "amqps": "amqp", "redis": "redis", "rediss": "redis"}
_TEXT = {"type": "string", "minLength": 1}
_HEADERS: Mapping[str, Any] = {
    "ce-specversion": {"const": "1.0"},
    "ce-id": {**_TEXT, "description": "The event's id; the same on each retry."},
    "ce-source": {**_TEXT, "format": "uri-reference", "description": "The service that sent it."},
    "ce-time": {"type": "string", "format": "date-time", "description": "When it was encoded."},
    "ce-correlationid": {**_TEXT, "description": "The id of the first event of its chain."},
    "ce-causationid": {**_TEXT, "description": "The id of the event whose handler sent it."},
    "ce-partitionkey": {**_TEXT, "description": "The key; events with the same key are in order."},
    "ce-traceparent": {**_TEXT, "description": "The trace (W3C Trace Context)."},
    "traceparent": {**_TEXT, "description": "The trace (W3C Trace Context)."},
    "content-type": {"const": "application/json"},
}


def document(
    lock: Mapping[str, Any], *, version: str = "1.0.0", servers: Sequence[str] = ()
) -> dict[str, Any]:
    """Describe what a lock describes. `version` is the document's own; `servers` are URLs."""
    return _Document(lock, servers).made(version)


class _Document:
    def __init__(self, lock: Mapping[str, Any], servers: Sequence[str]) -> None:
        self._lock = lock
        self._servers = _servers(servers)
        protocols: list[str] = [each["protocol"] for each in self._servers.values()]
        self._protocols = sorted({_BINDINGS.get(each, each) for each in protocols})
        topics = {*lock["sends"], *(t for of in lock["consumers"].values() for t in of)}
        self._channels = dict(zip(sorted(topics), keys_of(sorted(topics)), strict=True))
        events = sorted(versions_in(lock))
        names = keys_of([f"{type_}.v{number}" for type_, number in events])
        self._messages = dict(zip(events, names, strict=True))
        self._schemas, self._definitions = self._hoisted()

    def made(self, version: str) -> dict[str, Any]:
        about = self._lock["service"]
        info: dict[str, Any] = {"title": about.get("name", "events"), "version": version}
        if description := about.get("description"):
            info["description"] = description
        if owner := about.get("owner"):
            info["contact"] = {"name": owner}
        made: dict[str, Any] = {
            "asyncapi": "3.1.0",
            "info": info,
            "defaultContentType": "application/json",
        }
        if self._servers:
            made["servers"] = self._servers
        made["channels"] = {key: self._channel(topic, key) for topic, key in self._channels.items()}
        made["operations"] = {**self._sending(), **self._receiving()}
        made["components"] = {
            "messages": {
                name: self._message(type_, number)
                for (type_, number), name in self._messages.items()
            },
            "schemas": {**self._schemas, **self._definitions},
        }
        return made

    # --- channels and operations --------------------------------------------------------------

    def _channel(self, topic: str, key: str) -> dict[str, Any]:
        carried = set(_pairs(self._lock["sends"].get(topic, {})))
        for topics in self._lock["consumers"].values():
            carried.update(_pairs(topics.get(topic, {})))
        channel: dict[str, Any] = {"address": topic, "title": topic} if topic != key else {}
        channel["address"] = topic
        channel["messages"] = {
            self._messages[each]: {"$ref": f"#/components/messages/{self._messages[each]}"}
            for each in sorted(carried)
            if each in self._messages
        }
        bindings = {
            "amqp": {
                "is": "routingKey",
                "exchange": {"name": topic, "type": "direct", "durable": True, "autoDelete": False},
                "bindingVersion": "0.3.0",
            },
            "kafka": {"topic": topic, "bindingVersion": "0.5.0"},
        }
        return self._bound(channel, bindings)

    def _sending(self) -> dict[str, Any]:
        return {
            f"send.{self._channels[topic]}": self._bound(
                self._operation("send", topic, _pairs(types)),
                {"amqp": {"deliveryMode": 2, "bindingVersion": "0.3.0"}},
            )
            for topic, types in sorted(self._lock["sends"].items())
        }

    def _receiving(self) -> dict[str, Any]:
        given = [
            (name, topic, types)
            for name, topics in sorted(self._lock["consumers"].items())
            for topic, types in sorted(topics.items())
        ]
        keys = keys_of([f"receive.{name}.{topic}" for name, topic, _ in given])
        operations: dict[str, Any] = {}
        for key, (name, topic, types) in zip(keys, given, strict=True):
            operation = self._operation("receive", topic, _pairs(types))
            operation["title"] = name
            bindings: dict[str, Any] = {
                "amqp": {"ack": True, "bindingVersion": "0.3.0"},
                "nats": {"queue": name, "bindingVersion": "0.1.0"},
                "kafka": {
                    "groupId": {"type": "string", "enum": [name]},
                    "bindingVersion": "0.5.0",
                },
            }
            operations[key] = self._bound(operation, bindings)
        return operations

    def _operation(
        self, action: str, topic: str, events: Iterable[tuple[str, int]]
    ) -> dict[str, Any]:
        channel = f"#/channels/{self._channels[topic]}"
        return {
            "action": action,
            "channel": {"$ref": channel},
            "messages": [
                {"$ref": f"{channel}/messages/{self._messages[each]}"}
                for each in sorted(events)
                if each in self._messages
            ],
        }

    def _bound(self, subject: dict[str, Any], bindings: Mapping[str, Any]) -> dict[str, Any]:
        """Add the bindings of the protocols that the servers speak; redis has but empty ones."""
        found = {each: bindings[each] for each in self._protocols if each in bindings}
        if found:
            subject["bindings"] = found
        return subject

    # --- messages and schemas -----------------------------------------------------------------

    def _message(self, type_: str, version: int) -> dict[str, Any]:
        described = self._lock["events"][type_][str(version)]
        name = self._messages[type_, version]
        schema = described["schema"]
        message: dict[str, Any] = {
            "name": type_,
            "title": f"{schema.get('title', type_)}, version {version}",
            "contentType": "application/json",
            "headers": {
                "type": "object",
                "properties": {
                    **_HEADERS,
                    "ce-type": {"const": type_},
                    "ce-eventversion": {"const": str(version)},
                },
                "required": ["ce-id", "ce-source", "ce-specversion", "ce-type"],
            },
            "payload": {"$ref": f"#/components/schemas/{name}"},
            "x-event-version": version,
        }
        if description := schema.get("description"):
            message["summary"] = description.partition("\n")[0]
            message["description"] = description
        if reason := described.get("deprecated"):
            message["deprecated"] = True
            message["x-deprecated"] = reason
        if "example" in described:
            message["examples"] = [{"name": "example", "payload": described["example"]}]
        return message

    def _hoisted(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Put definitions beside the payloads. Different ones of one name keep their event's."""
        forms: dict[str, set[str]] = defaultdict(set)
        for each in self._messages:
            schema = self._schema(each)
            for name in schema.get("$defs", ()):
                whole = inlined({"$ref": f"#/$defs/{name}", "$defs": schema["$defs"]})
                forms[name].add(json.dumps(whole, sort_keys=True))
        schemas: dict[str, Any] = {}
        definitions: dict[str, Any] = {}
        taken = set(self._messages.values())
        for each, key in self._messages.items():
            schema = self._schema(each)
            names: dict[str, str] = {}
            for name in schema.get("$defs", ()):
                alone = len(forms[name]) == 1 and name not in taken
                names[name] = name if alone else f"{key}.{name}"
            for name, definition in schema.get("$defs", {}).items():
                definitions[names[name]] = _translated(definition, names)
            top = {name: value for name, value in schema.items() if name != "$defs"}
            schemas[key] = _translated(top, names)
            if self._lock["events"][each[0]][str(each[1])].get("deprecated"):
                schemas[key]["deprecated"] = True
        return schemas, dict(sorted(definitions.items()))

    def _schema(self, event: tuple[str, int]) -> dict[str, Any]:
        schema: dict[str, Any] = self._lock["events"][event[0]][str(event[1])]["schema"]
        return schema


def _translated(given: Any, names: Mapping[str, str]) -> Any:
    """Write a schema as AsyncAPI's dialect has it, which is that of draft 7."""
    if isinstance(given, list):
        return [_translated(each, names) for each in cast("Sequence[Any]", given)]
    if not isinstance(given, dict):
        return given
    schema = dict(cast("dict[str, Any]", given))
    if places := schema.pop("prefixItems", None):
        schema["items"] = places
        schema["additionalItems"] = False
    if isinstance(tag := schema.get("discriminator"), dict):
        schema["discriminator"] = tag["propertyName"]
    reference = schema.pop("$ref", None)
    made: dict[str, Any] = {
        name: value
        if name in {"const", "enum", "default", "examples"}
        else {each: _translated(of, names) for each, of in value.items()}
        if name == "properties"
        else _translated(value, names)
        for name, value in schema.items()
    }
    if reference is None:
        return made
    target = {"$ref": f"#/components/schemas/{names[reference.removeprefix('#/$defs/')]}"}
    # Draft 7 ignores what stands beside a reference.
    return {"allOf": [target], **made} if made else target


def _pairs(types: Mapping[str, Iterable[int | str]]) -> list[tuple[str, int]]:
    return [(type_, int(version)) for type_, versions in types.items() for version in versions]


def _servers(urls: Sequence[str]) -> dict[str, Any]:
    servers: dict[str, Any] = {}
    for key, url in zip(
        keys_of([urlsplit(masked(u)).scheme or "amqp" for u in urls]), urls, strict=True
    ):
        parts = urlsplit(masked(url))
        server: dict[str, Any] = {
            "host": parts.netloc.rpartition("@")[2] or parts.path,
            "protocol": _PROTOCOLS.get(parts.scheme, parts.scheme or "amqp"),
            "description": masked(url),
        }
        if parts.path.strip("/"):
            server["pathname"] = parts.path
        servers[key] = server
    return servers
