"""Run a command, and again each time that a Python file below a folder has changed.

    running --a file changed--> stopping, until running handlers have ended --> running
       '----it ended by itself--> waiting for a change --> running

A file that cannot be compiled changes nothing: what runs goes on until the file is mended. The
files are looked at twice a second, which needs no library, and works on each file system.

The child watches a pipe, whose other end is closed when this process ends, even if it is killed.
Then the child ends as at SIGTERM.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.util import cache_from_source
from pathlib import Path
from types import FrameType

from events.cli._output import note

UNTIL_CLOSED = "--until-closed"

_EVERY = 0.5  # seconds
_LEFT_OUT = frozenset({"__pycache__", "node_modules", "site-packages"})

_Seen = dict[Path, tuple[int, int]]


def run_again(command: Sequence[str], folder: Path) -> None:
    """Run the command until SIGTERM or SIGINT, which it is sent as well, and is waited for."""
    reading, writing = os.pipe()  # the child inherits the first one alone
    supervisor = _Supervisor([*command, UNTIL_CLOSED, str(reading)], folder, reading)
    handlers = {
        number: signal.signal(number, supervisor.on_signal)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        supervisor.run()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)


def end_when_closed(descriptor: int) -> None:
    """Have this process end, as at SIGTERM, when the other end of the pipe is closed."""

    def watch() -> None:
        os.read(descriptor, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="watch of the process that reloads", daemon=True).start()


class _Supervisor:
    def __init__(self, command: Sequence[str], folder: Path, inherited: int) -> None:
        self._command = command
        self._folder = folder
        self._inherited = inherited
        self._stopping = False
        self._child: subprocess.Popen[bytes] | None = None

    def on_signal(self, number: int, _: FrameType | None) -> None:
        self._stopping = True
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)

    def run(self) -> None:
        seen = _look(self._folder)
        self._start()
        waits = False
        while not self._stopping:
            time.sleep(_EVERY)
            status = None if self._child is None else self._child.poll()
            if status is not None and not waits and not self._stopping:
                waits = True
                note(f"it ended with status {status}: waiting for a change below {self._folder}")
            now = _look(self._folder)
            changed = sorted(path for path, state in now.items() if seen.get(path) != state)
            changed += sorted(seen.keys() - now.keys())
            seen = now
            if changed and not self._stopping and _can_be_compiled(changed):
                note(f"{changed[0].relative_to(self._folder)} has changed: starting again")
                self._stop()
                _forget_compiled(changed)
                if not self._stopping:
                    self._start()
                waits = False
        if self._child is not None:
            self._child.wait()

    def _start(self) -> None:
        # In a group of its own: Ctrl-C reaches this process, which hands it on, once.
        self._child = subprocess.Popen(  # noqa: S603
            self._command, process_group=0, pass_fds=[self._inherited]
        )

    def _stop(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            self._child.wait()


def _look(folder: Path) -> _Seen:
    """Return when each file was changed last, and its size."""
    found: _Seen = {}
    for path in _files(folder):
        try:
            state = path.stat()
        except FileNotFoundError:  # an editor that writes another and renames it
            continue
        found[path] = state.st_mtime_ns, state.st_size
    return found


def _files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        # Hidden folders, and environments by whatever name.
        folders[:] = [
            each
            for each in folders
            if not each.startswith(".")
            and each not in _LEFT_OUT
            and not Path(where, each, "pyvenv.cfg").exists()
        ]
        yield from (Path(where, name) for name in names if name.endswith(".py"))


def _forget_compiled(paths: Sequence[Path]) -> None:
    """Remove cached bytecode, which Python trusts if the source has its second and size."""
    for path in paths:
        Path(cache_from_source(path)).unlink(missing_ok=True)


def _can_be_compiled(paths: Sequence[Path]) -> bool:
    for path in paths:
        try:
            compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        except FileNotFoundError:
            continue
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None)
            reason = getattr(error, "msg", None) or str(error)
            note(f"{path}:{line or 1}: {reason}: what runs goes on until this is mended")
            return False
    return True
