"""The topology: topics, consumers, types and versions, as text, JSON and Mermaid."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from msgspec import Struct

from events.errors import UnknownEventError
from events.integration.event import IntegrationEvent
from events.integration.topology import IntegrationEventBusRegistration
from events.integration.upcasting import has_upcaster, resolve


class ConsumedType(Struct, frozen=True, kw_only=True):
    """An event type that a consumer reads, with its versions and the older ones it upcasts."""

    type: str
    versions: tuple[int, ...]
    upcast: tuple[int, ...]


class ConsumerTopology(Struct, frozen=True, kw_only=True):
    """One registration. `attempts` is None if the bus's retry policy applies."""

    consumer: str
    topic: str
    types: tuple[ConsumedType, ...]
    concurrency: int
    ordered: bool
    attempts: int | None


def topology(registrations: Iterable[IntegrationEventBusRegistration]) -> list[ConsumerTopology]:
    """Return the registrations of a bus, by topic and consumer. The bus need not be started."""
    found = [
        ConsumerTopology(
            consumer=each.consumer.name,
            topic=each.topic.name,
            types=tuple(_types(each.events)),
            concurrency=each.concurrency,
            ordered=each.concurrency == 1 or each.order_by is not None,
            attempts=None if each.retry is None else each.retry.attempts,
        )
        for each in registrations
    ]
    return sorted(found, key=lambda each: (each.topic, each.consumer))


def _types(events: Iterable[type[IntegrationEvent]]) -> Iterable[ConsumedType]:
    by_type: defaultdict[str, dict[int, type[IntegrationEvent]]] = defaultdict(dict)
    for event in events:
        by_type[event.type][event.version] = event
    for type_, classes in sorted(by_type.items()):
        registry = classes[max(classes)].registry
        versions = registry.versions(type_)
        known = {*versions, *(v - 1 for v, cls in versions.items() if has_upcaster(cls))}
        older = known - classes.keys()
        upcast = [v for v in sorted(older) if v < max(classes) and _resolves(v, type_, classes)]
        yield ConsumedType(type=type_, versions=tuple(sorted(classes)), upcast=tuple(upcast))


def _resolves(version: int, type_: str, classes: dict[int, type[IntegrationEvent]]) -> bool:
    try:
        resolve(classes[max(classes)].registry, type_, version, classes)
    except UnknownEventError:
        return False
    return True


def _label(consumed: ConsumedType) -> str:
    label = f"{consumed.type} {', '.join(f'v{version}' for version in consumed.versions)}"
    if consumed.upcast:
        label += f" (and {', '.join(f'v{version}' for version in consumed.upcast)}, upcast)"
    return label


def to_text(consumers: Iterable[ConsumerTopology]) -> str:
    """Return the topology for people, by topic."""
    lines: list[str] = []
    topic: str | None = None
    for each in consumers:
        if each.topic != topic:
            topic = each.topic
            lines.append(f"topic {topic}")
        order = "in order" if each.ordered else "in any order"
        attempts = "" if each.attempts is None else f", attempts {each.attempts}"
        lines.append(f"  consumer {each.consumer}: {each.concurrency} at once, {order}{attempts}")
        lines += [f"    {_label(consumed)}" for consumed in each.types]
    return "\n".join(lines)


def to_mermaid(consumers: Iterable[ConsumerTopology]) -> str:
    """Return the topology as a flowchart of Mermaid."""
    topics: dict[str, str] = {}
    names: dict[str, str] = {}
    edges: list[str] = []
    for each in consumers:
        topic = topics.setdefault(each.topic, f"t{len(topics)}")
        consumer = names.setdefault(each.consumer, f"c{len(names)}")
        label = "<br>".join(_quoted(_label(consumed)) for consumed in each.types)
        edges.append(f'    {topic} -- "{label}" --> {consumer}')
    return "\n".join(
        [
            "flowchart LR",
            *(f'    {node}[("{_quoted(name)}")]' for name, node in topics.items()),
            *(f'    {node}["{_quoted(name)}"]' for name, node in names.items()),
            *edges,
        ]
    )


def _quoted(text: str) -> str:
    """Return a text for Mermaid, with special characters as numeric entities."""
    return "".join(c if c.isalnum() or c in " ._-,():" else f"#{ord(c)};" for c in text)
