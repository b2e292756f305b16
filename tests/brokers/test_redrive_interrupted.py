"""1,000 dead letters are redriven, the operator's process and the broker are killed meanwhile.

Property 45: none is lost, and the same command goes on where it was ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from events.testing import eventually
from tests.brokers.nats_server import NatsServer
from tests.brokers.rabbitmq_server import RabbitMQServer
from tests.brokers.redis_server import RedisServer
from tests.servers import PrivateServer

COUNT, BATCH = 1_000, 20

APP = """
import os
from dataclasses import dataclass

from events.integration import EventHandlerConsumer, IntegrationEvent, RetryPolicy, Topic
from events.integration import IntegrationEventBusRegistration

NOTES = Topic("notes")
BUSES = {"amqp": ("rabbitmq", "RabbitMQBus"), "redi": ("redis", "RedisStreamsBus"), "nats": ("nats", "NATSBus")}
broken, handled = True, []


@dataclass
class Noted(IntegrationEvent):
    type = "interrupted.noted"
    version = 1
    number: int


async def on_noted(event):
    if broken:
        raise ValueError(f"note {event.number} is bad")
    handled.append(event.number)


def new_bus():
    from importlib import import_module
    url = os.environ["BROKER_URL"]
    module, name = BUSES[url[:4]]
    consumer = EventHandlerConsumer("notes-reader", {Noted: on_noted})
    registration = IntegrationEventBusRegistration(
        consumer, NOTES, retry=RetryPolicy(attempts=1), concurrency=8
    )
    patient = {"connect_timeout": 60, "startup_timeout": 240, "send_timeout": 60}
    return getattr(import_module(f"events.{module}"), name)(url, [registration], **patient)
"""


async def operator(folder: Path, url: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "events.cli", "dead", "redrive", "--all", "--json"),
        *("--app", "interrupted_app:new_bus", "--no-canary", "--audit", "audit.jsonl"),
        *("--batch", str(BATCH), "--rate", "100"),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": "", "BROKER_URL": url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def reached(process: asyncio.subprocess.Process, count: int) -> None:
    """Return when its progress is so far."""
    assert process.stderr is not None
    said: list[bytes] = []
    async for line in process.stderr:
        said.append(line)
        done = line.rpartition(b": ")[2].partition(b" of ")[0]
        if done.isdigit() and int(done) >= count:
            return
    raise AssertionError(f"it ended before: {said}")


@pytest.mark.parametrize("server", [RabbitMQServer, RedisServer, NatsServer])
async def test_45_a_redrive_survives_its_operator_and_its_broker(
    server: type[PrivateServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "interrupted_app.py").write_text(APP)
    with server(tmp_path / "server") as broker:
        monkeypatch.setenv("BROKER_URL", broker.url)
        spec = spec_from_file_location("interrupted_app", tmp_path / "interrupted_app.py")
        assert spec is not None
        assert spec.loader is not None
        app: Any = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "interrupted_app", app)
        spec.loader.exec_module(app)
        async with app.new_bus() as bus:
            await bus.send_many(app.NOTES, [app.Noted(number) for number in range(COUNT)])

            async def all_dead() -> bool:
                return len(await bus.dead_letters("notes-reader", limit=2 * COUNT)) == COUNT

            await eventually(all_dead)
            app.broken = False

            first = await operator(tmp_path, broker.url)
            await reached(first, 200)
            first.send_signal(signal.SIGKILL)
            await first.communicate()
            left = len(await bus.dead_letters("notes-reader", limit=2 * COUNT))
            assert 0 < left <= COUNT - 200

            second = await operator(tmp_path, broker.url)
            await reached(second, 100)
            if isinstance(broker, RabbitMQServer):
                await eventually(broker.knows_its_quorum_queues)
            await asyncio.to_thread(broker.restart)
            out, err = await asyncio.wait_for(second.communicate(), 200)
            assert second.returncode == 0, err.decode()
            (done,) = [json.loads(line) for line in out.splitlines()]
            assert done["done"] + done["gone"] == done["total"] == left

            await eventually(lambda: set(app.handled) == set(range(COUNT)))
            # NATS writes down later what was removed: a crash brings it back. The same command goes
            # on with that, too, and within the stream's duplicate window nothing comes twice by it.
            third = await operator(tmp_path, broker.url)
            _, err = await asyncio.wait_for(third.communicate(), 200)
            assert third.returncode == 0, err.decode()
            assert await bus.dead_letters("notes-reader") == []
    twice = COUNT - Counter(Counter(app.handled).values())[1]
    # A kill may repeat one batch; so may the broker's, and what its consumer had in flight.
    print(f"{server.__name__}: {twice} of {COUNT} came twice")  # noqa: T201 - a figure, with -s
    records = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert {record["outcome"] for record in records} == {"finished"}
