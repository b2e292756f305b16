"""The demo's broker: the one that `RABBITMQ_URL` names, else that on localhost, else its own."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pika  # type: ignore[import-untyped]
import pika.exceptions  # type: ignore[import-untyped]

from examples.user_registration.chassis.http import CannotStartError
from examples.user_registration.contracts import USERS
from examples.user_registration.email_service.presentation.consumer import NAME
from tests.brokers.rabbitmq_server import RabbitMQServer

_LOCAL = "amqp://guest:guest@127.0.0.1:5672/"

# As the library names them: see docs/reference/buses/rabbitmq.md.
_QUEUE = f"{NAME}@{USERS.name}"
QUEUES = (_QUEUE, f"{_QUEUE}:quarantine", f"{NAME}:dead")


@asynccontextmanager
async def broker(say: Callable[[str], None]) -> AsyncGenerator[str]:
    """Give the URL of a broker on which nothing of ours is left over."""
    url = os.environ.get("RABBITMQ_URL")
    if url is None and _listens(5672):
        url = _LOCAL
        say("RabbitMQ: the one on localhost")
    if url is None:
        say("RabbitMQ: none on localhost, so one starts for this demo; it takes some ten seconds")
        async with _private() as url:
            yield url
        return
    await asyncio.to_thread(_clean, url, refuse_if_used=True)
    try:
        yield url
    finally:
        await asyncio.to_thread(_clean, url, refuse_if_used=False)


@asynccontextmanager
async def _private() -> AsyncGenerator[str]:
    await _see_that_it_is_installed()
    with TemporaryDirectory(prefix="user-registration-rabbitmq-") as folder:
        server = RabbitMQServer(Path(folder))
        starting = asyncio.create_task(asyncio.to_thread(server.__enter__))
        try:
            await asyncio.shield(starting)
            yield server.url
        finally:
            server.kill()  # if it is still starting, that ends as well
            with suppress(Exception):
                await starting
            server.__exit__(None, None, None)


async def _see_that_it_is_installed() -> None:
    script = Path(__file__).parents[3] / "scripts" / "servers"
    process = await asyncio.create_subprocess_exec(str(script), "rabbitmq")
    if await process.wait():
        raise CannotStartError("there is no RabbitMQ; or: docker compose up -d --wait rabbitmq")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _clean(url: str, *, refuse_if_used: bool) -> None:
    """Delete what a run of this demo declares, and leaves if it is killed."""
    try:
        connection = pika.BlockingConnection(pika.URLParameters(url))
    except (pika.exceptions.AMQPError, OSError) as error:
        raise CannotStartError(
            f"there is no broker at {pika.URLParameters(url).host}: "
            f"{str(error) or type(error).__name__}; set RABBITMQ_URL, or unset it"
        ) from error
    try:
        channel = connection.channel()
        if refuse_if_used:
            try:
                found = channel.queue_declare(_QUEUE, passive=True).method
            except pika.exceptions.ChannelClosedByBroker:
                channel = connection.channel()  # it is not there, which costs the channel
            else:
                if found.consumer_count:
                    raise CannotStartError(
                        f"somebody consumes {_QUEUE!r} on this broker, perhaps another demo: "
                        f"stop it, or set RABBITMQ_URL to another virtual host"
                    )
        for queue in QUEUES:
            channel.queue_delete(queue)
        channel.exchange_delete(USERS.name)
    finally:
        connection.close()
