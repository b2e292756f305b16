"""The lock file: what events look like, who sends them where, and who reads them as what.

    {
      "lock": 1,
      "service": {"name": "shop", "owner": "checkout", "description": "..."},
      "events": {"order.placed": {"1": {"schema": {...}, "example": {...}, "source": "..."}}},
      "sends": {"orders": {"order.placed": [1]}},
      "consumers": {"mails": {"orders": {"order.placed": {"1": 1}}}}
    }

Members are sorted, one to a line, so two branches that touch different events merge.
"""

from __future__ import annotations

import inspect
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

from events.contracts.payloads import payloads
from events.contracts.schemas import payload_schema
from events.contracts.service import Service
from events.errors import EventsError, UnknownEventError
from events.integration import IntegrationEvent, IntegrationEventBusRegistration
from events.integration.upcasting import resolve

Lock: TypeAlias = dict[str, Any]
Classes: TypeAlias = dict[tuple[str, int], type[IntegrationEvent]]

_FORMAT = 1


class LockFileError(EventsError):
    """A lock file cannot be used; the text names it, the place and the cure."""


def lock_of(service: Service) -> Lock:
    """Describe a service as it is in the code."""
    classes = classes_of(service)
    events: dict[str, dict[str, Any]] = defaultdict(dict)
    for (type_, version), event_class in classes.items():
        events[type_][str(version)] = _described(event_class, service)
    sends: dict[str, dict[str, list[int]]] = {}
    for topic, sent in service.sends.items():
        of_topic = sends.setdefault(topic.name, {})
        for each in sent:
            of_topic[each.type] = sorted({*of_topic.get(each.type, []), each.version})
    consumers: dict[str, Any] = {}
    for registration in service.consumes:
        reads = consumers.setdefault(registration.consumer.name, {})
        reads[registration.topic.name] = _reads(registration, classes)
    about = {"name": service.name, "owner": service.owner, "description": service.description}
    about["repository"] = service.repository
    return {
        "lock": _FORMAT,
        "service": {name: value for name, value in about.items() if value},
        "events": dict(events),
        "sends": sends,
        "consumers": consumers,
    }


def dumps(lock: Lock) -> str:
    """Write a lock as its file has it: always the same for the same contracts."""
    ordered: dict[str, Any] = {name: _sorted(lock[name]) for name in ("lock", "service", "events")}
    ordered["sends"] = _sorted(lock["sends"])
    ordered["consumers"] = _sorted(lock["consumers"])
    return json.dumps(ordered, indent=2, ensure_ascii=False) + "\n"


def loads(text: str, name: str | Path) -> Lock:
    """Read a lock file.

    Raises:
        LockFileError: it is none. The text names the line.
    """
    try:
        lock: object = json.loads(text)
    except ValueError as error:
        cure = "resolve the merge conflict, or rewrite it with `events schema lock`"
        raise LockFileError(f"{name} is not JSON: {error}; {cure}") from None
    if not isinstance(lock, dict) or "lock" not in lock:
        raise LockFileError(f"{name} is not a lock file of events: it has no member `lock`")
    found = cast("Lock", lock)
    if found["lock"] != _FORMAT:
        raise LockFileError(
            f"{name} has format {found['lock']!r}, and this release reads {_FORMAT}: "
            f"update integration-events, or rewrite the file with `events schema lock`"
        )
    for member in ("service", "events", "sends", "consumers"):
        if not isinstance(found.get(member), dict):
            raise LockFileError(
                f"{name}: its `{member}` must be an object, not {found.get(member)!r}; "
                f"rewrite it with `events schema lock`"
            )
    return found


def classes_of(service: Service) -> Classes:
    """Return the classes of a service's contracts: what it sends and reads, and their versions."""
    named = [each for sent in service.sends.values() for each in sent]
    named += [each for registration in service.consumes for each in registration.events]
    classes: Classes = {}
    for each in named:
        for version, event_class in each.registry.versions(each.type).items():
            classes[each.type, version] = event_class
        classes[each.type, each.version] = each
    return dict(sorted(classes.items()))


def reader_class(
    registration: IntegrationEventBusRegistration, type_: str, version: int
) -> type[IntegrationEvent] | None:
    """Return the class as which a registration gets a version; None if it skips the type.

    Raises:
        UnknownEventError: it names the type and cannot read the version.
    """
    wanted = {each.version: each for each in registration.events if each.type == type_}
    if not wanted:
        return None
    registry = wanted[max(wanted)].registry
    return resolve(registry, type_, version, wanted)[0]


def sent_payloads(event_class: type[IntegrationEvent], service: Service) -> list[dict[str, Any]]:
    """Return examples of the class's events on the wire: generated, read and written by it.

    Values that the class's own checks refuse are left out.
    """
    schema = payload_schema(event_class)
    base = next((e.to_dict() for e in service.examples if type(e) is event_class), None)
    sent: list[dict[str, Any]] = [] if base is None else [base]
    for each in payloads(schema, base=base, complete=True):
        try:
            written = event_class.from_dict(each).to_dict()
        except EventsError:
            continue
        if written not in sent:
            sent.append(written)
    return sent


def _described(event_class: type[IntegrationEvent], service: Service) -> dict[str, Any]:
    described: dict[str, Any] = {"schema": payload_schema(event_class)}
    examples = sent_payloads(event_class, service)
    if not examples:
        raise LockFileError(
            f"{event_class.__qualname__} refuses every generated value: "
            f"add a valid example, as in Service(..., examples=[{event_class.__name__}(...)])"
        )
    described["example"] = examples[0]
    if reason := service.deprecated.get(event_class):
        described["deprecated"] = reason
    described["class"] = f"{event_class.__module__}.{event_class.__qualname__}"
    if source := _source(event_class):
        described["source"] = source
    return described


def _source(event_class: type) -> str | None:
    """Return the file of a class below the working directory; its line would change too often."""
    try:
        return Path(inspect.getfile(event_class)).relative_to(Path.cwd()).as_posix()
    except (TypeError, ValueError, OSError):
        return None


def _reads(
    registration: IntegrationEventBusRegistration, classes: Mapping[tuple[str, int], Any]
) -> dict[str, dict[str, int]]:
    reads: dict[str, dict[str, int]] = {}
    for type_ in {each.type for each in registration.events}:
        reads[type_] = {}
        newest = max(version for of, version in classes if of == type_)
        for version in range(1, newest + 1):
            try:
                reader = reader_class(registration, type_, version)
            except UnknownEventError:
                continue
            if reader is not None:
                reads[type_][str(version)] = reader.version
    return reads


def _sorted(value: Any) -> Any:
    """Sort members by name, versions as numbers; the order of properties and fields stays."""
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {
            name: members[name] if name in {"schema", "example"} else _sorted(members[name])
            for name in sorted(members, key=_in_order)
        }
    return value


def _in_order(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (0, name)


def versions_in(lock: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
    """Return each type and version that a lock describes."""
    return [(type_, int(version)) for type_, of in lock["events"].items() for version in of]
