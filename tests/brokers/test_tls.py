"""Each bus over TLS, and what it says of a certificate that nobody vouches for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from events.errors import BusUnavailableError
from events.integration import IntegrationEventBusRegistration, Topic
from events.integration.implementation.base import TransportIntegrationEventBus
from events.integration.implementation.nats import NatsIntegrationEventBus
from events.integration.implementation.rabbitmq import RabbitMQIntegrationEventBus
from events.integration.implementation.redis import (
    RedisPubSubIntegrationEventBus,
    RedisStreamsIntegrationEventBus,
)
from events.testing import eventually
from events.testing.contracts import Numbered, Probe
from tests.brokers.nats_server import NatsServer
from tests.brokers.rabbitmq_server import RabbitMQServer
from tests.brokers.redis_server import RedisServer
from tests.certificates import Certificates
from tests.servers import PrivateServer, free_port

NewBus = Callable[[Path | None], TransportIntegrationEventBus]


class TlsRabbitMQ(RabbitMQServer):
    def __init__(self, folder: Path, certificates: Certificates) -> None:
        super().__init__(folder)
        self.tls = free_port()
        self._certificates = certificates

    def environment(self) -> Mapping[str, str]:
        environment = super().environment()
        with (self.folder / "rabbitmq.conf").open("a") as config:
            config.write(
                f"listeners.ssl.1 = 127.0.0.1:{self.tls}\n"
                f"ssl_options.cacertfile = {self._certificates.ca}\n"
                f"ssl_options.certfile = {self._certificates.certificate}\n"
                f"ssl_options.keyfile = {self._certificates.key}\n"
                "ssl_options.verify = verify_none\n"
            )
        return environment

    def new_bus(self, ca: Path | None) -> TransportIntegrationEventBus:
        url = f"amqps://guest:guest@localhost:{self.tls}/"
        if ca is not None:
            url += f"?{urlencode({'ssl_options': repr({'ca_certs': str(ca)})})}"
        return RabbitMQIntegrationEventBus(url, connect_timeout=3600)


class TlsRedis(RedisServer):
    bus: type[RedisStreamsIntegrationEventBus | RedisPubSubIntegrationEventBus] = (
        RedisStreamsIntegrationEventBus
    )

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        super().__init__(folder)
        self.tls = free_port()
        self._certificates = certificates

    def command(self, binary: str) -> list[str]:
        files = self._certificates
        return [
            *(*super().command(binary), "--tls-port", str(self.tls), "--tls-auth-clients", "no"),
            *("--tls-cert-file", str(files.certificate), "--tls-key-file", str(files.key)),
            *("--tls-ca-cert-file", str(files.ca)),
        ]

    def new_bus(self, ca: Path | None) -> TransportIntegrationEventBus:
        url = f"rediss://localhost:{self.tls}/0"
        url += "" if ca is None else f"?{urlencode({'ssl_ca_certs': str(ca)})}"
        return self.bus(url, connect_timeout=3600)


class TlsRedisForPubSub(TlsRedis):
    bus = RedisPubSubIntegrationEventBus


class TlsNats(NatsServer):
    def __init__(self, folder: Path, certificates: Certificates) -> None:
        super().__init__(folder)
        self.tls = self.port
        self._certificates = certificates
        self.more = (
            *("--tls", "--tlscert", str(certificates.certificate)),
            *("--tlskey", str(certificates.key)),
        )

    def new_bus(self, ca: Path | None) -> TransportIntegrationEventBus:
        trusting = None if ca is None else {"tls": self._certificates.trust(ca)}
        url = f"tls://localhost:{self.port}"
        return NatsIntegrationEventBus(url, connect=trusting, connect_timeout=3600)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(
    scope="module",
    params=[TlsRabbitMQ, TlsRedis, TlsRedisForPubSub, TlsNats],
    ids=["rabbitmq", "redis streams", "redis pubsub", "nats"],
)
def server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    certificates: Certificates,
) -> Generator[Any]:
    server: PrivateServer = request.param(tmp_path_factory.mktemp("server"), certificates)
    with server:
        yield server


async def test_events_travel_over_tls(server: Any, certificates: Certificates) -> None:
    topic, probe = Topic("sealed"), Probe("reader")
    async with server.new_bus(certificates.ca) as bus:
        await bus.register(IntegrationEventBusRegistration(probe, topic, [Numbered]))
        await bus.send_many(topic, map(Numbered, range(100)))
        await eventually(lambda: probe.numbers == list(range(100)))


async def test_when_redis_is_shut_down_its_sockets_are_closed(
    tmp_path: Path, certificates: Certificates
) -> None:
    """At once: what is still being closed when the event loop ends is left open, with a warning."""
    with TlsRedis(tmp_path / "server", certificates) as server:
        before = _sockets()
        for kind in [TlsRedis, TlsRedisForPubSub] * 5:
            server.bus = kind.bus
            async with server.new_bus(certificates.ca) as bus:
                await bus.register(
                    IntegrationEventBusRegistration(Probe("reader"), Topic("closed"), [Numbered])
                )
                assert len(_sockets() - before) == 2
            assert _sockets() <= before


def _sockets() -> set[str]:
    found: set[str] = set()
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that this very look has open
            if (target := str(each.readlink())).startswith("socket:"):
                found.add(target)
    return found


@pytest.mark.parametrize("trusts", ["another authority", "the system's authorities"])
async def test_a_certificate_that_is_not_trusted_is_reported_at_once_with_host_and_reason(
    server: Any, certificates: Certificates, trusts: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bus = server.new_bus(certificates.wrong_ca if trusts == "another authority" else None)
    async with asyncio.timeout(60):  # it does not try again what cannot get better by itself
        with pytest.raises(BusUnavailableError) as raised:
            await bus.startup()
    assert f"localhost:{server.tls}" in str(raised.value)
    assert "certificate verify failed" in str(raised.value)
    assert not [record for record in caplog.records if record.name.startswith("events")]


async def test_a_server_that_speaks_no_tls_is_an_error_within_the_deadline(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        bus = RedisStreamsIntegrationEventBus(
            f"rediss://localhost:{server.port}", connect_timeout=1
        )
        with pytest.raises(BusUnavailableError, match="within 1 s|SSL"):
            await bus.startup()
