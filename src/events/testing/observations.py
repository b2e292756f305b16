"""An observer that keeps what it sees, for tests of what is observed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from events.errors import BusError
from events.integration.message import Delivery, Message, Settlement
from events.integration.observation import Observer, TraceMode, observe


@dataclass
class Observation:
    """One thing that was observed: the method that was called, its arguments by name, and `error`.

    `error` is what came out of the block, for methods that run around one.
    """

    name: str
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    error: BaseException | None = None


class RecordingObserver(Observer):
    """Keep what happens within `with RecordingObserver() as seen:` in `seen.observations`.

    What runs around something is kept when that has ended.
    """

    def __init__(self) -> None:
        self.observations: list[Observation] = []
        self._before: Observer | None = None

    def __enter__(self) -> Self:
        self._before = observe(self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        observe(self._before)

    @property
    def names(self) -> list[str]:
        """Return the names of what was observed, in order."""
        return [observation.name for observation in self.observations]

    def named(self, name: str) -> list[Observation]:
        """Return the observations of one name."""
        return [each for each in self.observations if each.name == name]

    def _keep(self, name: str, **details: Any) -> None:
        self.observations.append(Observation(name, details))

    @contextmanager
    def _keep_after(self, name: str, **details: Any) -> Generator[None]:
        observation = Observation(name, details)
        try:
            yield
        except BaseException as error:
            observation.error = error
            raise
        finally:
            self.observations.append(observation)

    def created(self, message: Message) -> Message:
        """Keep it."""
        self._keep("created", message=message)
        return message

    @contextmanager
    def sending(self, message: Message, system: str) -> Generator[Message]:
        """Keep it when it has been sent."""
        with self._keep_after("sending", message=message, system=system):
            yield message

    @contextmanager
    def sending_batch(
        self, messages: Sequence[Message], system: str
    ) -> Generator[list[BusError | Exception | None]]:
        """Keep it when it has been sent."""
        outcomes: list[BusError | Exception | None] = []
        with self._keep_after("sending_batch", messages=messages, system=system, outcomes=outcomes):
            yield outcomes

    def postponed(self, message: Message, error: str, seconds: float) -> None:
        """Keep it."""
        self._keep("postponed", message=message, error=error, seconds=seconds)

    def parked(self, message: Message, reason: str) -> None:
        """Keep it."""
        self._keep("parked", message=message, reason=reason)

    def received(self, delivery: Delivery, system: str) -> None:
        """Keep it."""
        self._keep("received", delivery=delivery, system=system)

    @contextmanager
    def processing(
        self, delivery: Delivery, system: str, trace: TraceMode, mask: Callable[[str], str]
    ) -> Generator[None]:
        """Keep it when the attempt has ended."""
        del mask
        with self._keep_after("processing", delivery=delivery, system=system, trace=trace):
            yield

    def retrying(self, delivery: Delivery, system: str, seconds: float) -> None:
        """Keep it."""
        self._keep("retrying", delivery=delivery, system=system, seconds=seconds)

    def settled(self, delivery: Delivery, system: str, settlement: Settlement) -> None:
        """Keep it."""
        self._keep("settled", delivery=delivery, system=system, settlement=settlement)

    @contextmanager
    def settling(self, deliveries: Sequence[Delivery], system: str) -> Generator[None]:
        """Keep it when the broker has answered."""
        with self._keep_after("settling", deliveries=deliveries, system=system):
            yield

    def duplicate(self, delivery: Delivery) -> None:
        """Keep it."""
        self._keep("duplicate", delivery=delivery)

    def paused(self, consumer: str, system: str) -> None:
        """Keep it."""
        self._keep("paused", consumer=consumer, system=system)

    def resumed(self, consumer: str, system: str) -> None:
        """Keep it."""
        self._keep("resumed", consumer=consumer, system=system)

    def redriven(self, consumer: str, count: int, system: str) -> None:
        """Keep it."""
        self._keep("redriven", consumer=consumer, count=count, system=system)

    def discarded(self, consumer: str, count: int, system: str) -> None:
        """Keep it."""
        self._keep("discarded", consumer=consumer, count=count, system=system)
