"""A third-party bus, which consists only of a transport: a loudspeaker in one room.

A subscriber gets everything that is sent from then on, once. It keeps nothing.
"""

import asyncio
from collections.abc import Awaitable
from uuid import uuid4

from events.errors import BusUnavailableError
from events.integration.message import Delivery, Message, Settlement
from events.integration.transport import Deliver, Subscription, TransportFeatures


class Loudspeaker:
    def __init__(self) -> None:
        self.listeners: set[Listener] = set()


class Listener:
    def __init__(self, room: Loudspeaker, subscription: Subscription, deliver: Deliver) -> None:
        self.room = room
        self.wanted = subscription
        self.deliver = deliver
        self.last_poll: float | None = None
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()
        self.hands = asyncio.Semaphore(subscription.concurrency)
        self.unsettled: set[asyncio.Future[Settlement]] = set()
        self.task = asyncio.create_task(self.listen())
        room.listeners.add(self)

    async def listen(self) -> None:
        while True:
            body = await self.heard.get()
            await self.hands.acquire()
            self.last_poll = asyncio.get_running_loop().time()
            delivery = Delivery(self.wanted.topic, self.wanted.consumer, str(uuid4()), body, {})
            future = self.deliver(delivery)
            self.unsettled.add(future)
            future.add_done_callback(self.settle)

    def settle(self, future: asyncio.Future[Settlement]) -> None:
        self.unsettled.discard(future)
        self.hands.release()

    async def pause(self) -> None:
        self.room.listeners.discard(self)
        self.task.cancel()

    async def close(self) -> None:
        await self.pause()
        while self.unsettled:
            await asyncio.wait(self.unsettled)

    async def wait_closed(self) -> None:
        await asyncio.wait({self.task})
        if not self.task.cancelled():
            self.task.result()


class LoudspeakerTransport:
    features = TransportFeatures(
        durability="nothing",
        delivery="broadcast",
        before_first_start="gone",
        headers=False,
        delayed_retry=False,
        dead_letters=False,
        ordered=True,
    )
    dead_letters = None
    connected = False

    def __init__(self, room: Loudspeaker) -> None:
        self.room = room

    async def connect(self) -> None:
        self.connected = True

    def publish(self, message: Message) -> Awaitable[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.connected:
            for listener in self.room.listeners:
                if listener.wanted.topic == message.topic:
                    listener.heard.put_nowait(message.body)
            done.set_result(None)
        else:
            done.set_exception(BusUnavailableError("loudspeaker", "it is off"))
        return done

    async def subscribe(self, subscription: Subscription, deliver: Deliver) -> Listener:
        return Listener(self.room, subscription, deliver)

    async def close(self) -> None:
        self.connected = False
