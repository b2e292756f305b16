"""What must be true, and whether it was: the demo fails if one of these did not come about."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from examples.user_registration.demo.timeline import Timeline

_POLL = 0.01  # seconds


class MissingError(Exception):
    """Something did not happen; what the scene goes on with depends on it."""


@dataclass
class Scene:
    title: str
    passed: int = 0
    missing: str = ""


@dataclass
class Checks:
    """Compare what is expected with what a look at the facts shows, for at most `timeout`."""

    timeline: Timeline
    timeout: float
    scenes: list[Scene] = field(default_factory=list[Scene])

    @property
    def all_passed(self) -> bool:
        return bool(self.scenes) and not any(scene.missing for scene in self.scenes)

    def scene(self, title: str) -> None:
        self.scenes.append(Scene(title))
        self.timeline.scene(len(self.scenes), title)

    def that(self, what: str, found: object, expected: object) -> None:
        """Expect it now."""
        scene = self.scenes[-1]
        if found == expected:
            scene.passed += 1
            self.timeline.passed(what)
        else:
            scene.missing = f"{what}: expected {expected!r}, found {found!r}"
            self.timeline.missing(scene.missing)
            raise MissingError(scene.missing)

    async def until(
        self, what: str, look: Callable[[], Awaitable[object]], expected: object
    ) -> None:
        """Look until the expected is found."""
        end = self._now() + self.timeout
        found = await look()
        while found != expected and self._now() < end:
            await asyncio.sleep(_POLL)
            found = await look()
        self.that(what, found, expected)

    async def stays(
        self, what: str, look: Callable[[], Awaitable[object]], expected: object, *, seconds: float
    ) -> None:
        """Look until the time is over, and find the expected each time."""
        end = self._now() + seconds
        found = await look()
        while found == expected and self._now() < end:
            await asyncio.sleep(_POLL)
            found = await look()
        self.that(what, found, expected)

    def summary(self) -> Table:
        table = Table(box=SIMPLE_HEAD)
        table.add_column("scene", justify="right")
        table.add_column("what was checked")
        table.add_column("passed")
        for number, scene in enumerate(self.scenes, 1):
            result = Text(str(scene.passed), "green")
            if scene.missing:
                result = Text(f"{scene.passed}, then missing: {scene.missing}", "red")
            table.add_row(str(number), scene.title, result)
        return table

    def verdict(self) -> str:
        passed = sum(scene.passed for scene in self.scenes)
        missing = sum(bool(scene.missing) for scene in self.scenes)
        if missing:
            return f"{missing} of {len(self.scenes)} scenes did not finish"
        return f"all {passed} checks passed"

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
