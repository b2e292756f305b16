"""The way out to one socket: a queue with an end.

Nobody who puts a frame in waits. A socket that is `limit` frames behind is cut off: it would only
fall further back; its page says so, reconnects, and starts again with who is there.
"""

import asyncio
from collections import deque

from examples.online_chat.contracts import Attendee, MessageSentV1
from examples.online_chat.domain.presence import Change
from examples.online_chat.presentation.protocol import Frame, Message, Presence, Reach, write


class Outgoing:
    """A `Listener` that puts what it hears into line for its socket."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._frames: deque[Frame] = deque()
        self._changed = asyncio.Event()
        self.overflowed = asyncio.Event()

    def put(self, frame: Frame) -> None:
        if len(self._frames) >= self._limit:
            self.overflowed.set()
        elif not self.overflowed.is_set():  # after a gap, nothing more: what came would mislead
            self._frames.append(frame)
            self._changed.set()

    async def get(self) -> str:
        while not self._frames:
            self._changed.clear()
            await self._changed.wait()
        return write(self._frames.popleft())

    def on_message(self, event: MessageSentV1) -> None:
        self.put(Message(event.message_id, event.author, event.text, event.sent_at))

    def on_change(self, change: Change, member: Attendee) -> None:
        self.put(Presence(change, member))

    def on_reach(self, *, connected: bool) -> None:
        self.put(Reach(connected))
