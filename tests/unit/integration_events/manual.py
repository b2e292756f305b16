"""A transport that a test drives step by step."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from events.integration.message import Delivery, Message, Settlement
from events.integration.transport import Deliver, Subscription, TransportFeatures

FEATURES = TransportFeatures(
    durability="broker",
    delivery="group",
    before_first_start="gone",
    headers=True,
    delayed_retry=True,
    dead_letters=False,
    ordered=True,
)


class ManualSubscribed:
    def __init__(self, subscription: Subscription, deliver: Deliver) -> None:
        self.subscription = subscription
        self._deliver = deliver
        self.last_poll: float | None = None
        self.calls: list[str] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def deliver(
        self,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        attempt: int = 1,
        crashes: int = 0,
    ) -> Settlement:
        return await self._deliver(
            Delivery(
                self.subscription.topic,
                self.subscription.consumer,
                "id-1",
                body,
                headers or {},
                attempt,
                crashes=crashes,
            )
        )

    async def pause(self) -> None:
        self.calls.append("pause")

    async def close(self) -> None:
        self.calls.append("close")
        if not self.ended.done():
            self.ended.set_result(None)

    async def wait_closed(self) -> None:
        await asyncio.shield(self.ended)


@dataclass
class ManualTransport:
    features: TransportFeatures = FEATURES
    connect_error: Exception | None = None
    connect_hangs: bool = False
    answers: bool = True
    connected: bool = False
    dead_letters: None = None
    calls: list[str] = field(default_factory=list)
    published: list[Message] = field(default_factory=list)
    unanswered: list["asyncio.Future[None]"] = field(default_factory=list)
    subscribed: list[ManualSubscribed] = field(default_factory=list)

    async def connect(self) -> None:
        self.calls.append("connect")
        if self.connect_hangs:
            await asyncio.Event().wait()
        if self.connect_error is not None:
            raise self.connect_error
        self.connected = True

    def publish(self, message: Message) -> "asyncio.Future[None]":
        self.published.append(message)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.answers:
            future.set_result(None)
        else:
            self.unanswered.append(future)
        return future

    async def subscribe(self, subscription: Subscription, deliver: Deliver) -> ManualSubscribed:
        self.calls.append(f"subscribe {subscription.consumer}")
        self.subscribed.append(ManualSubscribed(subscription, deliver))
        return self.subscribed[-1]

    async def close(self) -> None:
        self.calls.append("close")
        self.connected = False
