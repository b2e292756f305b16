"""The map of a catalog: who sends which events where, and who reads them there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from events.contracts.catalog.layout import Map, laid_out
from events.contracts.catalog.model import Catalog, Event


def map_of(
    catalog: Catalog,
    events: Sequence[Event],
    link: Callable[[str, str], str],
    topic: str | None = None,
) -> Map:
    """Draw these events, of one topic if it is given. `link` is called with a kind and a key."""
    senders: dict[str, tuple[str, str, str, str]] = {}
    topics: dict[str, tuple[str, str, str, str]] = {}
    readers: dict[str, tuple[str, str, str, str]] = {}
    edges: list[tuple[str, str]] = []
    ends: list[tuple[str, str, str | None]] = []
    ends += [(s, t, None) for e in events for s, t, _ in e.sent]
    ends += [(s, t, c) for e in events for s, c, t, _, _ in e.read]
    for service, name, consumer in ends:
        if topic is not None and name != topic:
            continue
        to = f"topic:{name}"
        topics[to] = ("topic", name, "", link("topic", catalog.topics[name].key))
        if consumer is None:
            one, of = f"service:{service}", catalog.services[service]
            senders[one] = ("service", service, of.owner, link("service", of.key))
            edges.append((one, to))
        else:
            one, key = f"consumer:{service}:{consumer}", catalog.consumers[service, consumer].key
            readers[one] = ("consumer", consumer, service, link("consumer", key))
            edges.append((to, one))
    return laid_out([each for each in (senders, topics, readers) if each], edges)
