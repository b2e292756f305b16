"""What the documentation is made of: docstrings as reStructuredText, and tables from the code."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from docs._ext.api import PLACES, placed
from docs._ext.docstrings import to_rst
from docs._ext.llms import title
from docs._ext.source import public_names, resolve
from docs._ext.tables import default_of, logged, meanings_in
from events.integration.implementation.base import BusOptions
from events.integration.implementation.nats import NatsIntegrationEventBus

ROOT = Path(__file__).parents[2]


def rst(docstring: str) -> str:
    return "\n".join(to_rst(dedent(docstring).strip("\n").splitlines())).strip()


@pytest.mark.parametrize(
    ("docstring", "language"),
    [
        ("Do it.\n\n    await bus.send(TOPIC, event)\n\n    again()\n", "python"),
        ("Do it.\n\n    >>> 1 + 1\n    2\n", "pycon"),
        ("Go round.\n\n    idle --poll--> read\n", "text"),
    ],
)
def test_an_indented_block_is_shown_as_it_stands(docstring: str, language: str) -> None:
    first, _, block = rst(docstring).partition("\n\n")
    assert first == docstring.partition("\n")[0]
    assert block.startswith(f".. code-block:: {language}\n\n    ")
    assert "    again()" in block or "again" not in docstring


def test_a_drawing_that_is_not_indented_is_one_all_the_same() -> None:
    drawn = rst("The way in.\n\ndelivery --> decoded\n    |------> Reject\n")
    assert drawn.endswith(
        ".. code-block:: text\n\n    delivery --> decoded\n        |------> Reject"
    )


def test_sections_and_lists_stay_as_they_are() -> None:
    docstring = "Do it.\n\n- one\n- two\n\nArgs:\n    size: How large,\n        in bytes.\n"
    assert rst(docstring) == docstring.strip()


def test_a_table_of_pipes_becomes_one() -> None:
    assert rst("| a | b |\n|---|---|\n| 1 | 2 |\n").splitlines()[-4:] == [
        "   * - a",
        "     - b",
        "   * - 1",
        "     - 2",
    ]


def test_meanings_are_read_from_arguments() -> None:
    docstring = "Do it.\n\nArgs:\n    size: how large,\n        in bytes.\n    **more: Others.\n"
    assert meanings_in(f"{docstring}\nRaises:\n    ValueError: never.") == {
        "size": "How large, in bytes.",
        "more": "Others.",
    }


def test_meanings_are_read_from_bullets_without_their_defaults() -> None:
    found = meanings_in(inspect.getdoc(BusOptions) or "")
    assert set(found) == set(BusOptions.__annotations__)
    assert found["send_timeout"] == "How long `send` waits for the broker."


def test_defaults_are_shown_as_one_would_write_them() -> None:
    parameters = inspect.signature(NatsIntegrationEventBus).parameters
    assert default_of(parameters["url"]) == "`'nats://localhost:4222'`"
    assert default_of(parameters["lease"]) == "`30.0`"
    assert default_of(inspect.signature(rst).parameters["docstring"]) == "required"


def test_log_lines_are_read_from_the_source() -> None:
    lines = {*logged("events.integration.pipeline")}
    assert ("warning", "… failed on … from topic …, attempt … of …, again in … s: …") in lines
    assert ("error", "… stopped by itself") in lines  # of `logger.exception`


def test_everything_is_described_once() -> None:
    names = {f"{module}.{name}" for module, exported in public_names() for name in exported}
    where = [f"{module}.{name}" for module, given in placed().items() for name in given]
    assert set(PLACES) <= set(placed())
    assert set(where) <= names
    objects = {id(resolve(name)) for name in names}
    assert {id(resolve(name)) for name in where} == objects


# --- for tools that read --------------------------------------------------------------------------

START = """# shop

A shop. It sells.

```{toctree}
guide
how-to/index
```
"""
GUIDE = """# The [guide]

<!-- invisible-code-block: python
hidden = True
-->

```python
first = "snippet"
```

Say [hello](how-to/wave.md) first. Then go.

```{options} path.of.Class
size: how large
```
"""


def test_pages_are_listed_and_written_in_the_order_of_the_contents(tmp_path: Path) -> None:
    source = tmp_path / "docs"
    (source / "how-to").mkdir(parents=True)
    (source / "index.md").write_text(START)
    (source / "guide.md").write_text(
        GUIDE.replace("```{options}", "```{note}").replace("[guide]", "guide")
    )
    (source / "how-to" / "index.md").write_text("# How-tos\n\n```{toctree}\nwave\n```\n")
    (source / "how-to" / "wave.md").write_text("# Wave\n\n| a |\n|---|\n| 1 |\n\nRaise a hand.\n")
    out = tmp_path / "out"
    extensions = "extensions=myst_parser,docs._ext.llms"
    command = ["-m", "sphinx", "-q", "-C", "-D", extensions, "-D", "html_theme=basic"]
    subprocess.run([sys.executable, *command, source, out], cwd=ROOT, check=True)

    assert (out / "llms.txt").read_text().splitlines() == [
        "# shop",
        "",
        "> A shop.",
        "",
        "## Start",
        "",
        "- [The guide](guide.html): Say hello first.",
        "",
        "## How-tos",
        "",
        "- [Wave](how-to/wave.html): Raise a hand.",
    ]
    whole = (out / "llms-full.txt").read_text()
    assert whole.index("It sells.") < whole.index("Then go.") < whole.index("Raise a hand.")
    assert 'first = "snippet"' in whole
    assert not [word for word in ("hidden", "how large", "toctree") if word in whole]


def test_every_page_of_ours_has_a_title_and_a_summary() -> None:
    docs = ROOT / "docs"
    pages = [page for page in docs.rglob("*.md") if page.parent.name != "decisions"]
    without = [page for page in pages if not title(page.read_text(encoding="utf-8"))]
    assert len(pages) > 40
    assert without == []
