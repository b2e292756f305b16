"""`make demo-rabbitmq`, as people start it: it ends well, and leaves nothing when it is stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import psutil  # type: ignore[import-untyped]
import pytest

from examples.user_registration.demo_rabbitmq.broker import QUEUES
from tests.acceptance.test_demo import ROOT
from tests.brokers.rabbitmq_server import Client, RabbitMQServer

MODULE = "examples.user_registration.demo_rabbitmq"
SECONDS = 240.0


def environment(url: str) -> dict[str, str]:
    # Wide, so that no line is broken; without what would have it written in colours.
    ours = {"COLUMNS": "300", "RABBITMQ_URL": url}
    ours["RABBITMQ_CONNECT_TIMEOUT"] = "60"  # as the machine may be busy
    return {k: v for k, v in os.environ.items() if k != "FORCE_COLOR"} | ours


def demo(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", MODULE, *arguments],
        cwd=ROOT,
        env=environment(url),
        text=True,
        encoding="utf-8",
        capture_output=True,
        check=False,
        timeout=SECONDS,
    )


def queues(broker: RabbitMQServer) -> set[str]:
    listed = broker.ctl("list_queues", "name").splitlines()
    return {line.strip('"') for line in listed} & set(QUEUES)


def test_it_comes_to_its_end_and_one_registration_can_be_followed_through_all_processes(
    broker: RabbitMQServer,
) -> None:
    done = demo(broker.url, "alice@example.com")

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"all \d\d checks passed", done.stdout)
    assert "MISSING" not in done.stdout
    assert "Traceback" not in done.stdout
    assert "\x1b" not in done.stdout, "colours have no place in a pipe"
    tag = re.search(r"(\w{6}) http +POST /users alice@example.com", done.stdout)
    assert tag, done.stdout
    lines = [line for line in done.stdout.splitlines() if line[8:14] == tag[1]]
    said = {(line[15:23].strip(), line[23:].split("  ")[0]) for line in lines}
    assert said >= {
        ("http", "POST /users alice@example.com"),
        ("users", "request"),
        ("relay", "event sent"),
        ("email", "event handled"),
        ("email", "mail sent"),
        ("smtp", "From: welcome@shop.example"),
    }
    assert queues(broker) == set(), "it leaves nothing at the broker"


@pytest.mark.parametrize(
    ("moment", "number", "status"),
    [
        ("three processes start", signal.SIGINT, 130),
        ("event handled", signal.SIGINT, 130),
        ("the email service is gone", signal.SIGTERM, 143),
        ("the relay starts again", signal.SIGINT, 130),
    ],
)
def test_a_signal_ends_all_of_it_without_a_traceback(
    broker: RabbitMQServer, moment: str, number: signal.Signals, status: int
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", MODULE],
        cwd=ROOT,
        env=environment(broker.url),
        text=True,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if moment in line:
                break
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        rest, stderr = process.communicate(timeout=SECONDS)

    assert process.returncode == status, rest + stderr
    assert stderr == "\nstopped\n"
    assert "Traceback" not in rest
    _gone, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    assert queues(broker) == set()


def test_a_broker_that_is_not_there_is_named() -> None:
    done = demo("amqp://guest:guest@127.0.0.1:1/")

    assert done.returncode == 1
    assert done.stderr.startswith("cannot start: there is no broker at 127.0.0.1")
    assert "Traceback" not in done.stderr


def test_a_queue_that_somebody_else_consumes_is_left_alone(broker: RabbitMQServer) -> None:
    with Client(broker.url) as client:
        client.channel.queue_declare(QUEUES[0], durable=True)
        client.channel.basic_consume(QUEUES[0], lambda *_: None)
        try:
            done = demo(broker.url)
        finally:
            client.channel.queue_delete(QUEUES[0])

    assert done.returncode == 1
    assert f"somebody consumes {QUEUES[0]!r} on this broker" in done.stderr
