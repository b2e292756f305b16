"""RabbitMQ for tests: the shared one, or private ones with their own node, base and cookie."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack
from unittest import mock

import pika  # type: ignore[import-untyped]
import pytest
from pika.channel import Channel  # type: ignore[import-untyped]

from events.integration.implementation.base import BusOptions, TransportIntegrationEventBus
from events.integration.implementation.rabbitmq import (
    RabbitMQIntegrationEventBus,
    RabbitMQTransport,
)
from events.integration.implementation.rabbitmq._topology import QueueType, dead_letter_queue
from events.testing.contracts import Harness
from tests.servers import PrivateServer, binary_of, free_port, listens, shared_url

DEFAULT_URL = "amqp://guest:guest@127.0.0.1:5672/"
LARGEST = 16 << 20  # bytes of a body: what RabbitMQ 4 has unless configured; before, it was 128 MiB
SCRIPT = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # Debian's, without its switch to another user


class RabbitMQServer(PrivateServer):
    """One node, isolated from others: its own port mapper, its own cookie."""

    name = "rabbitmq"
    binary = binary_of("rabbitmq", SCRIPT if Path(SCRIPT).exists() else "rabbitmq-server")
    package = "rabbitmq-server"
    timeout = 120.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._epmd = free_port()
        self._dist = free_port()
        self._mapper: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def as_user(self, user: str) -> str:
        """Return the URL for a user whose password is his name."""
        return f"amqp://{user}:{user}@127.0.0.1:{self.port}/"

    def permit(self, user: str, *, configure: str = ".*", write: str = ".*") -> None:
        """Create the user if it is missing. It may read everything, and do the rest with what matches."""
        if user not in self.ctl("list_users"):
            self.ctl("add_user", user, user)
        self.ctl("set_permissions", user, configure, write, ".*")

    def command(self, binary: str) -> list[str]:
        return [binary]

    def environment(self) -> Mapping[str, str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "rabbitmq.conf"
        config.write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "vm_memory_high_watermark.absolute = 2GB\n"
            "disk_free_limit.absolute = 1MB\n"
            f"max_message_size = {LARGEST}\n"
        )
        plugins = self.folder / "enabled_plugins"
        plugins.write_text("[].\n")
        return {
            "HOME": str(self.folder),  # where the cookie is
            "RABBITMQ_NODENAME": f"events{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "no-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_DIST_PORT": str(self._dist),
            "ERL_EPMD_PORT": str(self._epmd),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
        }

    def start(self) -> None:
        # Erlang's port mapper, as a child of ours: the node would start a daemon that outlives it.
        epmd = shutil.which("epmd")
        if self._mapper is None and epmd is not None:
            self._mapper = subprocess.Popen(
                [epmd, "-port", str(self._epmd)],
                stderr=subprocess.DEVNULL,  # it complains of who looks whether it listens
            )
            while not listens("127.0.0.1", self._epmd):
                time.sleep(0.01)
        super().start()

    def answers(self) -> bool:
        """Return whether it answers AMQP; it listens some seconds before."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                probe.settimeout(2)
                probe.sendall(b"AMQP\x00\x00\x09\x01")
                return probe.recv(1) == b"\x01"
        except OSError:
            return False

    def knows_its_quorum_queues(self) -> bool:
        """Return whether all of its quorum queues would survive SIGKILL.

        RabbitMQ 3.10 writes the names of new ones down half a second later, or more when it is
        busy. Killed before that, a single node has a queue that never elects a leader again; no
        client can help that. Each queue has a folder, whose name must be in the list of all.
        """
        queues = [file.parent for file in self.folder.glob("mnesia/*/quorum/*/*/config")]
        return all(
            queue.name.encode() in (queue.parent / listed).read_bytes()
            for queue in queues
            for listed in ("names.dets", "meta.dets")
        )

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl against this node."""
        script = Path(self.binary).with_name("rabbitmqctl")
        binary = str(script) if script.exists() else shutil.which("rabbitmqctl")
        assert binary is not None
        environment = os.environ | dict(self.environment())
        return subprocess.run(
            [binary, "-q", *arguments], env=environment, check=True, capture_output=True, text=True
        ).stdout

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(exc_type, exc, traceback)
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper.wait()


@contextmanager
def private_server() -> Generator[RabbitMQServer]:
    with (
        tempfile.TemporaryDirectory(prefix="events-rabbitmq-") as folder,
        RabbitMQServer(Path(folder)) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def rabbitmq_url() -> Generator[str]:
    """Where a RabbitMQ is: the shared one, else a private one of this session."""
    shared = shared_url("rabbitmq", DEFAULT_URL)
    if shared is not None:
        yield shared
        return
    with private_server() as server:
        yield server.url


@pytest.fixture(scope="module")
def rabbitmq_server() -> Generator[RabbitMQServer]:
    """A server of this module's own, to be killed and frozen."""
    with private_server() as server:
        yield server


