"""Where an error was raised, as a dead letter keeps it and as it groups them."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

from events.integration.pipeline.place import place_of, with_place
from events.operations import fingerprint

HERE = Path(__file__).name


def raised(function: object, *arguments: object) -> BaseException:
    try:
        function(*arguments)  # type: ignore[operator]  # pyright: ignore[reportCallIssue]
    except BaseException as error:  # noqa: BLE001
        return error
    raise AssertionError("nothing was raised")


def parse(text: str) -> object:
    return json.loads(text)


async def grouped() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(failing())


async def failing() -> None:
    raise KeyError("x")


def test_it_is_the_innermost_frame_of_the_users_code() -> None:
    place = place_of(raised(parse, "{"))  # which the standard library raises
    assert place is not None
    assert place.partition(":")[0].endswith(HERE)
    assert place.endswith(" in parse")
    assert place.partition(":")[2].split()[0].isdecimal()


def test_of_a_group_it_is_that_of_its_first_error() -> None:
    place = place_of(raised(asyncio.run, grouped()))
    assert place is not None
    assert place.endswith(" in failing")


def test_an_error_without_a_frame_of_the_user_has_none() -> None:
    assert place_of(ValueError("never raised")) is None
    assert with_place("ValueError: x", ValueError("x"), int) == "ValueError: x"


def test_what_is_installed_is_a_librarys_but_for_the_package_of_the_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "place_shop.py").write_text("def send():\n    raise OSError('away')\n")
    monkeypatch.syspath_prepend(folder)
    error = raised(import_module("place_shop").send)
    monkeypatch.delitem(sys.modules, "place_shop")
    assert str(place_of(error)).endswith(" in raised")  # who called it, here
    assert place_of(error, "place_shop") == "place_shop.py:2 in send"


def test_the_place_is_the_second_line_and_decides_the_group() -> None:
    first, second = raised(parse, "{"), raised(parse, "[1, 2")
    texts = [with_place(f"JSONDecodeError: {e}\nmore", e, int) for e in (first, second)]
    assert texts[0].splitlines()[1:] == [f"at {place_of(first)}", "more"]
    assert fingerprint(texts[0]) == fingerprint(texts[1])
    place = re.sub(r":\d+", "", str(place_of(first)))
    assert fingerprint(texts[0]) == f"JSONDecodeError at {place}"
    assert fingerprint("A: 1\nat noon") == "A: #"


def test_a_deploy_that_moves_a_line_splits_no_group() -> None:
    before, after = (f"ValueError: no user {n}\nat shop/mails.py:{n} in send" for n in (42, 57))
    assert fingerprint(before) == fingerprint(after) == "ValueError at shop/mails.py in send"
    others = ("shop/mails.py:42 in bill", "shop/bills.py:42 in send")
    assert all(fingerprint(f"ValueError: 1\nat {o}") != fingerprint(before) for o in others)


def test_a_long_first_line_keeps_the_place_where_an_error_is_cut() -> None:
    error = raised(parse, "{")
    text = with_place("É" * 9_000, error, int)
    assert f"\nat {place_of(error)}\n" in text[:1_200]
    assert len(text.replace("\n", "")) == 9_000 + len(f"at {place_of(error)}")
