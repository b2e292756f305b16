"""What the catalog shows: the locks of all services, seen from each event, topic and consumer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from events.contracts.diff import inlined, schema_differences
from events.contracts.keys import keys_of
from events.contracts.lock import Lock
from events.integration.personal import MASK


@dataclass(frozen=True)
class Field:
    """A field of an event, nested ones by their path."""

    name: str
    type: str
    required: bool
    default: str | None
    description: str
    personal: bool


@dataclass
class Version:
    """A version of an event."""

    number: int
    title: str
    description: str
    fields: list[Field]
    example: Any
    schema: Mapping[str, Any]
    deprecated: str | None
    link: str | None
    source: str | None
    described_by: str
    changes: list[str] = field(default_factory=list[str])
    disagreeing: list[str] = field(default_factory=list[str])


@dataclass
class Event:
    """An event with all its versions, newest first."""

    type: str
    key: str = ""
    versions: list[Version] = field(default_factory=list[Version])
    sent: list[tuple[str, str, int]] = field(default_factory=list[tuple[str, str, int]])
    read: list[tuple[str, str, str, int, int]] = field(
        default_factory=list[tuple[str, str, str, int, int]]
    )

    @property
    def newest(self) -> Version:
        """The newest version."""
        return self.versions[0]

    @property
    def summary(self) -> str:
        """The first line of what it means."""
        return self.newest.description.partition("\n")[0]

    @property
    def readers(self) -> int:
        """How many consumers read it; two services may have one of the same name."""
        return len({(service, consumer) for service, consumer, *_ in self.read})

    @property
    def personal(self) -> bool:
        """Whether it holds personal data."""
        return any(each.personal for version in self.versions for each in version.fields)


@dataclass
class Service:
    """A service, as its lock says."""

    name: str
    key: str
    owner: str
    description: str
    sends: list[tuple[str, str]]
    consumers: list[str]


@dataclass
class Topic:
    """A topic, and who is at its two ends."""

    name: str
    key: str = ""
    events: set[str] = field(default_factory=set[str])
    senders: set[str] = field(default_factory=set[str])
    readers: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])


@dataclass
class Consumer:
    """A consumer of a service, and what it reads."""

    service: str
    name: str
    key: str = ""
    reads: list[tuple[str, str, int, int]] = field(default_factory=list[tuple[str, str, int, int]])


@dataclass
class Catalog:
    """All of it, by name."""

    services: dict[str, Service]
    events: dict[str, Event]
    topics: dict[str, Topic]
    consumers: dict[tuple[str, str], Consumer]


def catalog_of(locks: Sequence[Lock]) -> Catalog:
    """Put locks together. Where two describe a version, the one that sends it is right."""
    catalog = Catalog({}, {}, {}, {})
    names = [lock["service"].get("name", "a service") for lock in locks]
    for key, name, lock in zip(keys_of(names), names, locks, strict=True):
        about = lock["service"]
        sends = [(topic, type_) for topic, types in lock["sends"].items() for type_ in types]
        owner, description = about.get("owner", ""), about.get("description", "")
        catalog.services[name] = Service(
            name, key, owner, description, sorted(sends), sorted(lock["consumers"])
        )
        _add_events(catalog, name, lock)
        _add_sent(catalog, name, lock)
        _add_read(catalog, name, lock)
    for named in (catalog.events, catalog.topics):
        for key, name in zip(keys_of(sorted(named)), sorted(named), strict=True):
            named[name].key = key
    consumers = sorted(catalog.consumers)
    keys = keys_of([f"{service}.{name}" for service, name in consumers])
    for key, which in zip(keys, consumers, strict=True):
        catalog.consumers[which].key = key
    _compare(catalog)
    return catalog


def _add_events(catalog: Catalog, service: str, lock: Lock) -> None:
    sent = {
        (type_, number)
        for types in lock["sends"].values()
        for type_, numbers in types.items()
        for number in numbers
    }
    for type_, versions in lock["events"].items():
        event = catalog.events.setdefault(type_, Event(type_))
        for number, described in versions.items():
            made = _version(int(number), described, service, lock)
            others = [each for each in event.versions if each.number == made.number]
            for other in others:
                if _form(other.schema) != _form(made.schema):
                    both = [*other.disagreeing, service, other.described_by]
                    other.disagreeing = made.disagreeing = sorted(set(both))
            if not others:
                event.versions.append(made)
            elif (type_, made.number) in sent:
                event.versions[event.versions.index(others[0])] = made
        event.versions.sort(key=lambda each: -each.number)


def _version(
    number: int, described: Mapping[str, Any], service: str, lock: Mapping[str, Any]
) -> Version:
    schema = described["schema"]
    source = described.get("source")
    repository = lock["service"].get("repository", "").rstrip("/")
    whole = inlined(schema)
    return Version(
        number=number,
        title=schema.get("title", ""),
        description=schema.get("description", ""),
        fields=list(_fields(whole, "")),
        example=without_personal(described.get("example"), whole),
        schema=schema,
        deprecated=described.get("deprecated"),
        link=f"{repository}/{source}" if repository.startswith("https://") and source else None,
        source=source,
        described_by=service,
    )


def _add_sent(catalog: Catalog, service: str, lock: Lock) -> None:
    for name, types in lock["sends"].items():
        topic = catalog.topics.setdefault(name, Topic(name))
        topic.senders.add(service)
        for type_, numbers in types.items():
            topic.events.add(type_)
            event = catalog.events.setdefault(type_, Event(type_))
            event.sent += [(service, name, number) for number in numbers]


def _add_read(catalog: Catalog, service: str, lock: Lock) -> None:
    for name, topics in lock["consumers"].items():
        consumer = catalog.consumers.setdefault((service, name), Consumer(service, name))
        for topic_name, types in topics.items():
            topic = catalog.topics.setdefault(topic_name, Topic(topic_name))
            topic.readers.add((service, name))
            for type_, reads in types.items():
                topic.events.add(type_)
                event = catalog.events.setdefault(type_, Event(type_))
                for number, wanted in reads.items():
                    event.read.append((service, name, topic_name, int(number), wanted))
                    consumer.reads.append((topic_name, type_, int(number), wanted))


def _compare(catalog: Catalog) -> None:
    for type_ in [name for name, event in catalog.events.items() if not event.versions]:
        del catalog.events[type_]
    for topic in catalog.topics.values():
        topic.events &= catalog.events.keys()
    for event in catalog.events.values():
        for newer, older in zip(event.versions, event.versions[1:], strict=False):
            found = schema_differences(older.schema, newer.schema)
            newer.changes = [each for each in found if not each.startswith("$.version:")]


def _form(schema: Any) -> str:
    """Return the part of a schema that matters to readers."""

    def bare(each: Any) -> Any:
        if isinstance(each, list):
            return [bare(one) for one in cast("Sequence[Any]", each)]
        if isinstance(each, dict):
            members = cast("dict[str, Any]", each)
            return {k: bare(v) for k, v in members.items() if k not in {"title", "description"}}
        return each

    return json.dumps(bare(inlined(schema)), sort_keys=True)


def _fields(schema: Mapping[str, Any], path: str) -> Iterable[Field]:
    required = schema.get("required", ())
    for name, each in schema.get("properties", {}).items():
        if not path and name in {"type", "version"}:
            continue
        default = json.dumps(each["default"], ensure_ascii=False) if "default" in each else None
        yield Field(
            f"{path}{name}",
            _type(each),
            name in required,
            default,
            each.get("description", ""),
            _is_personal(each),
        )
        yield from _inner(each, f"{path}{name}")


def _inner(schema: Mapping[str, Any], path: str) -> Iterable[Field]:
    if "properties" in schema:
        yield from _fields(schema, f"{path}.")
    for option in schema.get("anyOf", ()):
        yield from _inner(option, path)
    for name, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(schema.get(name), dict):
            yield from _inner(schema[name], f"{path}{mark}")


def _type(schema: Mapping[str, Any]) -> str:
    if options := schema.get("anyOf"):
        return " or ".join(_type(each) for each in options)
    if "const" in schema:
        return json.dumps(schema["const"])
    if values := schema.get("enum"):
        return " or ".join(json.dumps(each, ensure_ascii=False) for each in values)
    kind = schema.get("format") or schema.get("type") or schema.get("title") or "anything"
    if "properties" in schema and schema.get("title"):
        kind = schema["title"]
    if isinstance(items := schema.get("items"), dict):
        return f"list of {_type(cast('dict[str, Any]', items))}"
    if isinstance(others := schema.get("additionalProperties"), dict):
        return f"map of {_type(cast('dict[str, Any]', others))}"
    if schema.get("contentEncoding"):
        kind = "bytes, base64"
    return str(kind).rpartition("/")[2]


def _is_personal(schema: Mapping[str, Any]) -> bool:
    if schema.get("x-pii"):
        return True
    parts = [schema.get(name) for name in ("items", "additionalProperties", "propertyNames")]
    parts += [*_options(schema), *schema.get("prefixItems", ())]
    return any(_is_personal(cast("Any", each)) for each in parts if isinstance(each, dict))


def _options(schema: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """Return the schemas that a value fits beside this one: one of them, or all."""
    for name in ("anyOf", "oneOf", "allOf"):
        for each in schema.get(name, ()):
            if isinstance(each, dict):
                yield cast("dict[str, Any]", each)
                yield from _options(cast("dict[str, Any]", each))


def without_personal(value: Any, given: Any, *, unknown: str | None = None) -> Any:
    """Return a JSON value with what its inlined schema marks as personal masked.

    `unknown` takes the place of members that the schema does not name, if given.
    """
    if value is None or not isinstance(given, Mapping):  # `true`, which says nothing
        return value
    schema = cast("Mapping[str, Any]", given)
    options = [schema, *_options(schema)]
    if any(each.get("x-pii") for each in options):
        return MASK
    if unknown is not None and any("$ref" in each for each in options):
        return unknown  # it holds itself, and is not spelt out
    types = [each.get("type") for each in options]
    names_are_personal = _first(options, "propertyNames").get("x-pii")
    if isinstance(value, dict) and "object" in types and not names_are_personal:
        return _members_without_personal(cast("dict[str, Any]", value), options, unknown)
    if isinstance(value, list) and "array" in types:
        held = cast("Sequence[Any]", value)
        of, places = _first(options, "items"), _first(options, "prefixItems")
        return [
            without_personal(each, places[index] if index < len(places) else of, unknown=unknown)
            for index, each in enumerate(held)
        ]
    return MASK if _holds_personal(schema) else cast("Any", value)


def _holds_personal(part: Any) -> bool:
    """Return whether anything in a part of a schema is marked."""
    if isinstance(part, Mapping):
        members = cast("Mapping[str, Any]", part)
        return bool(members.get("x-pii")) or any(map(_holds_personal, members.values()))
    return isinstance(part, list) and any(map(_holds_personal, cast("Sequence[Any]", part)))


def _members_without_personal(
    members: Mapping[str, Any], options: Sequence[Mapping[str, Any]], unknown: str | None
) -> dict[str, Any]:
    types: dict[str, Any] = {}
    for each in options:
        types |= each.get("properties", {})
    others = _first(options, "additionalProperties")
    names = members if others or not types or unknown is None else types
    return {
        name: without_personal(held, types.get(name, others), unknown=unknown)
        if name in names
        else unknown
        for name, held in members.items()
    }


def _first(options: Iterable[Mapping[str, Any]], name: str) -> Any:
    """Return the first member of this name that says something."""
    nothing: dict[str, Any] = {}
    return next((each[name] for each in options if each.get(name)), nothing)
