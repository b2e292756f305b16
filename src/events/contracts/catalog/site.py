"""The pages of the catalog, written into a folder. They load nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from events.contracts.catalog.layout import Map
from events.contracts.catalog.maps import map_of
from events.contracts.catalog.model import Catalog, Event, catalog_of
from events.contracts.lock import Lock
from events.errors import MissingExtraError

try:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    from pygments import highlight, lexers
    from pygments.formatters import HtmlFormatter
except ImportError as error:
    raise MissingExtraError(__name__, "catalog") from error

_HERE = Path(__file__).parent
_LONGEST = 26  # characters in a box
_lexer: Any = cast("Any", lexers).JsonLexer()
_formatter: Any = cast("Any", HtmlFormatter)()


def write_site(locks: Sequence[Lock], folder: Path) -> int:
    """Write the site of these locks into a folder, and return how many pages it has."""
    return _Site(catalog_of(locks), folder).write()


class _Site:
    def __init__(self, catalog: Catalog, folder: Path) -> None:
        self._catalog, self._folder = catalog, folder
        self._pages = 0
        self._environment = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters["json"] = _highlighted
        self._environment.filters["short"] = _short

    def write(self) -> int:
        catalog = self._catalog
        events = sorted(catalog.events.values(), key=lambda each: each.type)
        self._page("index.html", "events.html", "events", events=events)
        self._page("map.html", "map.html", "map", drawn=self._map(events))
        self._page("topics.html", "topics.html", "topics")
        self._page("consumers.html", "consumers.html", "consumers")
        self._page("services.html", "services.html", "services")
        for event in events:
            drawn = self._map([event])
            self._page(f"events/{event.key}.html", "event.html", "events", event=event, drawn=drawn)
        for topic in catalog.topics.values():
            of = [catalog.events[each] for each in sorted(topic.events)]
            drawn = self._map(of, topic.name)
            self._page(f"topics/{topic.key}.html", "topic.html", "topics", topic=topic, drawn=drawn)
        for consumer in catalog.consumers.values():
            self._page(
                f"consumers/{consumer.key}.html", "consumer.html", "consumers", consumer=consumer
            )
        for service in catalog.services.values():
            self._page(f"services/{service.key}.html", "service.html", "services", service=service)
        for file in sorted((_HERE / "static").iterdir()):
            (self._folder / file.name).write_bytes(file.read_bytes())
        style: str = _formatter.get_style_defs(".highlight")
        (self._folder / "code.css").write_text(f"{style}\n", encoding="utf-8")
        # A script and no JSON: a page that is opened as a file may not fetch.
        found = json.dumps(list(self._found()), ensure_ascii=False).replace("</", "<\\/")
        (self._folder / "search-index.js").write_text(f"const INDEX = {found};\n", encoding="utf-8")
        return self._pages

    def _page(self, path: str, template: str, section: str, **values: Any) -> None:
        file = self._folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        root = "../" * path.count("/")
        rendered = self._environment.get_template(template).render(
            catalog=self._catalog, root=root, section=section, **values
        )
        file.write_text(rendered, encoding="utf-8")
        self._pages += 1

    def _map(self, events: Sequence[Event], topic: str | None = None) -> Map:
        return map_of(self._catalog, events, lambda kind, key: f"{kind}s/{key}.html", topic)

    def _found(self) -> Iterable[dict[str, str]]:
        """Return what the search finds: names, and the words of events and their fields."""
        catalog = self._catalog
        for event in catalog.events.values():
            fields = " ".join(each.name for version in event.versions for each in version.fields)
            words = f"{event.newest.description} {event.newest.title} {fields}"
            yield _entry("event", event.type, f"events/{event.key}.html", words)
        for topic in catalog.topics.values():
            yield _entry("topic", topic.name, f"topics/{topic.key}.html", "")
        for consumer in catalog.consumers.values():
            link = f"consumers/{consumer.key}.html"
            yield _entry("consumer", consumer.name, link, consumer.service)
        for service in catalog.services.values():
            words = f"{service.owner} {service.description}"
            yield _entry("service", service.name, f"services/{service.key}.html", words)


def _entry(kind: str, name: str, link: str, words: str) -> dict[str, str]:
    return {"kind": kind, "name": name, "link": link, "words": " ".join(words.lower().split())}


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _highlighted(value: object) -> Markup:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return Markup(highlight(text, _lexer, _formatter))  # noqa: S704 - it escapes
