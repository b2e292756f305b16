"""Upcasting: from an older version of an event to a newer one, step by step.

The class of version n+1 may define an `upcast` from version n. A chain of upcasters converts the
received version to a registered one. The classes of all versions in between must exist; the
received version needs no class.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from events.errors import InvalidEventError, MalformedEventError, UnknownEventError
from events.integration._class_checks import is_abstract
from events.integration._versioned import Versioned, VersionedT, Versions
from events.integration.codec import codec_of, malformed, read_exactly


def resolve(
    registry: Versions, type: str, version: int, wanted: Mapping[int, type[VersionedT]]
) -> tuple[type[VersionedT], Sequence[type[Versioned]]]:
    """Find the class for a version, and the classes whose upcasters lead to it, in order.

    The exact version takes precedence, then the nearest newer version that a chain reaches.

    Raises:
        UnknownEventError: there is no such class.
    """
    if version in wanted:
        return wanted[version], ()
    versions = registry.versions(type)
    for newer in sorted(wanted):
        if newer > version and (steps := _chain(versions, version, newer)) is not None:
            return wanted[newer], steps
    raise UnknownEventError(type, version, _why_unknown(versions, version, sorted(wanted)))


def upcast(
    payload: dict[str, Any],
    key: tuple[str, int],
    steps: Iterable[type[Versioned]],
) -> dict[str, Any]:
    """Pass a payload through upcasters, which may change it: pass a copy.

    Raises:
        InvalidEventError: an upcaster raised, or did not return a dict.
    """
    payload["type"], payload["version"] = key
    for step in steps:
        try:
            upcasted: object = step.upcast(payload)  # type: ignore[attr-defined]
        except Exception as exc:
            reason = f"upcasting it from version {step.version - 1} raised {exc!r}"
            raise InvalidEventError(step, "$", reason) from exc
        if not isinstance(upcasted, dict):
            reason = f"its `upcast` returned {upcasted!r}: return the payload, a dict"
            raise InvalidEventError(step, "$", reason)
        payload = {**upcasted, "type": step.type, "version": step.version}
    return payload


def event_from_payload(event_class: type[VersionedT], payload: Mapping[str, Any]) -> VersionedT:
    """See `IntegrationEvent.from_dict`."""
    target, steps, key = _found(event_class, payload)
    try:
        own = deepcopy(dict(payload))
    except RecursionError as exc:
        raise malformed(exc) from exc
    return codec_of(target).convert(upcast(own, key, steps) if steps else own)


def event_from_body(event_class: type[VersionedT], body: bytes) -> VersionedT:
    """Return the event of a body, as `IntegrationEvent.from_dict`, with all digits of numbers."""
    payload, exact = read_exactly(body)
    target, steps, key = _found(event_class, payload)
    return codec_of(target).convert(upcast(payload, key, steps) if steps else payload, exact=exact)


def _found(
    event_class: type[VersionedT], payload: Mapping[str, Any]
) -> tuple[type[VersionedT], Sequence[type[Versioned]], tuple[str, int]]:
    """Find the class for a payload, and the upcasters to it."""
    type_, version = key = _key_in(payload)
    wanted: dict[int, type[VersionedT]]
    if is_abstract(event_class):
        known = event_class.registry.versions(type_)
        wanted = {v: cls for v, cls in known.items() if issubclass(cls, event_class)}
    elif event_class.type == type_:
        wanted = {event_class.version: event_class}
    else:
        reason = f"{event_class.__qualname__} is {event_class.type!r}"
        raise UnknownEventError(type_, version, reason)
    return *resolve(event_class.registry, type_, version, wanted), key


def gaps(events: Iterable[type[Versioned]]) -> list[str]:
    """Return which older versions a registration cannot decode, each with the cure.

    Known versions are those with a class, and those for which an upcaster exists. A version that
    the registration names is not a gap. The result is empty if there is no gap.
    """
    wanted: defaultdict[str, dict[int, type[Versioned]]] = defaultdict(dict)
    for event_class in events:
        wanted[event_class.type][event_class.version] = event_class
    found: list[str] = []
    for type_, classes in wanted.items():
        newest = classes[max(classes)]
        versions = newest.registry.versions(type_)
        known = versions.keys() | {v - 1 for v, cls in versions.items() if has_upcaster(cls)}
        for version in sorted(known):
            if version > newest.version:
                continue
            try:
                resolve(newest.registry, type_, version, classes)
            except UnknownEventError as exc:
                found.append(str(exc))
    return found


def has_upcaster(event_class: type[Versioned]) -> bool:
    """Return whether a class defines `upcast` itself: an inherited one is its parent's."""
    return "upcast" in event_class.__dict__


def _chain(
    versions: Mapping[int, type[Versioned]], version: int, newer: int
) -> list[type[Versioned]] | None:
    steps: list[type[Versioned]] = []
    for between in range(newer, version, -1):
        step = versions.get(between)
        # Backwards, so that a version 1,000,000 in a foreign message ends at the first gap.
        if step is None or not has_upcaster(step):
            return None
        steps.append(step)
    return steps[::-1]


def _why_unknown(versions: Mapping[int, type[Versioned]], version: int, wanted: list[int]) -> str:
    if not wanted:
        return "no class here has this type: is the module that defines it imported?"
    newer = [known for known in wanted if known > version]
    if not newer:
        return (
            f"only older versions are known here ({_list(wanted)}): update this program, or have "
            f"the producer send an older version as well"
        )
    missing = version + 1
    while (step := versions.get(missing)) is not None and has_upcaster(step):
        missing += 1
    cure = "give it" if missing in versions else f"define a class for version {missing} with"
    who = f"{versions[missing].__qualname__}: " if missing in versions else ""
    return (
        f"it cannot be upcast to version {newer[0]}, no upcaster leads from {missing - 1} to "
        f"{missing}: {who}{cure} an `upcast` classmethod, or register version {version} as well"
    )


def _list(versions: Iterable[int]) -> str:
    return ", ".join(map(str, versions))


def _key_in(payload: Mapping[str, Any]) -> tuple[str, int]:
    """Return type and version.

    Raises:
        MalformedEventError: one is missing or has a wrong type.
    """
    if not isinstance(payload, Mapping):
        raise MalformedEventError(f"it must be a mapping, not {payload!r}")
    type_, version = payload.get("type"), payload.get("version")
    if not isinstance(type_, str):
        raise MalformedEventError(f"its `type` must be a string, not {type_!r}")
    if not isinstance(version, int) or isinstance(version, bool):
        raise MalformedEventError(f"the `version` of {type_!r} must be an integer, not {version!r}")
    return type_, version
