"""A module that is run as a program and imported by a server exists twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, importlib, sys
from events.domain import DomainEvent, DomainEventDispatcher, DomainEventHandler, SimpleDomainEventHandlerFactory
from orders import OrderPaid


class SendMail(DomainEventHandler[OrderPaid]):
    async def handle(self, event):
        print("mail by", __name__, flush=True)


async def serve():
    async with DomainEventDispatcher(SimpleDomainEventHandlerFactory()) as dispatcher:
        dispatcher.store_event(OrderPaid())


def serve_here():
    asyncio.run(importlib.import_module("main").serve())  # as a server does with "main:app"


if __name__ == "__main__":
    if "spawned" in sys.argv:
        import multiprocessing

        process = multiprocessing.get_context("spawn").Process(target=serve_here)
        process.start()
        process.join()
        sys.exit(process.exitcode)
    serve_here()
"""

OWN_EVENTS = """
import asyncio
from events.domain import DomainEvent, DomainEventDispatcher, DomainEventHandler, SimpleDomainEventHandlerFactory
from orders import OrderPaid


class OrderPlaced(DomainEvent):
    type = "order.placed"


class SendMail(DomainEventHandler[OrderPlaced | OrderPaid]):
    async def handle(self, event):
        print(event.type, "by", __name__)


async def publish():
    print(__name__, "publishes")
    async with DomainEventDispatcher(SimpleDomainEventHandlerFactory()) as dispatcher:
        dispatcher.store_events([OrderPlaced(), OrderPaid()])


if __name__ == "__main__":
    import main

    asyncio.run(publish())
    asyncio.run(main.publish())
"""

SERVER = """
import sys
from events.domain import DomainEventDispatcher, DomainEventHandler, SimpleDomainEventHandlerFactory
from orders import OrderPaid


class SendMail(DomainEventHandler[OrderPaid]):
    async def handle(self, event):
        print(f"mail by {__name__}\\n", end="", flush=True)  # in one write, as two may print


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        async with DomainEventDispatcher(SimpleDomainEventHandlerFactory()) as dispatcher:
            dispatcher.store_event(OrderPaid())
        print("serving\\n", end="", flush=True)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


if __name__ == "__main__":
    import uvicorn

    uvicorn.run("main:app", host="127.0.0.1", port=0, workers=int(sys.argv[1]), log_level="error")
"""

ORDERS = """
from events.domain import DomainEvent


class OrderPaid(DomainEvent):
    type = "order.paid"
"""

SINGLE = """
import importlib
from dataclasses import dataclass
from events.integration import IntegrationEvent


@dataclass
class OrderPaidV1(IntegrationEvent):
    type = "order.paid"
    version = 1


if __name__ == "__main__":
    importlib.import_module("single")
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("how", [["main.py"], ["-m", "main"], ["main.py", "spawned"]])
def test_each_event_is_handled_once(tmp_path: Path, how: list[str]) -> None:
    (tmp_path / "main.py").write_text(PROGRAM)
    (tmp_path / "orders.py").write_text(ORDERS)

    done = run(tmp_path, *how)

    assert (done.stdout, done.returncode) == ("mail by main\n", 0), done.stderr


def test_each_of_the_two_handles_the_events_that_its_own_module_defines(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(OWN_EVENTS)
    (tmp_path / "orders.py").write_text(ORDERS)

    done = run(tmp_path, "main.py")

    assert done.stdout.splitlines() == [
        "__main__ publishes",
        "order.placed by __main__",
        "order.paid by main",
        "main publishes",
        "order.placed by main",
        "order.paid by main",
    ], done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("workers", [1, 2])
def test_uvicorn(tmp_path: Path, workers: int) -> None:
    (tmp_path / "main.py").write_text(SERVER)
    (tmp_path / "orders.py").write_text(ORDERS)
    server = subprocess.Popen(
        [sys.executable, "main.py", str(workers)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    lines: list[str] = []
    while lines.count("serving\n") < workers and (not lines or lines[-1]):
        lines.append(server.stdout.readline())
    server.terminate()
    rest, errors = server.communicate()

    # A second handler would have another module; a slow worker may well be started once more.
    assert {*lines, *rest.splitlines(keepends=True)} == {"mail by main\n", "serving\n"}, errors


def test_an_integration_event_of_such_a_module_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "single.py").write_text(SINGLE)

    done = run(tmp_path, "single.py")

    assert done.returncode == 1
    assert (
        "its module is loaded twice under two names, '__main__' and 'single', as when"
        in done.stderr.splitlines()[-1]
    )
