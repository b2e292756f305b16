"""What the programs have in common: their orders, the journal, the handler, and how they send."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

Send: TypeAlias = Callable[[int], Awaitable[object]]

TOPIC = "faults"
CONSUMER = "worker"
TEXT = "x" * 150  # about 200 bytes, with the rest
PAUSE_AFTER_ERROR = 1.0


@dataclass
class Orders:
    """The instructions of a program, as JSON in its only argument."""

    bus: str
    variant: str
    url: str
    journal: str
    role: str
    # A consumer's
    seconds: float = 0.0
    deadly: int | None = None
    failing: int | None = None
    # A sender's
    first: int = 0
    count: int = 0
    at_once: int = 1
    pause: float = 0.0
    timeout: float | None = None
    _out: int = field(default=-1, repr=False)

    @classmethod
    def read(cls) -> Orders:
        return cls(**json.loads(sys.argv[1]))

    def note(self, word: str, number: int = 0, detail: object = "") -> None:
        """Write a line that survives SIGKILL: `word number time detail`."""
        if self._out < 0:
            self._out = os.open(self.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        said = " ".join(str(detail).split())[:200]
        os.write(self._out, f"{word} {number} {time.monotonic():.4f} {said}\n".encode())

    async def handle(self, number: int) -> None:
        """Do what every library's handler does."""
        self.note("began", number)
        if number == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self.failing:
            raise RuntimeError("this one always fails")
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.note("cancelled", number)
            raise
        self.note("ended", number)

    async def send_all(self, send: Send) -> None:
        """Send each number once; after an error its partition waits a moment and goes on to the
        next."""
        numbers = iter(range(self.first, self.first + self.count))

        async def partition() -> None:
            for number in numbers:
                self.note("sent", number)
                try:
                    await send(number)
                except Exception as error:  # noqa: BLE001 - whatever a library may raise
                    self.note("refused", number, f"{type(error).__name__}: {error}")
                    await asyncio.sleep(PAUSE_AFTER_ERROR)
                else:
                    self.note("accepted", number)
                await asyncio.sleep(self.pause)

        await asyncio.gather(*(partition() for _ in range(self.at_once)))
