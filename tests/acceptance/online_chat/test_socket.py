"""The protocol over the socket, and HTTP around it, at a server that runs as people run it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_hurried
from websockets.exceptions import ConnectionClosed, InvalidStatus

from events.testing import eventually
from tests.acceptance.online_chat.processes import ChatServer

KEY = "0123456789abcdef"
connect = partial(connect_hurried, open_timeout=60, ping_interval=None)


def saying(text: str, message: str | None = None) -> dict[str, str]:
    return {"type": "say", "id": "s", "message": message or str(uuid4()), "text": text}


class Client:
    """A program at the socket; it reads one frame at a time, and keeps them in `seen`."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.seen: list[dict[str, Any]] = []

    async def send(self, frame: object) -> None:
        await self.connection.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))

    async def read(self, *types: str) -> dict[str, Any]:
        """Return the next frame of one of the types; any if none is given."""
        async with asyncio.timeout(120):
            while True:
                frame: dict[str, Any] = json.loads(await self.connection.recv())
                self.seen.append(frame)
                if not types or frame["type"] in types:
                    return frame

    async def ask(self, frame: object) -> dict[str, Any]:
        await self.send(frame)
        return await self.read("ok", "failed")

    async def join(self, room: str, name: str, key: str = KEY) -> dict[str, Any]:
        return await self.ask({"type": "join", "id": "j", "room": room, "name": name, "key": key})

    async def say(self, text: str, message: str | None = None) -> dict[str, Any]:
        return await self.ask(saying(text, message))

    async def end(self) -> tuple[int, str]:
        """Read to the end and return how it was closed."""
        async with asyncio.timeout(120):
            with suppress(ConnectionClosed):
                async for _ in self.connection:
                    pass
        return self.connection.close_code or 0, self.connection.close_reason or ""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[ChatServer]:
    log = tmp_path_factory.mktemp("chat") / "log"
    with ChatServer(log, rate=1000, burst=1000) as server:
        yield server


@pytest.fixture
async def client(server: ChatServer) -> AsyncGenerator[Client]:
    async with connect(server.socket_url) as connection:
        yield Client(connection)


@pytest.fixture
def room() -> str:
    return f"room-{uuid4().hex[:8]}"


# --- requests and their answers -------------------------------------------------------------------


async def test_join_answers_with_the_room_oneself_and_all_who_are_there(
    server: ChatServer, client: Client, room: str
) -> None:
    first = await client.join(f"#{room.upper()}", "  Ada ")
    assert first["id"] == "j"
    assert first["room"] == room
    assert first["you"] == {"id": first["you"]["id"], "name": "Ada"}
    assert first["members"] == [first["you"]]

    async with connect(server.socket_url) as connection:
        second = await Client(connection).join(room, "Ada", key="another key, 16 or more")
        assert second["you"]["name"] == "Ada"
        assert second["you"]["id"] != first["you"]["id"], "two of one name are distinct"
        by_id = sorted([first["you"], second["you"]], key=lambda member: member["id"])
        assert second["members"] == by_id
        news = await client.read("presence")
        assert news == {"type": "presence", "change": "joined", "member": second["you"]}
    assert (await client.read("presence"))["change"] == "left"


async def test_a_key_gives_the_same_id_again(server: ChatServer, room: str) -> None:
    seen = set[str]()
    for _ in range(2):
        async with connect(server.socket_url) as connection:
            seen.add((await Client(connection).join(room, "Ada"))["you"]["id"])
    assert len(seen) == 1


async def test_what_is_said_comes_back_as_it_was_said(client: Client, room: str) -> None:
    you = (await client.join(room, "<b>Ada</b>"))["you"]
    message, text = str(uuid4()), "<script>alert(1)</script> \u202e & 'quotes' \n 🎉"
    await client.send({"type": "say", "id": "x", "message": message, "text": text})
    both = {frame["type"]: frame for frame in [await client.read(), await client.read()]}
    assert both["ok"] == {"type": "ok", "id": "x"}
    at = both["message"].pop("at")
    assert at.endswith("Z")
    assert both["message"] == {"type": "message", "id": message, "author": you, "text": text}


