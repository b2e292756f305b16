"""The processes of the services: started, probed, killed, started again, ended by SIGTERM."""

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import httpx

from examples.user_registration.chassis.http import CannotStartError

OnLine: TypeAlias = Callable[[str, str], None]
"""Called with the name of a service and a line of its log."""

_ROOT = Path(__file__).parents[3]  # where `examples` is
_SETTINGS = ("USER_SERVICE_", "EMAIL_SERVICE_", "LOG_")
_ENDS = 60.0  # seconds; those services take that are in the midst of something
_SHOWN = 20  # lines of a process that did not come up


class Service:
    """A program, and its process while there is one."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environment: Mapping[str, str],
        *,
        folder: Path,
        probes: str,
        on_line: OnLine,
    ) -> None:
        self.name = name
        self._arguments = arguments
        self._environment = dict(environment)
        self._folder = folder
        self._probes = probes
        self._on_line = on_line
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._last: deque[str] = deque(maxlen=_SHOWN)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self, *, time_limit: float = 120.0) -> None:
        """Start it, and return when it is ready, as its `/readyz` has it."""
        self._last.clear()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._arguments,
            cwd=self._folder,
            env=_untouched() | self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for who started us, and stops us in order
        )
        self._reading = asyncio.create_task(self._read())
        try:
            async with asyncio.timeout(time_limit):
                await self._ready(self._process)
        except TimeoutError:
            await self.kill()
            raise CannotStartError(self._explain(f"was not ready after {time_limit:g} s")) from None

    async def kill(self) -> None:
        """End it as a crash does."""
        await self._signal(signal.SIGKILL)

    async def stop(self) -> int | None:
        """Ask it to end, and return its exit status; None if there is no process."""
        return await self._signal(signal.SIGTERM)

    async def _signal(self, number: signal.Signals) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        if process.returncode is None:
            process.send_signal(number)
        try:
            async with asyncio.timeout(_ENDS):
                status = await process.wait()
        except (TimeoutError, asyncio.CancelledError):
            process.kill()
            status = await process.wait()
        if self._reading is not None:
            await self._reading
        return status

    async def _ready(self, process: asyncio.subprocess.Process) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
            while process.returncode is None:
                try:
                    answer = await http.get(f"{self._probes}/readyz")
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
                    continue
                if answer.is_success:
                    return
                await asyncio.sleep(0.05)
        if self._reading is not None:
            await self._reading
        raise CannotStartError(self._explain(f"ended with status {process.returncode}"))

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for raw in self._process.stderr:
            line = raw.decode(errors="replace").rstrip()
            self._last.append(line)
            self._on_line(self.name, line)

    def _explain(self, what: str) -> str:
        return "\n".join([f"{self.name} {what}; its last output:", *self._last])


def _untouched() -> dict[str, str]:
    """Return our environment without what it has for other runs of the services."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    path = os.pathsep.join([str(_ROOT), *filter(None, [ours.get("PYTHONPATH")])])
    return ours | {"PYTHONPATH": path}


@dataclass(frozen=True)
class Services:
    users: Service
    relay: Service
    email: Service

    def __iter__(self) -> Iterator[Service]:
        return iter((self.users, self.relay, self.email))


USERS = ["-m", "examples.user_registration.user_service"]
RELAY = ["-m", "events.relay", "examples.user_registration.user_service.relay:make_relay"]
EMAIL = ["-m", "examples.user_registration.email_service"]


def services(
    environment: Mapping[str, str], folder: Path, on_line: OnLine, **arguments: list[str]
) -> Services:
    """Return the three, not started yet, to run in this folder with these settings alone.

    `arguments` are for those that are to be other programs.
    """

    def service(name: str, default: list[str], port: str) -> Service:
        return Service(
            name,
            arguments.get(name, default),
            environment,
            folder=folder,
            probes=f"http://127.0.0.1:{environment[port]}",
            on_line=on_line,
        )

    return Services(
        service("users", USERS, "USER_SERVICE_HTTP_PORT"),
        service("relay", RELAY, "USER_SERVICE_RELAY_PROBE_PORT"),
        service("email", EMAIL, "EMAIL_SERVICE_PROBE_PORT"),
    )


@asynccontextmanager
async def running(those: Services) -> AsyncGenerator[Services]:
    """Start all of them at once, and see that none is left in the end."""
    async with AsyncExitStack() as stack:
        for service in those:
            stack.push_async_callback(service.stop)
        async with asyncio.TaskGroup() as group:
            for service in those:
                group.create_task(service.start())
        yield those
