"""The tutorial, done as its reader does it: files are written, edited and run in an empty folder.

What its fences mean:

- `python`: a file. Its first line is a comment with the name; `, at the end` goes on with it.
- `diff`: an edit of the file that its first line names. The lines with `-` must be there.
- `console`: commands after `$`, and what they print, where `...` stands for anything. `^C` presses
  Ctrl-C once the lines above it were printed.
- `console no-run`: not for us, as packages are installed and the tests have servers.

The topic and the consumer get names of their own here, as the broker is shared with other tests.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pika  # type: ignore[import-untyped]
import pytest

from tests.brokers.rabbitmq_server import rabbitmq_url

__all__ = ["rabbitmq_url"]

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIMEOUT = 120.0  # seconds for one command, on a busy machine


class Step(NamedTuple):
    line: int
    kind: str
    text: str


class Command(NamedTuple):
    line: str
    expected: str
    interrupted: bool


def steps() -> Iterator[Step]:
    page = PAGE.read_text(encoding="utf-8")
    for fence in FENCE.finditer(page):
        if fence[2].strip() != "no-run":
            yield Step(page.count("\n", 0, fence.start()) + 1, fence[1], fence[3])


def write(folder: Path, text: str) -> None:
    header, _, _ = text.partition("\n")
    named = re.fullmatch(r"# (\w+\.py)(, at the end)?", header)
    assert named, f"a file's first line is a comment with its name, not {header!r}"
    path = folder / named[1]
    if named[2]:
        path.write_text(path.read_text() + text)
    else:
        assert not path.exists(), f"{named[1]} is there already"
        path.write_text(text)


def edit(folder: Path, text: str) -> None:
    header, _, body = text.partition("\n")
    path = folder / header.removeprefix("--- ")
    content = path.read_text()
    for change in re.finditer(r"((?:^-.*\n)+)((?:^\+.*\n)*)", body, re.MULTILINE):
        old, new = (re.sub(r"^[-+]", "", part, flags=re.MULTILINE) for part in change.groups())
        assert content.count(old) == 1, f"not once in {path.name}:\n{old}"
        content = content.replace(old, new)
    path.write_text(content)


def commands(text: str) -> Iterator[Command]:
    for block in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, printed = block.partition("\n")
        expected, ctrl_c, _ = printed.partition("^C\n")
        yield Command(line, expected, bool(ctrl_c))


def matches(expected: str, printed: str) -> bool:
    pattern = (
        re.escape(expected)
        .replace(re.escape("...\n"), r"(?s:.*)")
        .replace(re.escape("..."), r".*?")
    )
    return re.fullmatch(pattern, printed) is not None


def play(folder: Path, command: Command) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        shlex.split(command.line),
        cwd=folder,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # Reading blocks, so a clock ends a command that prints nothing more and does not end.
    clock = threading.Timer(TIMEOUT, process.kill)
    clock.start()
    assert process.stdout is not None
    printed = ""
    try:
        for line in process.stdout:
            printed += line
            if command.interrupted and matches(command.expected, printed):
                process.send_signal(signal.SIGINT)
        assert process.wait() == 0, f"$ {command.line}\nended with {process.returncode}:\n{printed}"
    finally:
        clock.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
    assert matches(command.expected, printed), f"$ {command.line}\nprinted\n{printed}"


@pytest.fixture
def names(rabbitmq_url: str) -> Iterator[dict[str, str]]:
    """Give what stands for what in the tutorial's text, and clean up at the broker."""
    tag = uuid4().hex[:8]
    users, emails = f"users-{tag}", f"emails-{tag}"
    yield {
        'Topic("users")': f'Topic("{users}")',
        "'users'": f"'{users}'",
        '"emails"': f'"{emails}"',
        "emails failed": f"{emails} failed",
        "amqp://guest:guest@localhost:5672/": rabbitmq_url,
        "until_quiet(bus)": f"until_quiet(bus, {TIMEOUT})",
    }
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq_url))
    channel = connection.channel()
    channel.exchange_delete(users)
    for queue in (f"{emails}@{users}", f"{emails}@{users}:quarantine", f"{emails}:dead"):
        channel.queue_delete(queue)
    connection.close()


def test_each_step_does_what_the_tutorial_says(tmp_path: Path, names: dict[str, str]) -> None:
    done = 0
    for step in steps():
        text = step.text
        for name, ours in names.items():
            text = text.replace(name, ours)
        try:
            if step.kind == "python":
                write(tmp_path, text)
            elif step.kind == "diff":
                edit(tmp_path, text)
            else:
                assert step.kind == "console", f"nobody knows what to do with {step.kind!r}"
                for command in commands(text):
                    play(tmp_path, command)
        except AssertionError as error:
            raise AssertionError(f"docs/tutorial.md, line {step.line}: {error}") from None
        done += 1
    assert done > 15, "the tutorial has lost its steps"


@pytest.mark.parametrize("command", ["register.py ann@example.com", "shop.py"])
def test_what_fails_lets_go_of_the_database(tmp_path: Path, command: str) -> None:
    for step in steps():
        if step.kind == "python":
            write(tmp_path, step.text)
    (tmp_path / "shop.db").write_text("no database" * 100)
    ended = subprocess.run(
        [sys.executable, "-X", "dev", *command.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert ended.returncode == 1
    assert "file is not a database" in ended.stderr
    assert "ResourceWarning" not in ended.stderr