@pytest.mark.parametrize(
    ("frame", "id", "reason"),
    [
        ("", None, "not JSON"),
        ("{", None, "not JSON"),
        ("\x00", None, "not JSON"),
        ("[" * 5000, None, "not a request: Expected `object`, got `array`"),
        ('{"type":"ping","id":' + "[" * 5000, None, "not a request"),
        ('{"type":"ping","x":' + "[" * 5000, None, "not JSON"),
        ('"text"', None, "not a request"),
        ("{}", None, "not a request: Object missing required field `type`"),
        ({"type": "dance", "id": "7"}, "7", "Invalid value 'dance'"),
        ({"type": "ping"}, None, "missing required field `id`"),
        ({"type": "ping", "id": "x" * 65}, None, "length <= 64"),
        ({"type": "ping", "id": 7}, None, "Expected `str`, got `int`"),
        ({"type": "say", "id": "7", "text": "hi"}, "7", "missing required field `message`"),
        ({"type": "say", "id": "7", "message": "no", "text": "hi"}, "7", "Invalid UUID"),
        ({"type": "say", "id": "7", "message": str(uuid4()), "text": 7}, "7", "Expected `str`"),
        (b"\x00\x01", None, "send text, not binary data"),
    ],
)
async def test_what_is_no_request_is_answered_and_the_socket_goes_on(
    client: Client, room: str, frame: object, id: str | None, reason: str
) -> None:
    await client.join(room, "Ada")
    answer = await client.ask(frame)
    assert (answer["type"], answer["id"], answer["retry"]) == ("failed", id, False)
    assert reason in answer["reason"]
    assert (await client.say("still here"))["type"] == "ok"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the message is empty"),
        (" \n\t ", "the message is empty"),
        ("x" * 4097, "the message has 4,097 bytes, the limit is 4,096"),
        ("x" * 1_000_000, "the message has 1,000,000 bytes, the limit is 4,096"),
    ],
)
async def test_what_nobody_may_say_is_refused_with_the_reason(
    client: Client, room: str, text: str, reason: str
) -> None:
    await client.join(room, "Ada")
    answer = await client.say(text)
    assert answer == {"type": "failed", "id": "s", "reason": reason, "retry": False}
    assert (await client.say("🎉" * 1024))["type"] == "ok"


async def test_a_frame_of_more_than_a_megabyte_ends_the_socket(client: Client, room: str) -> None:
    await client.join(room, "Ada")
    await client.send("x" * (2 << 20))
    assert (await client.end())[0] == 1009


async def test_before_a_room_is_joined_only_that_is_possible(client: Client, room: str) -> None:
    assert (await client.say("hello"))["reason"] == "join a room first"
    assert await client.ask({"type": "ping", "id": "p"}) == {"type": "ok", "id": "p"}
    refused = await client.join("two words", "Ada")
    assert "no spaces" in refused["reason"]
    assert (await client.join(room, "Ada"))["type"] == "ok"
    assert f"you are in {room} already" in (await client.join("other", "Ada"))["reason"]
    assert await client.ask({"type": "ping", "id": "p"}) == {"type": "ok", "id": "p"}


async def test_messages_of_one_person_keep_their_order(client: Client, room: str) -> None:
    await client.join(room, "Ada")
    texts = [str(number) for number in range(100)]
    for text in texts:
        await client.send({"type": "say", "id": text, "message": str(uuid4()), "text": text})
    assert [(await client.read("message"))["text"] for _ in texts] == texts


# --- limits ---------------------------------------------------------------------------------------


async def test_who_asks_too_fast_is_refused_and_slowed_down(tmp_path: Path, room: str) -> None:
    with ChatServer(tmp_path / "log", burst=3, rate=2) as server:
        async with connect(server.socket_url) as connection:
            client = Client(connection)
            await client.join(room, "Ada")
            # As many as it takes: what a busy machine lets pass between them is allowed.
            while (answer := await client.ask({"type": "ping", "id": "p"}))["type"] == "ok":
                pass
            assert answer["reason"].startswith("too fast: try again in 0.")
            assert answer["retry"] is True
            assert await client.ask({"type": "ping", "id": "p"}) == {"type": "ok", "id": "p"}


async def test_who_joins_no_room_is_sent_away(tmp_path: Path) -> None:
    with ChatServer(tmp_path / "log", join_timeout=0.1) as server:
        async with connect(server.socket_url) as connection:
            assert await Client(connection).end() == (1008, "no room was joined in time")


async def test_a_full_server_says_so(tmp_path: Path, room: str) -> None:
    with ChatServer(tmp_path / "log", max_sockets=1) as server:
        async with connect(server.socket_url) as first:
            await Client(first).join(room, "Ada")
            async with connect(server.socket_url) as second:
                assert await Client(second).end() == (1013, "this server is full")

        async def there_is_room() -> bool:
            async with connect(server.socket_url) as third:
                try:
                    return bool((await Client(third).join(room, "Ada"))["type"] == "ok")
                except ConnectionClosed:
                    return False

        await eventually(there_is_room)  # as soon as the first one has gone