class Client:
    """The bare driver, to inspect and modify a broker."""

    def __init__(self, url: str) -> None:
        self.connection: Any = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.connection.is_open:
            self.connection.close()

    def count(self, queue: str) -> int:
        answer = self.channel.queue_declare(queue, passive=True)
        return int(answer.method.message_count)

    def drop(self, names: set[tuple[str, str]]) -> None:
        for kind, name in names:
            if kind == "exchange":
                self.channel.exchange_delete(name)
            else:
                self.channel.queue_delete(name)


class Declared:
    """Record the names of what the driver declares, so that a test can remove them."""

    def __init__(self) -> None:
        self.names: set[tuple[str, str]] = set()
        self._patches = [
            self._patch("exchange_declare", "exchange"),
            self._patch("queue_declare", "queue"),
        ]

    def _patch(self, verb: str, kind: str) -> Any:
        original = getattr(Channel, verb)

        def declare(channel: Any, *args: Any, **kwargs: Any) -> Any:
            name = kwargs[kind] if kind in kwargs else args[0]
            if name and not kwargs.get("passive"):
                self.names.add((kind, name))
            return original(channel, *args, **kwargs)

        return mock.patch.object(Channel, verb, declare)

    def start(self) -> None:
        for patch in self._patches:
            patch.start()

    def stop(self) -> None:
        for patch in self._patches:
            patch.stop()


def private(owner: Any, name: str) -> Any:
    """Return a private name of the driver, even if `moved_driver` has renamed it."""
    return getattr(owner, name, None) or getattr(owner, f"{name}_has_moved")


def connections(bus: TransportIntegrationEventBus) -> list[Any]:
    """Return the open connections of a bus."""
    transport = bus.transport
    assert isinstance(transport, RabbitMQTransport)
    links = (transport._outward, transport._inward)
    return [link.connection for link in links if link is not None and link.connection is not None]


class RabbitMQHarness(Harness):
    pace = 0.05
    timeout = 120.0
    deadline = 240.0
    queue_type: QueueType = "quorum"

    def __init__(self, url: str) -> None:
        self.url = url
        self.declared = Declared()
        self.declared.start()
        self._buses: list[RabbitMQIntegrationEventBus] = []

    def new_bus(self, **options: Unpack[BusOptions]) -> RabbitMQIntegrationEventBus:
        # A private broker that has just started may be slow on a busy machine.
        options.setdefault("connect_timeout", 60)
        options.setdefault("startup_timeout", 240)
        bus = RabbitMQIntegrationEventBus(self.url, queue_type=self.queue_type, **options)
        self._buses.append(bus)
        return bus

    @asynccontextmanager
    async def break_dead_letters(self) -> AsyncGenerator[None, None]:
        """Replace them by queues that refuse everything."""
        consumers = {r.consumer.name for bus in self._buses for r in bus.registrations}
        queues = [dead_letter_queue(name) for name in consumers]
        with Client(self.url) as client:
            for queue in queues:
                client.channel.queue_delete(queue)
                full = {"x-max-length": 0, "x-overflow": "reject-publish"}
                client.channel.queue_declare(queue, durable=True, arguments=full)
            yield
            for queue in queues:
                client.channel.queue_delete(queue)

    async def lose_connection(self, bus: TransportIntegrationEventBus) -> None:
        for connection in connections(bus):
            private(connection._connection, "_transport")._sock.shutdown(socket.SHUT_RDWR)
        await asyncio.sleep(0)
        while bus.health().connected:
            await asyncio.sleep(0.001)

    async def open_resources(self) -> dict[str, int]:
        open_ = [connection for bus in self._buses for connection in connections(bus)]
        return {
            "connections": len(open_),
            "channels": sum(
                len(private(connection._connection, "_channels")) for connection in open_
            ),
        }

    async def aclose(self) -> None:
        self.declared.stop()
        with Client(self.url) as client:
            client.drop(self.declared.names)
