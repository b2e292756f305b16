"""`python -m examples.online_chat [--port PORT]`: one server of the chat; `--help` tells more."""

import argparse
import asyncio
import socket
import sys
from contextlib import suppress

import uvicorn
from pydantic import ValidationError

from events.errors import BusError
from examples.online_chat.app import create_app, create_container
from examples.online_chat.application.chat import Chat, new_server_id
from examples.online_chat.logs import configure_logs
from examples.online_chat.settings import Settings

FRAME_LIMIT = 1 << 20  # bytes; up to here a frame is answered, beyond it the socket is closed

ALONE = """\
{url}  (in-memory bus: this process is the whole chat; Ctrl-C ends it)

Two servers, one chat, over Redis (docker compose up -d --wait redis, or any other):
    REDIS_URL=redis://localhost:6379/0 make chat
    REDIS_URL=redis://localhost:6379/0 make chat ARGS="--port 8001"
"""
ONE_OF_MANY = """\
{url}  (over Redis: start more with another --port, they are one chat; Ctrl-C ends this one)
"""


class CannotStartError(Exception):
    """Something is in the way; the text says what."""


async def serve(settings: Settings) -> None:
    server_id = new_server_id()
    configure_logs(settings.log_format, server=server_id)
    with _listen(settings.host, settings.port) as listener:
        container = create_container(settings, server_id)
        try:
            await container.get(Chat)  # here, as uvicorn would make a traceback of what it raises
        except BusError as error:
            raise CannotStartError(str(error)) from error
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(container),
                ws="websockets-sansio",
                ws_max_size=FRAME_LIMIT,
                ws_per_message_deflate=False,  # frames are small, its memory for each socket is not
                lifespan="on",
                log_config=None,
                log_level="warning",
                timeout_graceful_shutdown=5,
            )
        )
        serving = asyncio.create_task(server.serve([listener]))
        while not (server.started or serving.done()):  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.01)
        if server.started:
            say = ALONE if settings.redis_url is None else ONE_OF_MANY
            print(say.format(url=_url(listener)), flush=True)
        await serving


def _listen(host: str, port: int) -> socket.socket:
    # Named as TCP in full, as asyncio looks for that before it turns off Nagle's delay.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise CannotStartError(
            f"port {port} of {host} cannot be used ({error.strerror or error}); "
            f'choose another, as in make chat ARGS="--port 8001"'
        ) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{host}:{port}/"


def _settings(arguments: list[str]) -> Settings:
    parser = argparse.ArgumentParser(
        prog="python -m examples.online_chat",
        description="One server of the chat. Its settings come from the environment, REDIS_URL "
        "first of all; these go before them.",
    )
    parser.add_argument("--port", type=int, help="8000 if not given; 0 for a free one")
    parser.add_argument("--host", help="127.0.0.1 if not given; 0.0.0.0 for all who can reach you")
    given = {k: v for k, v in vars(parser.parse_args(arguments)).items() if v is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        parser.error("; ".join(lines))


def main(arguments: list[str]) -> int:
    try:
        with suppress(KeyboardInterrupt):  # how uvicorn passes Ctrl-C on, when all is closed
            asyncio.run(serve(_settings(arguments)))
    except CannotStartError as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
