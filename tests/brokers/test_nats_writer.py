"""What leaves for NATS: in order, together, and kept where it could not be written."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from nats.aio.client import Client
from nats.errors import ConnectionClosedError, MaxPayloadError

from events.errors import SendOutcomeUnknownError
from events.integration.implementation.nats import _writer
from events.integration.implementation.nats._driver import Direct
from events.integration.implementation.nats._publisher import Sending
from events.integration.implementation.nats._wire import MSG_ID, block
from events.integration.implementation.nats._writer import Outgoing, Writer
from events.testing import eventually


class Refused(Outgoing):
    error: Exception | None = None

    lost: Exception | None = None

    def fail(self, error: Exception) -> None:
        self.error = error

    def lose(self, error: Exception) -> None:
        self.lost = error


class OurClient(Direct):
    """Notes what it would write."""

    def __init__(self) -> None:
        super().__init__()
        self._max_payload = 100
        self.closed = False
        self.pieces: list[bytes] = []
        self.after_write: Callable[[], None] = lambda: None

    async def write(self, data: bytes) -> None:
        if self.closed:
            raise ConnectionClosedError
        self.pieces.append(data)
        asyncio.get_running_loop().call_soon(self.after_write)


class GivenClient(Client):
    """Notes what is published, and stands still at `b`."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[tuple[str, dict[str, str] | None]] = []
        self.room = asyncio.Event()
        self.flushed_after: list[str] = []

    async def publish(self, subject: str, *args: Any, **_: Any) -> None:
        self.published.append((subject, args[2]))
        if subject == "b":
            await self.room.wait()

    async def flush(self, timeout: int = 10) -> None:  # noqa: ASYNC109 - as the client has it
        self.flushed_after = [subject for subject, _ in self.published]


class FakeLink:
    up = True
    name = "NATS"

    def __init__(self, client: Client) -> None:
        self.client = client
        self.suspected = 0
        self.begin: Callable[[], None] = lambda: None
        self.stop: Callable[[], None] = lambda: None

    def add_writer(self, begin: Callable[[], None], stop: Callable[[], None]) -> None:
        self.begin, self.stop = begin, stop

    def look(self) -> None:
        self.suspected += 1

    async def wait_up(self) -> None:
        pass


@pytest.fixture
async def client() -> OurClient:
    return OurClient()


@pytest.fixture
async def link(client: OurClient) -> AsyncGenerator[FakeLink]:
    link = FakeLink(client)
    yield link
    link.stop()


async def turns() -> None:
    """Let everything run that can, without a moment going by."""
    for _ in range(5):
        await asyncio.sleep(0)


def writer_of(link: Any) -> Writer:
    return Writer(link)


async def test_what_comes_together_is_written_as_one_piece(
    client: OurClient, link: FakeLink
) -> None:
    writer = writer_of(link)
    link.begin()
    writer.put(Outgoing("a", b"1", "reply"))
    writer.put(Outgoing("b", b"22", "", b"NATS/1.0\r\n\r\n"))
    await turns()
    assert client.pieces == [b"PUB a reply 1\r\n1\r\nHPUB b  12 14\r\nNATS/1.0\r\n\r\n22\r\n"]


async def test_large_bodies_are_written_in_several_pieces(
    client: OurClient, link: FakeLink
) -> None:
    client._max_payload = 1_000_000
    writer = writer_of(link)
    sizes = [10, 1_000_000, 1_000_000, 100_000, 100_000, 100_000, 100_000, 10]
    items = [Outgoing(f"s{number}", b"x" * size) for number, size in enumerate(sizes)]
    for item in items:
        writer.put(item)
    link.begin()
    await eventually(lambda: all(item.written for item in items))
    assert [re.findall(rb"PUB (s\d)", piece) for piece in client.pieces] == [
        [b"s0", b"s1"],
        [b"s2"],
        [b"s3", b"s4", b"s5"],
        [b"s6", b"s7"],
    ]
    assert b"".join(client.pieces) == b"".join(item.command() for item in items)


async def test_an_acknowledgement_waits_for_others(
    client: OurClient, link: FakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_writer, "_MOMENT", 1.0)  # longer than this process may wait for a core
    writer = writer_of(link)
    link.begin()
    client.after_write = lambda: writer.put_with_others(Outgoing("ack"))
    writer.put(Outgoing("first"))
    await turns()
    for _ in range(2):  # each in a turn of its own
        writer.put_with_others(Outgoing("ack"))
        await turns()
    assert len(client.pieces) == 1
    await eventually(lambda: len(client.pieces) >= 2)
    assert client.pieces[1].count(b"PUB ack") == 3


async def test_a_closed_client_loses_nothing(client: OurClient, link: FakeLink) -> None:
    writer = writer_of(link)
    client.closed = True
    link.begin()
    items = [Outgoing(subject) for subject in "abc"]
    for item in items:
        writer.put(item)
    await turns()
    assert link.suspected == 1
    assert not any(item.written for item in items)
    client.closed = False
    link.begin()
    await turns()
    assert client.pieces == [b"PUB a  0\r\n\r\nPUB b  0\r\n\r\nPUB c  0\r\n\r\n"]
    assert all(item.written for item in items)


async def test_what_is_too_large_for_the_server_is_refused_alone(
    client: OurClient, link: FakeLink
) -> None:
    writer, large = writer_of(link), Refused("large", b"x" * 60, "", b"y" * 41)
    link.begin()
    writer.put(large)
    writer.put(Outgoing("small"))
    await turns()
    assert isinstance(large.error, MaxPayloadError)
    assert client.pieces == [b"PUB small  0\r\n\r\n"]


async def test_what_the_driver_fails_at_is_uncertain_and_does_not_stop_the_rest(
    client: OurClient,
    link: FakeLink,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(_: bytes) -> None:
        raise RuntimeError("of another version")

    writer = writer_of(link)
    link.begin()
    with monkeypatch.context() as patched:
        patched.setattr(client, "write", fail)
        for _ in range(2):
            refused = Refused("a")
            writer.put(refused)
            await turns()
            assert isinstance(refused.lost, RuntimeError)
            assert refused.error is None, "it may have been written"
    writer.put(Outgoing("b"))
    await turns()
    assert client.pieces == [b"PUB b  0\r\n\r\n"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_a_send_that_the_driver_failed_at_is_reported_as_unknown_with_its_id() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    headers = block({MSG_ID: "id-1"})
    Sending("s.a", b"{}", headers, "s", future).lose(RuntimeError("half way"))
    with pytest.raises(SendOutcomeUnknownError, match="id-1.*half way"):
        await future


async def test_a_writer_that_is_stopped_in_the_middle_keeps_the_rest() -> None:
    client = GivenClient()
    link = FakeLink(client)
    writer = writer_of(link)
    link.begin()
    for subject in "abc":
        writer.put(Outgoing(subject, b"", "", b"NATS/1.0\r\nn: v\r\n\r\n"))
    await turns()
    link.stop()
    await turns()
    link.begin()
    await turns()
    link.stop()
    assert client.published == [("a", {"n": "v"}), ("b", {"n": "v"}), ("c", {"n": "v"})]


async def test_a_flush_waits_for_what_the_client_has_no_room_for_yet() -> None:
    client = GivenClient()
    link = FakeLink(client)
    writer = writer_of(link)
    link.begin()
    for subject in "abc":
        writer.put(Outgoing(subject))
    await turns()
    flushing = asyncio.create_task(writer.flush())
    await turns()
    assert not flushing.done()
    client.room.set()
    async with asyncio.timeout(60):
        await flushing
    link.stop()
    assert client.flushed_after == ["a", "b", "c"]
