"""The example that one runs by hand against each broker: it ends in order on Ctrl-C."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "examples.ticker",
        *arguments,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_ticks_until_it_is_stopped(number: signal.Signals) -> None:
    process = await start()
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 120) == b"tick 1, attempt 1\n"
    process.send_signal(number)
    _, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0
    connected, started, stopped = err.decode().splitlines()
    connection = "the in-memory bus is connected, nothing it carries outlives the process"
    assert connected.endswith(connection)
    assert started.endswith("; stop it with SIGTERM")
    assert stopped.endswith(" has stopped")


@pytest.mark.parametrize(
    ("url", "status", "text"),
    [
        ("kafka://localhost", 2, "'kafka://localhost' begins with none of amqp,"),
        (
            "amqp://localhost:1/",
            1,
            "cannot start: RabbitMQIntegrationEventBus(amqp://localhost:1/) is not available: ",
        ),
    ],
)
async def test_a_broker_that_is_not_there_is_named(url: str, status: int, text: str) -> None:
    process = await start(url)
    _, err = await asyncio.wait_for(process.communicate(), 120)
    assert text in err.decode()
    assert process.returncode == status
    assert b"Traceback" not in err
