"""One message is followed through two processes by its correlation id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

from events.testing import eventually
from tests.acceptance.online_chat.processes import ChatServer
from tests.acceptance.online_chat.test_socket import Client, connect
from tests.brokers.redis_server import redis_url


def lines_about(correlation_id: str, *logs: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return [line for line in lines if line.get("correlation_id") == correlation_id]


async def test_a_message_is_followed_through_both_processes(tmp_path: Path) -> None:
    room, message = f"room-{uuid4().hex[:8]}", str(uuid4())
    logs = tmp_path / "one.log", tmp_path / "two.log"
    patient = {"send_timeout": 60, "timeout": 60}  # as the machine may be busy
    with (
        ChatServer(logs[0], redis_url=redis_url(), **patient) as one,
        ChatServer(logs[1], redis_url=redis_url(), **patient) as two,
    ):
        async with connect(one.socket_url) as ada, connect(two.socket_url) as grace:
            author = (await Client(ada).join(room, "Ada"))["you"]["id"]
            reader = (await Client(grace).join(room, "Grace", key="another key of hers"))["you"][
                "id"
            ]
            assert (await Client(ada).say("hello", message))["type"] == "ok"
            assert (await Client(grace).read("message"))["text"] == "hello"

            def followed() -> bool:
                found = lines_about(message, *logs)
                servers = {line["server"] for line in found}
                said = {(line["event"], line.get("author") or line.get("to")) for line in found}
                assert len(servers) == 2
                assert said == {
                    ("message sent", author),
                    ("message delivered", author),
                    ("message delivered", reader),
                }
                return True

            await eventually(followed)
