"""`events run --reload`: the process starts again with its edited files, and loses no handler."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from events.cli import main
from events.testing import eventually

APP = """
import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path

from events.integration import EventHandlerConsumer, IntegrationEvent, Topic
from events.integration import IntegrationEventBusRegistration
from events.memory import MemoryBus

VERSION = {version}
TOPIC = Topic("reloaded")


class Noted(IntegrationEvent):
    type = "reload.noted"
    version = 1


def say(text):
    with Path("said.txt").open("a") as file:
        file.write(f"{{text}} {{VERSION}} {{os.getpid()}}\\n")


async def slow(event):
    say("begin")
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    say("end")


@asynccontextmanager
async def app():
    bus = MemoryBus([IntegrationEventBusRegistration(EventHandlerConsumer("c", {{Noted: slow}}), TOPIC)])

    async def send():
        while not bus.health().started:
            await asyncio.sleep(0.01)
        await bus.send(TOPIC, Noted())

    sending = asyncio.create_task(send())
    yield bus
    await sending
"""


class Reloading:
    """The command, its app, and what both have said."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process) -> None:
        self.folder = folder
        self.process = process
        self.lines: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode().rstrip())

    def edit(self, text: str) -> None:
        """Write the app within the second of the last time, as a quick machine may."""
        path = self.folder / "reloaded_app.py"
        second, rest = divmod(path.stat().st_mtime_ns, 10**9)
        beside = path.with_suffix(".new")  # at one stroke, so that it is one change
        beside.write_text(text)
        os.utime(beside, ns=(0, second * 10**9 + (rest + 1) % 10**9))
        beside.replace(path)

    @property
    def said(self) -> list[str]:
        path = self.folder / "said.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.rpartition(" ")[0] for line in lines]

    @property
    def pids(self) -> set[int]:
        lines = (self.folder / "said.txt").read_text().splitlines()
        return {int(line.rpartition(" ")[2]) for line in lines}

    async def until_said(self, *wanted: str) -> None:
        await eventually(lambda: self.said == list(wanted))

    async def until_line(self, text: str) -> None:
        await eventually(lambda: any(text in line for line in self.lines))


@pytest.fixture
async def reloading(tmp_path: Path) -> AsyncGenerator[Reloading]:
    (tmp_path / "reloaded_app.py").write_text(APP.format(version=1))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "events", "run", "reloaded_app:app", "--reload"),
        cwd=tmp_path,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": ""},
        stderr=asyncio.subprocess.PIPE,
    )
    made = Reloading(tmp_path, process)
    yield made
    if process.returncode is None:
        (tmp_path / "go").touch()
        process.send_signal(signal.SIGTERM)
    await process.wait()
    await made._reading


async def test_a_change_starts_it_again_when_running_handlers_have_ended(
    reloading: Reloading,
) -> None:
    await reloading.until_said("begin 1")
    reloading.edit(APP.format(version=2))
    await reloading.until_line("reloaded_app.py has changed: starting again")
    assert reloading.said == ["begin 1"]
    (reloading.folder / "go").touch()
    await reloading.until_said("begin 1", "end 1", "begin 2", "end 2")
    reloading.process.send_signal(signal.SIGINT)
    assert await reloading.process.wait() == 0
    assert not any(map(psutil.pid_exists, reloading.pids))


async def test_a_file_that_cannot_be_read_ends_neither_the_watch_nor_what_runs(
    reloading: Reloading,
) -> None:
    (reloading.folder / "go").touch()
    await reloading.until_said("begin 1", "end 1")
    reloading.edit("def broken(:\n")
    await reloading.until_line("reloaded_app.py:1: invalid syntax")
    assert reloading.process.returncode is None
    (first,) = reloading.pids
    assert psutil.pid_exists(first), "it does not run on"
    reloading.edit("raise RuntimeError('on import')\n")
    await reloading.until_line("it ended with status 1: waiting for a change")
    reloading.edit(APP.format(version=3))
    await reloading.until_said("begin 1", "end 1", "begin 3", "end 3")


async def test_what_runs_ends_with_a_supervisor_that_is_killed(reloading: Reloading) -> None:
    await reloading.until_said("begin 1")
    (pid,) = reloading.pids
    running = psutil.Process(pid)
    reloading.process.kill()
    (reloading.folder / "go").touch()  # a handler that runs ends first

    def ended() -> bool:
        return not running.is_running() or bool(running.status() == psutil.STATUS_ZOMBIE)

    try:
        await eventually(ended)
    finally:
        if not ended():
            running.kill()  # whose pipe the fixture reads to its end
    assert reloading.said == ["begin 1", "end 1"]


def test_an_application_that_is_not_there_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["run", "--reload"])
    assert "--app module:name" in capsys.readouterr().err
