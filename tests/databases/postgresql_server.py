"""PostgreSQL for tests: the one of the machine, or a private one to kill, freeze and restart."""

from __future__ import annotations

import functools
import getpass
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import psycopg

from tests.databases.probing import first_that_answers, private_until_the_end
from tests.servers import PrivateServer, ServerMissingError, listens, run_as

DEBIAN = Path("/usr/lib/postgresql")  # a folder for each version, none of them on PATH


def newest(binary: str) -> str:
    """Return the path of PostgreSQL's newest such binary, or its name alone if there is none."""
    there = sorted(DEBIAN.glob(f"*/bin/{binary}"), key=lambda path: float(path.parts[-3]))
    return str(there[-1]) if there else binary


class PostgreSQLServer(PrivateServer):
    """A separate cluster. Its superuser is `postgres`, without a password."""

    name = "postgresql"
    binary = newest("postgres")
    package = "postgresql"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._data = folder / "data"

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def user(self) -> str | None:
        # It refuses to run as root.
        return _unprivileged() if os.geteuid() == 0 else None

    def command(self, binary: str) -> list[str]:
        settings = {
            "unix_socket_directories": "",  # their paths may be no longer than 107 bytes
            "fsync": "off",  # what a process wrote survives its death all the same
            "max_connections": "200",
        }
        options = [word for pair in settings.items() for word in ("-c", "=".join(pair))]
        return [binary, "-D", str(self._data), "-h", "127.0.0.1", "-p", str(self.port), *options]

    def environment(self) -> Mapping[str, str]:
        return {"HOME": str(self.folder)}

    def start(self) -> None:
        if not self._data.exists():
            self._initialise()
        super().start()

    def _initialise(self) -> None:
        binary = shutil.which(newest("initdb"))
        if binary is None:
            raise ServerMissingError(self.name, "initdb", self.package)
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.user is not None:
            shutil.chown(self.folder, self.user)
        subprocess.run(
            [binary, "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N"],
            cwd=self.folder,
            env=os.environ | dict(self.environment()) | {"LC_ALL": "C.UTF-8"},
            check=True,
            stdout=subprocess.DEVNULL,
            **run_as(self.user),
        )

    def answers(self) -> bool:
        """Return whether it accepts queries; it listens before that, while it recovers."""
        if not listens("127.0.0.1", self.port):
            return False
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.Error:
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        """Signal the children too: each is a session of its own, which `killpg` does not reach."""
        if self._process is None or self._process.poll() is not None:
            return
        children = psutil.Process(self._process.pid).children(recursive=True)
        super()._signal(number)
        # Once more: the parent may have begun another one before it was signalled.
        children += psutil.Process(self._process.pid).children(recursive=True)
        for child in set(children):
            with suppress(psutil.NoSuchProcess):
                child.send_signal(number)
        if number is signal.SIGKILL:
            psutil.wait_procs(children, timeout=10)


def _unprivileged() -> str:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise RuntimeError("PostgreSQL does not run as root, and there is no user postgres or nobody")


@contextmanager
def private_server() -> Generator[PostgreSQLServer]:
    """Start a server for one test. Not in `tmp_path`, whose parents are open to its owner alone."""
    with (
        tempfile.TemporaryDirectory(prefix="events-postgresql-") as folder,
        PostgreSQLServer(Path(folder)) as server,
    ):
        yield server


@functools.cache
def postgresql_url() -> str:
    """Return the URL of the machine's server, or of one that serves until the tests end."""
    users = dict.fromkeys((getpass.getuser(), "postgres", "root"))
    there = first_that_answers(
        "postgresql", [f"postgresql+asyncpg://{user}@127.0.0.1:5432/postgres" for user in users]
    )
    return there or private_until_the_end(PostgreSQLServer)