async def test_a_socket_that_reads_nothing_is_cut_off_and_holds_up_nobody(
    tmp_path: Path, room: str
) -> None:
    log = tmp_path / "log"
    with ChatServer(log, backlog=16, rate=1e6, burst=1_000_000) as server:
        # A buffer as small as there is, and a client that stops reading with the first frame.
        unread = socket.socket()
        unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, _, port = server.url.removeprefix("http://").rstrip("/").partition(":")
        unread.connect((host, int(port)))
        async with (
            connect(server.socket_url) as talking,
            connect(server.socket_url, sock=unread, max_queue=1, close_timeout=0.1) as slow,
        ):
            await Client(slow).join(room, "Slow", key="the key of the slow one")
            client = Client(talking)
            members = (await client.join(room, "Ada"))["members"]
            assert [member["name"] for member in members] == ["Ada", "Slow"]

            said = 0
            async with asyncio.timeout(120):
                while "too slow" not in log.read_text():
                    # Several at once, or the slow one is closed for its missing pongs before.
                    for _ in range(5):
                        await client.send(saying("x" * 4096))
                    for _ in range(5):
                        assert (await client.read("ok", "failed"))["type"] == "ok"
                    said += 5
            assert said > 16
            assert (await client.say("on we go"))["type"] == "ok"
            left = [frame for frame in client.seen if frame["type"] == "presence"]
            assert [(frame["change"], frame["member"]["name"]) for frame in left] == [
                ("left", "Slow")
            ]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://evil.example", 403),
        ("null", 403),
        ("http://127.0.0.1:1", 403),
        ("https://friend.example", 101),
        (None, 101),
        ("ours", 101),
    ],
)
async def test_pages_of_other_sites_are_refused(
    tmp_path: Path, origin: str | None, status: int
) -> None:
    allowed = '["https://friend.example"]'
    with ChatServer(tmp_path / "log", allowed_origins=allowed) as server:
        given: Any = server.url.rstrip("/") if origin == "ours" else origin
        if status == 101:
            async with connect(server.socket_url, origin=given) as connection:
                assert (await Client(connection).join("lobby", "Ada"))["type"] == "ok"
        else:
            with pytest.raises(InvalidStatus) as refused:
                await connect(server.socket_url, origin=given)
            assert refused.value.response.status_code == status


# --- HTTP -----------------------------------------------------------------------------------------


async def test_the_page_comes_with_a_strict_policy_and_from_here_alone(server: ChatServer) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        for path in ("", "chat.js", "connection.js", "view.js", "style.css", "icon.svg"):
            answer = await http.get(path)
            assert answer.status_code == 200, path
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'")
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "https://" not in answer.text, "nothing from elsewhere"
            assert "innerHTML" not in answer.text
        assert (await http.get("../settings.py")).status_code == 404
        assert (await http.get("socket")).status_code == 404


async def test_the_probes_say_how_the_bus_is(server: ChatServer) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        assert (await http.get("livez")).json() == {"status": "alive"}
        answer = await http.get("readyz")
        assert answer.status_code == 200
        assert answer.json()["status"] == "ready"
        assert answer.json()["bus"]["connected"] is True


# --- starting and stopping ------------------------------------------------------------------------


async def test_a_server_that_stops_says_goodbye(tmp_path: Path, room: str) -> None:
    with ChatServer(tmp_path / "log") as server:
        async with connect(server.socket_url) as connection:
            client = Client(connection)
            await client.join(room, "Ada")
            server.process.terminate()
            assert (await client.end())[0] == 1012
        assert await asyncio.to_thread(server.process.wait, 60) in {0, -15}
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"redis_url": "redis://127.0.0.1:1/0", "connect_timeout": "1"},
            "cannot start: RedisPubSub",
        ),
        ({"heartbeat": "0"}, "heartbeat: Input should be greater than 0"),
        ({"host": "203.0.113.1"}, "cannot start: port 0 of 203.0.113.1 cannot be used"),
    ],
)
def test_what_keeps_it_from_starting_is_named(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RuntimeError) as failed:
        ChatServer(tmp_path / "log", **settings)
    assert reason in str(failed.value)
    assert "Traceback" not in str(failed.value)
