"""The application behind a real HTTP server, on loopback, for as long as the demo lasts."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress

import uvicorn
from fastapi import FastAPI

_HOST = "127.0.0.1"
_STARTUP = 10.0  # seconds


class CannotStartError(Exception):
    """A port is taken, or the application did not come up."""


@asynccontextmanager
async def serving(app: FastAPI, port: int) -> AsyncGenerator[str]:
    """Serve the application on a port, 0 for a free one, and give its URL."""
    with _listening(port) as listener:
        server = _Server(
            uvicorn.Config(
                app, lifespan="on", log_config=None, access_log=False, timeout_graceful_shutdown=2
            )
        )
        serving = asyncio.create_task(_serve(server, listener))
        try:
            await _until_started(server, serving)
            yield f"http://{_HOST}:{listener.getsockname()[1]}"
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
def _listening(port: int) -> Generator[socket.socket]:
    # Named as TCP in full, as asyncio looks for that before it turns off Nagle's delay.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HOST, port))
            listener.listen()
        except OSError as error:
            raise CannotStartError(
                f"port {port} of {_HOST} cannot be used ({error.strerror}); "
                f"choose another, or leave --port out to have a free one"
            ) from error
        yield listener


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals to whoever runs us: Ctrl-C has to end the whole demo."""
        yield
