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


def test_an_integration_event_of_such_a_module_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "single.py").write_text(SINGLE)

    done = run(tmp_path, "single.py")

    assert done.returncode == 1
    assert (
        "its module is loaded twice under two names, '__main__' and 'single', as when"
        in done.stderr.splitlines()[-1]
    )
