"""An HTTP server that lives and ends with the code around it, and the two probes.

/livez    200 as long as the process answers at all
/readyz   200 if every check passes, else 503; the body says what each of them found
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TypeAlias

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

Check: TypeAlias = Callable[[], Awaitable[str | None]]
"""Return what is wrong, or None. What it raises is wrong as well."""

PROBES = ("/livez", "/readyz")

_STARTUP = 60.0  # seconds
_CHECK = 2.0


class CannotStartError(Exception):
    """A port is taken, or the application did not come up."""


def probes(checks: Mapping[str, Check]) -> list[BaseRoute]:
    """Return the routes of the two probes."""

    async def livez(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    async def readyz(_request: Request) -> JSONResponse:
        found = {name: await _found(check) for name, check in checks.items()}
        wrong = any(found.values())
        body = {name: fault or "ok" for name, fault in found.items()}
        return JSONResponse(body, 503 if wrong else 200)

    return [Route(path, probe) for path, probe in zip(PROBES, (livez, readyz), strict=True)]


async def _found(check: Check) -> str | None:
    try:
        async with asyncio.timeout(_CHECK):
            return await check()
    except TimeoutError:
        return f"no answer within {_CHECK:g} s"
    except Exception as error:  # noqa: BLE001 - a probe answers, whatever is the matter
        return f"{type(error).__name__}: {error}".splitlines()[0]


@asynccontextmanager
async def serving(app: ASGIApp, *, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str]:
    """Serve the application on a port, 0 for a free one, and give its URL."""
    with _listening(host, port) as listener:
        server = _Server(
            uvicorn.Config(
                app, lifespan="auto", log_config=None, access_log=False, timeout_graceful_shutdown=5
            )
        )
        serving = asyncio.create_task(_serve(server, listener))
        try:
            await _until_started(server, serving)
            yield f"http://{host}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    with suppress(SystemExit):  # how uvicorn says that the application did not come up
        await server.serve(sockets=[listener])


async def _until_started(server: uvicorn.Server, serving: asyncio.Task[None]) -> None:
    try:
        async with asyncio.timeout(_STARTUP):
            while not (server.started or serving.done()):  # noqa: ASYNC110 - uvicorn has no event
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise CannotStartError(f"the application took longer than {_STARTUP:g} s") from None
    if not server.started:
        raise CannotStartError("the application did not come up; see the log above")


@contextmanager
def _listening(host: str, port: int) -> Generator[socket.socket]:
    # Named as TCP in full, as asyncio looks for that before it turns off Nagle's delay.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen()
        except OSError as error:
            raise CannotStartError(
                f"port {port} of {host} cannot be used ({error.strerror}); choose another"
            ) from error
        yield listener


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals to the caller: they must end the whole process."""
        yield
