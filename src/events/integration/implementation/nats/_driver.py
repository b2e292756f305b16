"""The driver, where every message passes: written many at once, heard without a task.

nats-py looks at each header of a message by itself, and brings what arrives through an object, a
queue and a task to a coroutine. `Direct` takes bytes that are made already, and calls a function
with what arrives; connecting, reading, flushing and all else stays the driver's.

Each private place of the driver is used where it is there, and the documented way is taken where it
is not: a hook that has moved is not called, and what it would have heard comes to the subscription.
A client that was passed in is used as its documentation has it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import (
    ConnectionClosedError,
    ConnectionDrainingError,
    OutboundBufferLimitError,
    SecureConnWantedError,
)

from events.integration.implementation.nats._wire import parse_block

logger = logging.getLogger("events.integration")


class Incoming(msgspec.Struct, gc=False):
    """A message as it arrived."""

    subject: str
    reply: str
    body: bytes
    headers: dict[str, str] | None


Hear: TypeAlias = Callable[[Incoming], None]


class Direct(Client):
    """A client with shorter ways for what there is much of."""

    def __init__(self) -> None:
        super().__init__()
        self._hear: dict[int, Hear] = {}

    @property
    def writes_whole(self) -> bool:
        """Return whether `write` can be used."""
        return hasattr(self, "_send_command") and hasattr(self, "_flush_pending")

    async def write(self, data: bytes) -> None:
        """Have these commands be sent, whole and in this order; or raise, and none of them is."""
        if self.is_closed:
            raise ConnectionClosedError
        if self.is_draining_pubs:
            raise ConnectionDrainingError
        if not self.is_connected:
            raise OutboundBufferLimitError
        await self._send_command(data)
        flushes: Any = getattr(self, "_flush_queue", None)
        if flushes is None or flushes.empty():
            await self._flush_pending()

    def _connect_command(self) -> bytes:
        """Withhold the credentials where TLS is required but missing; the driver does not."""
        server: Any = getattr(self, "_current_server", None)
        offered: Any = getattr(self, "_server_info", None)
        asked = "tls" in self.options or any(
            each.scheme == "tls" for each in ([server.uri] if server else self.servers)
        )
        if asked and not self.options.get("tls_handshake_first"):
            if offered is None:
                logger.warning(
                    "this version of nats-py does not show whether the server offers TLS. If it "
                    "does not, the credentials are sent in clear"
                )
            elif not offered.get("tls_required"):
                raise SecureConnWantedError
        return super()._connect_command()

    async def close(self) -> None:
        """Close, and write no more where the connection is lost: who sends does that again."""
        if not self.is_connected and hasattr(self, "_pending"):
            # Some asyncio of 3.12 and 3.13 raises TypeError for `writelines` on a lost connection,
            # and the driver would end in the midst of its closing.
            self._pending.clear()
            self._pending_data_size = 0
        await super().close()

    def hear(self, subscription: Subscription, hear: Hear) -> None:
        """Call this with each message of the subscription, if its number can be seen."""
        number: int | None = getattr(subscription, "_id", None)
        if number is not None:
            self._hear[number] = hear

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        hear = self._hear.get(sid)
        if hear is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            hear(
                Incoming(
                    subject.decode(),
                    reply.decode(),
                    data,
                    parse_block(headers) if headers else None,
                )
            )
        except Exception:  # raised into the driver, it would end the connection
            logger.exception("cannot parse a message on %r", subject)

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        super()._remove_sub(sid, max_msgs)
        self._hear.pop(sid, None)


def new_client() -> Client:
    """Return a client, not yet connected."""
    return Direct()


async def flush(client: Client) -> None:
    """Return when the server has read all that was written before.

    The driver's own flush writes its question past what waits in the buffer, which leaves right
    after it: only the answer to a second question says that this was read.
    """
    await client.flush()
    await client.flush()


async def listen(client: Client, subject: str, hear: Hear) -> Subscription:
    """Subscribe, and have the function called with what comes."""

    async def heard(message: Msg) -> None:
        hear(Incoming(message.subject, message.reply, message.data, message.headers))

    subscription = await client.subscribe(subject, cb=heard)  # pyright: ignore[reportUnknownMemberType] - the driver's own
    if isinstance(client, Direct):
        client.hear(subscription, hear)
    return subscription
