"""Jobs: redrives and discards that continue after the response to the request that began them.

    running --all are done------> finished
       |----stop-----------------> stopped
       '----an error, or a canary that failed--> failed

Jobs belong to this process, and end with it. Events that they have not reached stay dead letters.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Literal

from events.errors import CanaryFailedError, EventsError
from events.operations import Progress, Selection

logger = logging.getLogger("events.dashboard")

_MOST = 50  # jobs that are remembered

State = Literal["running", "finished", "stopped", "failed"]


class Job:
    """A redrive or a discard, with its progress."""

    def __init__(
        self,
        steps: AsyncGenerator[Progress],
        *,
        action: Literal["redrive", "discard"],
        consumer: str,
        selection: Selection,
        actor: str,
    ) -> None:
        self.id = secrets.token_hex(6)
        self.action = action
        self.consumer = consumer
        self.selection = selection
        self.actor = actor
        self.began_at = datetime.now(UTC)
        self.state: State = "running"
        self.progress: Progress | None = None
        self.error: Exception | None = None
        self._steps = steps
        self._task = asyncio.create_task(self._run(), name=f"events.dashboard job {self.id}")

    @property
    def canary_failed(self) -> CanaryFailedError | None:
        """The error of its canary, if it ended with one."""
        return self.error if isinstance(self.error, CanaryFailedError) else None

    async def stop(self) -> None:
        """Stop it, and return when it has ended. A batch in flight may still be done."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if self.state == "running":  # it had not begun
            self.state = "stopped"

    async def _run(self) -> None:
        try:
            async with aclosing(self._steps) as steps:
                async for progress in steps:
                    self.progress = progress
            self.state = "finished"
        except asyncio.CancelledError:
            self.state = "stopped"
        except EventsError as error:
            self.state, self.error = "failed", error
        except Exception as error:
            self.state, self.error = "failed", error
            logger.exception("a job of the dashboard failed")


class Jobs:
    """The jobs of this process, the newest first."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    def all(self) -> list[Job]:
        """Return the jobs, the newest first."""
        return list(reversed(self._jobs.values()))

    def get(self, id: str) -> Job | None:
        """Return the job with this id, or None."""
        return self._jobs.get(id)

    def running_at(self, consumer: str) -> Job | None:
        """Return the running job of this consumer, or None."""
        for job in self._jobs.values():
            if job.state == "running" and job.consumer == consumer:
                return job
        return None

    def start(self, job: Job) -> Job:
        """Start a job, and drop the oldest of those that have ended."""
        self._jobs[job.id] = job
        ended = [each.id for each in self._jobs.values() if each.state != "running"]
        for id_ in ended[: max(0, len(self._jobs) - _MOST)]:
            del self._jobs[id_]
        return job
