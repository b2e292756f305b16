"""Check the built documentation: `python scripts/check_site.py build/docs tests/public_api.txt`.

- no page loads anything from another host: no script, style, font, image or frame;
- each link to a page of the site, and each anchor in it, is there; other hosts are not asked;
- every public name has an entry in the inventory, which leads to an anchor that is there.

It prints what is wrong, one line each, and ends with status 1 if anything is.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {
    ("script", "src"),
    ("img", "src"),
    ("img", "srcset"),
    ("iframe", "src"),
    ("source", "src"),
    ("source", "srcset"),
    ("video", "src"),
    ("audio", "src"),
    ("embed", "src"),
    ("object", "data"),
    ("image", "href"),
    ("use", "href"),
}
LOADS_NOTHING = frozenset({"alternate", "author", "canonical", "index", "license", "next", "prev"})
IN_CSS = re.compile(r"""url\(\s*['"]?([^'")]+)|@import\s+['"]([^'"]+)""")


class Page(HTMLParser):
    """What one page loads, links to, and can be linked at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See `HTMLParser`."""
        given = {name: value or "" for name, value in attrs}
        self._in_style = tag == "style"
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        self.loads += [value for name, value in given.items() if (tag, name) in LOADS]
        if "style" in given:
            self.loads += in_css(given["style"])
        if tag == "link" and not LOADS_NOTHING & set(given.get("rel", "").split()):
            self.loads.append(given.get("href", ""))
        elif tag in {"a", "link"} and "href" in given:
            self.links.append(given["href"])

    def handle_data(self, data: str) -> None:
        """See `HTMLParser`."""
        if self._in_style:
            self.loads += in_css(data)

    def handle_endtag(self, tag: str) -> None:
        """See `HTMLParser`."""
        self._in_style = self._in_style and tag != "style"


def in_css(text: str) -> list[str]:
    """Give what a style sheet loads."""
    return [first or second for first, second in IN_CSS.findall(text)]


def is_elsewhere(url: str) -> bool:
    """Tell whether a URL leads to another host."""
    parts = urlsplit(url)
    return bool(parts.netloc) or parts.scheme in {"http", "https"}


def faults(site: Path) -> Iterator[str]:
    """Give what is wrong with the pages and style sheets below a folder."""
    site = site.resolve()
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site} holds no page"
    loads = [(path, url) for path, page in pages.items() for url in page.loads]
    links = [(path, url) for path, page in pages.items() for url in page.links]
    for path in sorted(site.rglob("*.css")):
        loads += [(path, url) for url in in_css(path.read_text(encoding="utf-8"))]
    for path, url in loads:
        if is_elsewhere(url):
            yield f"{path.relative_to(site)} loads {url} from another host"
    for path, url in loads + links:
        if not (urlsplit(url).scheme or is_elsewhere(url)):
            yield from missing(site, path, url, pages)


def missing(site: Path, path: Path, url: str, pages: dict[Path, Page]) -> Iterator[str]:
    """Say what a link within the site leads to, if it leads nowhere."""
    parts = urlsplit(url)
    target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
    anchor = unquote(parts.fragment)
    name = path.relative_to(site)
    if not target.is_file() or not target.is_relative_to(site):
        yield f"{name} links to {url}, which is not there"
    elif anchor and target in pages and anchor not in pages[target].anchors:
        yield f"{name} links to {url}, which has no such anchor"


def inventory(site: Path) -> dict[str, str]:
    """Give the place of every Python name, as Sphinx writes it for other projects."""
    raw = (site / "objects.inv").read_bytes()
    text = zlib.decompress(raw.split(b"\n", 4)[4]).decode()
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, kind, _, place, _ = line.split(" ", 4)
        if kind.startswith("py:"):
            found[name] = place.replace("$", name)
    return found


def undescribed(site: Path, names: list[str]) -> Iterator[str]:
    """Give the names whose description is not in the site."""
    places = inventory(site)
    anchors: dict[Path, set[str]] = {}
    for name in names:
        if name not in places:
            yield f"{name} is public, and no page describes it"
            continue
        page, _, anchor = places[name].partition("#")
        path = site / page
        if path not in anchors:
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
            anchors[path] = Page(text).anchors
        if anchor not in anchors[path]:
            yield f"{name} is described at {places[name]}, which is not there"


def main(site: Path, names: list[str]) -> int:
    """Print what is wrong, and return the exit status."""
    site = site.resolve()
    found = [*faults(site), *(undescribed(site, names) if names else ())]
    status = 1
    if not found:
        count = sum(1 for _ in site.rglob("*.html"))
        found.append(f"{count} pages: nothing from other hosts, and every link leads somewhere")
        status = 0
    print(*found, sep="\n")
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]).read_text(encoding="utf-8").split()))
