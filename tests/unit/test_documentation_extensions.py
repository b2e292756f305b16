"""What the documentation is made of: docstrings as reStructuredText, and tables from the code."""

from __future__ import annotations

import inspect
from textwrap import dedent

import pytest

from docs._ext.api import PLACES, placed
from docs._ext.docstrings import to_rst
from docs._ext.source import public_names, resolve
from docs._ext.tables import default_of, logged, meanings_in
from events.integration.implementation.base import BusOptions
from events.integration.implementation.nats import NatsIntegrationEventBus


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
