"""Servers of the chat as processes of their own, to talk to, to kill and to freeze."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers import end

ROOT = Path(__file__).parents[3]


class ChatServer:
    """One server, on a free port unless one is given, with its log in `log`. It is up when the constructor returns."""

    def __init__(
        self, log: Path, *, redis_url: str | None = None, port: int = 0, **settings: object
    ) -> None:
        self.log = log
        given = {f"CHAT_{name.upper()}": str(value) for name, value in settings.items()}
        environment = {k: v for k, v in os.environ.items() if k != "REDIS_URL"}
        environment |= {"CHAT_LOG_FORMAT": "json", "PYTHONUNBUFFERED": "1"}
        environment |= {"CHAT_CONNECT_TIMEOUT": "60"} | given  # seconds, for a busy machine
        if redis_url is not None:
            environment["REDIS_URL"] = redis_url
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "examples.online_chat", "--port", str(port)],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert self.process.stdout is not None
        first = self.process.stdout.readline().decode()
        if not first.startswith("http://"):
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            raise RuntimeError(f"the chat did not come up: {first}\n{log.read_text()}")
        self.url = first.split()[0]

    @property
    def socket_url(self) -> str:
        return self.url.replace("http", "ws", 1) + "socket"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            end(self.process)
        assert self.process.stdout is not None
        self.process.stdout.close()
