"""The commands of docs/quickstart.md do what the page says."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.servers import free_port

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
SESSIONS = re.findall(r"^```console\n\$ events (.*)\n((?s:.*?))^```$", PAGE, re.MULTILINE)


def events(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    command = ["-m", "events", *arguments]
    if before:
        command = ["-c", f"{before}\nimport runpy; runpy.run_module('events')", *arguments]
    return subprocess.run(
        [sys.executable, *command], text=True, capture_output=True, check=False, timeout=120
    )


def test_the_page_shows_the_demo_and_how_it_breaks() -> None:
    assert [command.split() for command, _ in SESSIONS] == [
        ["demo", "--scene", "--orders", "2"],
        ["demo", "--scene", "--break", "--orders", "3"],
    ]


@pytest.mark.parametrize(("command", "shown"), SESSIONS, ids=[each[0] for each in SESSIONS])
def test_a_command_prints_what_the_page_shows(command: str, shown: str) -> None:
    done = events(*shlex.split(command))
    lines = re.escape(shown).replace(re.escape("\n...\n"), r"\n(?:.*\n)*")
    pattern = lines.replace(re.escape("..."), ".*")
    assert done.returncode == 0, done.stderr
    # The handler has the event after the commit, be it before the order is printed or after it.
    placed, printed = "placed order 1\n", "printed receipt 1\n"
    said = done.stdout.replace(f"{printed}{placed}", f"{placed}{printed}")
    assert re.fullmatch(pattern, said), done.stdout


def test_failed_attempts_are_seen_without_their_tracebacks() -> None:
    done = events("demo", "--scene", "--break", "--orders", "1")
    assert len(re.findall("attempt [12] of 3", done.stderr)) == 2
    assert "leaves a dead letter" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_page_breaks_and_mends_the_handler() -> None:
    port = str(free_port())
    command = [sys.executable, "-m", "events", "demo", "--page", "--no-browser", "--port", port]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=60, follow_redirects=True
        ) as page:

            def shown(address: str, pattern: str) -> bool:
                try:
                    return re.search(pattern, page.get(address).text) is not None
                except httpx.TransportError:
                    return False  # it has not started yet

            until(lambda: shown("/", r"<dt>Receipts</dt><dd>[1-9]"))
            assert page.post("/break", headers={"Origin": "http://evil.example"}).status_code == 403
            assert "Put paper into" in page.post("/break").text
            until(lambda: shown("/", r"<dt>Dead letters</dt><dd>[1-9]"))
            assert shown("/events/dead", "no paper for the receipt of order #")
            assert "Take the paper out" in page.post("/repair").text
    finally:
        process.send_signal(signal.SIGINT)
        said, logged = process.communicate(timeout=120)
    assert f"http://127.0.0.1:{port}/" in said
    assert "leaves a dead letter" in logged
    assert "Traceback" not in logged
    assert process.returncode == 0


def interactive(
    *arguments: str, environment: dict[str, str]
) -> tuple[subprocess.Popen[bytes], int]:
    """Start the demo as a person does, at a terminal. Returns the process and the terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "events", "demo", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | environment,
    )
    os.close(theirs)
    return process, ours


def read(terminal: int) -> str:
    """Read until the demo ends."""
    said = b""
    with contextlib.suppress(OSError):  # Linux raises it at the end of a terminal
        while chunk := os.read(terminal, 4096):
            said += chunk
    os.close(terminal)
    return said.decode()


def test_a_terminal_gets_the_page_and_a_browser_opens_it(tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.new && mv {opened}.new {opened}\n')
    browser.chmod(0o755)
    port = free_port()
    process, terminal = interactive("--port", str(port), environment={"BROWSER": str(browser)})
    try:
        until(opened.exists)
        address = opened.read_text().strip()
        assert "Take the paper out" in httpx.get(address, timeout=120).text
    finally:
        process.send_signal(signal.SIGINT)
        said = read(terminal)
        process.wait(timeout=120)
    assert address == f"http://127.0.0.1:{port}/"
    assert f"Open {address} and press the button." in said


def test_a_terminal_without_the_extra_gets_the_scene_and_its_name() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # What imports `events` first hides the package that the page needs.
        hidden = "import importlib.util, sys\nfind = importlib.util.find_spec\n"
        hidden += "importlib.util.find_spec = lambda name, *a: "
        hidden += "None if name == 'uvicorn' else find(name, *a)\n"
        Path(folder, "sitecustomize.py").write_text(hidden)
        process, terminal = interactive("--orders", "1", environment={"PYTHONPATH": folder})
        said = read(terminal)
        assert process.wait(timeout=120) == 0, said
    assert 'The dashboard needs uvicorn: pip install "integration-events[demo]"' in said
    assert "1 orders, 1 receipts, 0 dead letters." in said


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = events("demo", "--page", "--no-browser", "--port", str(port))
    assert done.returncode == 2
    assert f"cannot listen on port {port} of 127.0.0.1" in done.stderr
    assert "choose another with --port" in done.stderr


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 120 s"
        time.sleep(0.1)


def test_the_extra_is_named_where_it_is_missing() -> None:
    done = events("demo", before="import sys; sys.modules['sqlalchemy'] = None")
    assert done.returncode == 2
    assert 'pip install "integration-events[demo]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_every_extra_is_listed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    table = PAGE.partition("## Extras")[2]
    listed = {
        name
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for name in row.split(", ")
    }
    assert listed == {f"`{extra}`" for extra in extras}
