"""`llms.txt` and `llms-full.txt`, for tools that read: a list of the pages, and their whole text.

Both are made of the pages as they are written, whose snippets are tested. The pages come in the
order of the table of contents. What a directive fills in from the code is left to the page itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

INVISIBLE = re.compile(r"<!--.*?-->\n*", re.DOTALL)
DIRECTIVE = re.compile(r"^(`{3,}|:{3,})\{([\w-]+)\}.*?^\1$\n*", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
NO_HELP = re.compile(r"index$|decisions/")  # the beginning, and why others were not taken
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def plain(text: str) -> str:
    """Return the Markdown of a page without comments and directives."""
    return DIRECTIVE.sub("", INVISIBLE.sub("", text)).strip() + "\n"


def title(text: str) -> str:
    """Return the first heading."""
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    return found[1] if found else ""


def summary(text: str) -> str:
    """Return the first sentence below the first heading, without its links."""
    below = FENCE.sub("", plain(text)).partition(f"# {title(text)}\n")[2]
    paragraphs = (part.strip() for part in below.split("\n\n"))
    first = next((part for part in paragraphs if part and part[0] not in "#|-!"), "")
    sentence = re.split(r"(?<=[.?])\s", " ".join(first.split()), maxsplit=1)[0]
    return LINK.sub(r"\1", sentence).removesuffix(":")


def in_order(env: BuildEnvironment, page: str) -> Iterator[str]:
    """Give the page and all below it, as the table of contents has them."""
    yield page
    for below in env.toctree_includes.get(page, ()):
        yield from in_order(env, below)


def write(app: Sphinx, error: Exception | None) -> None:
    """Write both files beside the pages."""
    if error is not None or app.builder.name != "html":
        return
    pages = [page for page in in_order(app.env, "index") if not NO_HELP.match(page)]
    texts = {page: app.env.doc2path(page).read_text(encoding="utf-8") for page in pages}
    start = app.env.doc2path("index").read_text(encoding="utf-8")
    head = f"# {title(start)}\n\n> {summary(start)}\n"

    listed = [head]
    for page, text in texts.items():
        section = page.partition("/")[0]
        if page == f"{section}/index":
            listed.append(f"\n## {title(text)}\n\n")
            continue
        said = summary(text)
        listed.append(f"- [{title(text)}]({page}.html){f': {said}' if said else ''}\n")
    out = Path(app.outdir)
    (out / "llms.txt").write_text("".join(_with_start(listed)), encoding="utf-8")

    whole = [plain(start), *(f"<!-- {page}.html -->\n{plain(texts[page])}" for page in pages)]
    (out / "llms-full.txt").write_text("\n".join(whole), encoding="utf-8")


def _with_start(lines: list[str]) -> Iterator[str]:
    """Put a heading above the pages that stand in no section."""
    yield lines[0]
    if len(lines) > 1 and lines[1].startswith("- "):
        yield "\n## Start\n\n"
    yield from lines[1:]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("build-finished", write)
    return {"parallel_read_safe": True}
