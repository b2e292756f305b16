"""Servers for tests: the shared one of the machine, and private ones to kill, freeze and restart.

A shared server is the one that `EVENTS_TEST_<NAME>_URL` names, else what answers on localhost. Where
neither is there, a private server serves instead, so a test is never skipped because a server is missing:
`ServerMissingError` says what to install, and that is a failure. Private brokers are started with what
`EVENTS_TEST_<NAME>_SERVER` names, else with the installed binary.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict
from urllib.parse import urlsplit

_FREEZING = 60.0  # seconds that SIGSTOP may take to have an effect


class ServerMissingError(RuntimeError):
    """Neither a running server nor the binary of one."""

    def __init__(self, name: str, binary: str, package: str) -> None:
        super().__init__(
            f"no {name}: set EVENTS_TEST_{name.upper()}_URL, run one on localhost, or install "
            f"{binary!r} (Debian and Ubuntu: apt-get install {package})"
        )


class PrivateServer(ABC):
    """A server process of this test alone, on a free port, with its data in `folder`.

    Every verb returns when it is done: `start` and `restart` when the server answers, `kill` when
    the process is gone. Its data survives `kill`, so `start` again is what a crash looks like.
    """

    name: str
    binary: str
    package: str
    timeout = 60.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL for clients."""

    @abstractmethod
    def command(self, binary: str) -> list[str]:
        """The command that starts it in the foreground."""

    def environment(self) -> Mapping[str, str]:
        """Variables that are added to our environment."""
        return {}

    @property
    def user(self) -> str | None:
        """The user that it runs as, if it is another one."""
        return None

    def answers(self) -> bool:
        """Return whether it is ready for clients."""
        return listens("127.0.0.1", self.port)

    def start(self) -> None:
        binary = shutil.which(self.binary, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
        if binary is None:
            raise ServerMissingError(self.name, self.binary, self.package)
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            # A session of its own: what the server starts can be signalled with it, and Ctrl-C at
            # the terminal reaches the tests alone.
            self._process = subprocess.Popen(
                self.command(binary),
                cwd=self.folder,
                env=os.environ | dict(self.environment()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **run_as(self.user),
            )
        deadline = time.monotonic() + self.timeout
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = (self.folder / "log").read_text(errors="replace")[-2000:]
                self.kill()
                raise RuntimeError(f"{self.name} did not come up:\n{tail}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a crash does: SIGKILL, to it and all that it started."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Crash and come back, on the same port with the same data."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop it with SIGSTOP, with every connection open, and return when it has stopped."""
        self._signal(signal.SIGSTOP)
        if self._process is not None:
            give_up = time.monotonic() + _FREEZING
            while _runs(self._process.pid):
                assert time.monotonic() < give_up, f"it runs {_FREEZING:g} s after SIGSTOP"
                time.sleep(0.001)

    def thaw(self) -> None:
        """Continue after `freeze`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        # What was not waited for yet keeps its number: this is no other process by now.
        if self._process is not None and self._process.poll() is None:
            group = self._process.pid
            assert os.getpgid(group) == group, "it leads no session: others would get the signal"
            os.killpg(group, number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.thaw()
        self.kill()


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process of a test: by a signal, so that its coverage is written, else by SIGKILL."""
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class RunAs(TypedDict, total=False):
    user: str
    group: int
    extra_groups: list[int]


def run_as(user: str | None) -> RunAs:
    """Return the options of `subprocess` that switch from root to this user."""
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def binary_of(name: str, default: str) -> str:
    """Return the program that starts private servers: the one in the environment, else this."""
    return os.environ.get(f"EVENTS_TEST_{name.upper()}_SERVER") or default


def shared_url(name: str, default: str) -> str | None:
    """Return the URL of the running shared server, or None."""
    given = os.environ.get(f"EVENTS_TEST_{name.upper()}_URL")
    if given:
        return given
    parts = urlsplit(default)
    return default if listens(parts.hostname or "127.0.0.1", parts.port or 0) else None


def listens(host: str, port: int) -> bool:
    """Return whether something accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


_reserved: list[int] = []  # file descriptors, until the tests end


def free_port() -> int:
    """Return a port that nobody else gets, before a server listens there and after it was killed.

    A socket is bound to it that does not listen. Servers share it by `SO_REUSEADDR`, which all of
    them set; the kernel gives it neither to who asks for any port, nor to an outgoing connection.
    """
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(("127.0.0.1", 0))
        port: int = place.getsockname()[1]
        _reserved.append(place.detach())
        return port


def _runs(group: int) -> bool:
    """Tell whether a thread of this group of processes is not stopped; where that can be seen."""
    for stat in Path("/proc").glob("[0-9]*/task/*/stat"):
        try:
            state, _, of_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it has ended
        if int(of_group) == group and state not in "TZX":
            return True
    return False
