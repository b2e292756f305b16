"""MariaDB for tests: the one of the machine, or a private one to kill, freeze and restart."""

from __future__ import annotations

import functools
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.databases.probing import first_that_answers, private_until_the_end
from tests.servers import PrivateServer, ServerMissingError

GREETING = 0x0A  # the protocol's version, behind a header of 4 bytes; an error has 0xFF there


class MariaDBServer(PrivateServer):
    """A server with its own data. Its user is `root`, without a password."""

    name = "mariadb"
    binary = "mariadbd"
    package = "mariadb-server"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._data = folder / "data"

    @property
    def _tmpdir(self) -> str:
        # A server that starts removes the temporary tables that it finds, also those of others.
        return f"--tmpdir={self.folder}"

    @property
    def url(self) -> str:
        return f"mariadb://root@127.0.0.1:{self.port}"

    def command(self, binary: str) -> list[str]:
        return [
            binary, "--no-defaults", *self._as_root(), f"--datadir={self._data}",
            "--bind-address=127.0.0.1", f"--port={self.port}", "--skip-name-resolve",
            f"--socket={self.folder / 'socket'}", f"--pid-file={self.folder / 'pid'}",
            "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=2",
            "--max-connections=200", "--character-set-server=utf8mb4", self._tmpdir,
        ]  # fmt: skip

    def start(self) -> None:
        if not self._data.exists():
            self._initialise()
        super().start()

    def _initialise(self) -> None:
        binary = shutil.which("mariadb-install-db")
        if binary is None:
            raise ServerMissingError(self.name, "mariadb-install-db", self.package)
        self.folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [
                binary, "--no-defaults", *self._as_root(), f"--datadir={self._data}",
                "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve",
                self._tmpdir,
            ],
            cwd=self.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{binary} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")

    def _as_root(self) -> list[str]:
        return ["--user=root"] if os.geteuid() == 0 else []

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                greeting = probe.recv(5)
        except OSError:
            return False
        return len(greeting) == 5 and greeting[4] == GREETING


@contextmanager
def private_server() -> Generator[MariaDBServer]:
    """Start a server for one test. Its folder's path is short, as that of a socket must be."""
    with (
        tempfile.TemporaryDirectory(prefix="events-mariadb-") as folder,
        MariaDBServer(Path(folder)) as server,
    ):
        yield server


@functools.cache
def mariadb_url() -> str:
    """Return the URL of the machine's server, or of one that serves until the tests end."""
    users = dict.fromkeys((getpass.getuser(), "root"))
    there = first_that_answers(
        "mariadb", [f"mariadb+asyncmy://{user}@127.0.0.1:3306" for user in users]
    )
    return there or private_until_the_end(MariaDBServer)
