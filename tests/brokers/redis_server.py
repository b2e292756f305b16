"""Redis for tests: the shared server, and private ones that keep every write on disk."""

from __future__ import annotations

import functools
import socket
import tempfile
from pathlib import Path

from tests.servers import PrivateServer, binary_of, shared_url


class RedisServer(PrivateServer):
    """A Redis that has written each command before it answers.

    What a process has written survives its death, so a kill loses nothing. To wait for the disk as well
    would be for the death of the machine, which no test has.
    """

    name = "redis"
    binary = binary_of("redis", "redis-server")
    package = "redis-server"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self, binary: str) -> list[str]:
        return [
            *(binary, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "no"),
        ]

    def answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            try:
                probe.connect(("127.0.0.1", self.port))
                probe.sendall(b"PING\r\n")
                return probe.recv(16).startswith(b"+PONG")  # not while it is loading
            except OSError:
                return False


class ReplicaServer(RedisServer):
    """A Redis that follows another one."""

    def __init__(self, folder: Path, master: RedisServer) -> None:
        super().__init__(folder)
        self._master = master

    def command(self, binary: str) -> list[str]:
        return [
            *(*super().command(binary), "--replicaof", "127.0.0.1", str(self._master.port)),
            *("--repl-diskless-sync-delay", "0"),
        ]


class SentinelServer(RedisServer):
    """A Sentinel, which is the same binary in another role."""

    def command(self, binary: str) -> list[str]:
        (self.folder / "sentinel.conf").write_text(f"port {self.port}\nbind 127.0.0.1\n")
        return [binary, str(self.folder / "sentinel.conf"), "--sentinel"]

    def monitor(self, server: RedisServer) -> None:
        """Make it monitor the server as the master `main`, patiently: the machine may be busy."""
        self._say(
            f"MONITOR main 127.0.0.1 {server.port} 1",
            "SET main down-after-milliseconds 60000",
            "SET main failover-timeout 3000",
        )

    def be_quick(self) -> None:
        """Make it notice soon that its master is down."""
        self._say("SET main down-after-milliseconds 3000")

    def _say(self, *commands: str) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            for command in commands:
                connection.sendall(f"SENTINEL {command}\r\n".encode())
                assert connection.recv(64).startswith(b"+OK")


@functools.cache
def redis_url() -> str:
    """Return the URL of the shared server, or of a private one that lives as long as the tests."""
    return shared_url("redis", "redis://127.0.0.1:6379/0") or _private().url


def _private() -> RedisServer:
    import atexit

    server = RedisServer(Path(tempfile.mkdtemp(prefix="events-redis-")))
    server.start()
    atexit.register(server.__exit__, None, None, None)
    return server
