"""NATS for tests: the one of the machine, or a private one to kill, freeze and restart."""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import tempfile
import urllib.request
from pathlib import Path

from tests.servers import PrivateServer, binary_of, free_port, shared_url


class NatsServer(PrivateServer):
    name = "nats"
    binary = binary_of("nats", "nats-server")
    package = "nats-server"
    more: tuple[str, ...] = ()
    config = ""  # its file's text; STORE stands for the folder of JetStream

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.monitor = free_port()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def command(self, binary: str) -> list[str]:
        here = ["-a", "127.0.0.1", "-p", str(self.port), "-m", str(self.monitor)]
        if self.config:
            return [binary, *here, "-c", str(self._write_config()), *self.more]
        return [binary, *here, "-js", "-sd", str(self.folder / "data"), *self.more]

    def _write_config(self) -> Path:
        path = self.folder / "nats.conf"
        path.write_text(self.config.replace("STORE", json.dumps(str(self.folder / "data"))))
        return path

    def reload(self, config: str) -> None:
        """Make the running server read another configuration."""
        assert self._process is not None
        self.config = config
        self._write_config()
        self._process.send_signal(signal.SIGHUP)

    def freeze(self) -> None:
        super().freeze()
        assert self._process is not None
        # The signal is sent; the last of its threads stops a moment later.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def answers(self) -> bool:
        try:
            address = f"http://127.0.0.1:{self.monitor}/healthz"
            with urllib.request.urlopen(address, timeout=1) as answer:
                return bool(json.load(answer)["status"] == "ok")
        except (OSError, ValueError):
            return False


@functools.cache
def plain_url() -> str:
    """The machine's server, or else one that serves until the tests end."""
    there = shared_url("nats", "nats://127.0.0.1:4222")
    if there is not None:
        return there
    server = NatsServer(Path(tempfile.mkdtemp(prefix="events-nats-")))
    server.start()
    atexit.register(server.kill)
    return server.url
