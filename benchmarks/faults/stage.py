"""Where a scenario plays: a server of its own, and the programs of one library beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.faults.journal import Journal
from tests.brokers.nats_server import NatsServer
from tests.brokers.rabbitmq_server import RabbitMQServer
from tests.brokers.redis_server import RedisServer
from tests.servers import PrivateServer

ROOT = Path(__file__).parents[2]
TIMEOUT = 40.0  # above 30 seconds, after which NATS delivers again by default
SERVERS: dict[str, type[PrivateServer]] = {
    "rabbitmq": RabbitMQServer,
    "redis": RedisServer,
    "nats": NatsServer,
}


@dataclass(frozen=True)
class Library:
    """One contestant: the module of its programs, and which settings it is to use."""

    name: str
    module: str
    variant: str = ""


@dataclass
class Outcome:
    """The outcome of the events: numbers, each counted once except `duplicates`."""

    sent: int
    accepted: int
    handled: int
    duplicates: int
    lost: int
    resumed: float | None
    notes: list[str] = field(default_factory=list[str])


class Program:
    """A process of a contestant, to be killed."""

    def __init__(self, command: list[str], log: Path) -> None:
        with log.open("ab") as out:
            self._process = subprocess.Popen(  # noqa: S603 - our own programs
                command,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def end(self, number: signal.Signals, timeout: float = 30.0) -> int | None:
        """Send the signal, and return the exit code; None if it had to be killed after all."""
        self._process.send_signal(number)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return None


class Stage:
    """A private server, a journal for each role, and the processes of one library."""

    def __init__(self, bus: str, library: Library, python: Path, folder: Path) -> None:
        self.bus = bus
        self.library = library
        self.server = SERVERS[bus](folder / "server")
        self.port = self.server.port  # where programs connect: a wire may stand before the server
        self.sender_journal = Journal(folder / "sender.journal")
        self.journal = Journal(folder / "consumer.journal")
        self._python = python
        self._folder = folder
        self._programs: list[Program] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for program in self._programs:
            program.end(signal.SIGKILL)
        self.server.__exit__(exc_type, exc, traceback)

    def log(self, role: str) -> str:
        """What the programs of this role have printed."""
        path = self._folder / f"{role}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _start(self, role: str, journal: Journal, **orders: Any) -> Program:
        instructions = {
            "bus": self.bus,
            "variant": self.library.variant,
            "url": self.server.url.replace(str(self.server.port), str(self.port)),
            "journal": str(journal.path),
            "role": role,
            **orders,
        }
        command = [str(self._python), "-m", self.library.module, json.dumps(instructions)]
        program = Program(command, self._folder / f"{role}.log")
        self._programs.append(program)
        return program

    def consumer(self, *, wait: bool = True, **orders: Any) -> Program:
        """Start a consumer, and return when it says that it is ready."""
        before = len(self.journal.of("ready"))
        program = self._start("consumer", self.journal, **orders)
        if wait and not self.until(lambda: len(self.journal.of("ready")) > before):
            raise RuntimeError(f"the consumer did not start:\n{self.log('consumer')[-2000:]}")
        if wait and isinstance(self.server, RabbitMQServer):
            # Killed sooner, RabbitMQ forgets new quorum queues, of any client.
            self.until(self.server.knows_its_quorum_queues)
        return program

    def sender(self, count: int, **orders: Any) -> Program:
        """Start a sender of `count` events; `at_once`, `pause` and `timeout` as in `Orders`."""
        return self._start("sender", self.sender_journal, count=count, **orders)

    def send(self, count: int, **orders: Any) -> None:
        """Send, and return when all is sent."""
        sender = self.sender(count, **orders)
        if not self.until(lambda: sender.exit_code is not None) or sender.exit_code:
            raise RuntimeError(f"the sender failed:\n{self.log('sender')[-2000:]}")

    def mend(self, running: Program) -> list[str]:
        """Start a consumer that fails at nothing, send back what was kept; tell what that was."""
        running.end(signal.SIGTERM)
        self.consumer()
        operator = self._start("operator", self.journal)
        self.until(lambda: operator.exit_code is not None)
        self.until_handled()
        return [f"dead letter: {note.detail}" for note in self.journal.of("dead")]

    def make_queue(self) -> None:
        """Have a consumer come and go, so that what is sent from now on waits for it."""
        self.server.start()
        self.consumer().end(signal.SIGTERM)

    @staticmethod
    def until(condition: Callable[[], object], timeout: float = TIMEOUT) -> bool:
        """Wait for the condition, and tell whether it came true."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def until_handled(self) -> None:
        """Wait until all that was accepted is handled, or nothing has happened for a while."""
        while self.missing:
            seen = len(self.journal.notes)
            if not self.until(partial(self._has_more_than, seen)):
                return

    def _has_more_than(self, notes: int) -> bool:
        return len(self.journal.notes) > notes

    @property
    def ended(self) -> list[int]:
        return self.journal.numbers("ended")

    @property
    def missing(self) -> set[int]:
        """What was accepted and has not been handled yet."""
        return set(self.sender_journal.numbers("accepted")) - set(self.ended)

    def outcome(self, since: float | None, *notes: str, word: str = "ended") -> Outcome:
        """Count, and tell how long after `since` the first thing of this `word` happened."""
        journal = self.journal if word == "ended" else self.sender_journal
        later = [note.at for note in journal.of(word) if since is not None and note.at > since]
        ended = Counter(self.ended)
        return Outcome(
            sent=len(self.sender_journal.numbers("sent")),
            accepted=len(self.sender_journal.numbers("accepted")),
            handled=len(ended),
            duplicates=ended.total() - len(ended),
            lost=len(self.missing),
            resumed=round(later[0] - since, 2) if since is not None and later else None,
            notes=[note for note in notes if note],
        )
