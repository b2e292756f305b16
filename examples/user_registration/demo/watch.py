"""How the demo sees what goes on inside, by doors that are open to everybody.

Commits and rollbacks are SQLAlchemy's events, attempts pass a middleware, and what the relay sends
reaches a second consumer as well. The services know nothing of it.
"""

import json
from collections import defaultdict

from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from events.integration import (
    Consumer,
    Handle,
    IncomingEvent,
    IntegrationEvent,
    current_delivery,
)
from examples.user_registration.contracts import UserRegisteredV1
from examples.user_registration.demo.facts import Database
from examples.user_registration.demo.mail_server import Answer
from examples.user_registration.demo.timeline import Timeline


class WatchTransactions:
    """Look at each transaction just before it ends, from inside and from outside."""

    def __init__(self, timeline: Timeline, database: Database) -> None:
        self._timeline = timeline
        self._outside = database
        self._committed: dict[str, tuple[int, int]] = {}
        self._waiting: dict[str, str] = {}
        self._rolled_back = 0

    def committed(self, email: str) -> tuple[int, int]:
        """Return how many users and events were new in the commit that stored this user."""
        return self._committed.get(email, (0, 0))

    async def rolled_back(self) -> int:
        """Return how many users had been written in transactions that came to nothing."""
        return self._rolled_back

    def watch(self, engine: AsyncEngine) -> None:
        event.listen(engine.sync_engine, "commit", self._on_commit)
        event.listen(engine.sync_engine, "rollback", self._on_rollback)

    def _on_commit(self, connection: Connection) -> None:
        rows = connection.execute(text("SELECT event_id, body FROM outbox")).all()
        inside = {event_id: json.loads(body)["email"] for event_id, body in rows}
        outside = self._outside.outbox()
        new = inside.keys() - outside
        for event_id in new:
            users, email = self._new_users(connection), inside[event_id]
            self._committed[email] = (users, len(new))
            self._waiting[event_id] = self._timeline.correlation_id(email)
            text_ = f"commits {users} user and {len(new)} event together"
            self._timeline.say("outbox", text_, self._waiting[event_id])
        for event_id in outside - inside.keys():
            correlation_id = self._waiting.pop(event_id, "")
            self._timeline.say("outbox", "row deleted: the bus has the event", correlation_id)

    def _on_rollback(self, connection: Connection) -> None:
        users = self._new_users(connection)
        if users > 0:
            self._rolled_back += users
            self._timeline.say("outbox", f"rolls back {users} user, and the event with it")

    def _new_users(self, connection: Connection) -> int:
        count: int = connection.execute(text("SELECT count(*) FROM users")).scalar_one()
        return count - self._outside.user_count()


class WatchAttempts:
    """A middleware that notes each attempt to handle an event."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._attempts: dict[str, list[int]] = defaultdict(list)
        self._done: dict[str, int] = defaultdict(int)

    async def done(self, email: str) -> int:
        """Return how many attempts for this user succeeded."""
        return self._done[email]

    async def of(self, email: str) -> list[int]:
        return list(self._attempts[email])

    async def __call__(self, incoming: IncomingEvent, call_next: Handle, /) -> None:
        if not isinstance(incoming.event, UserRegisteredV1):
            return await call_next(incoming)
        attempt = incoming.delivery.attempt
        self._attempts[incoming.event.email].append(attempt)
        await call_next(incoming)  # if it raises, the library's log has a line on it
        self._done[incoming.event.email] += 1
        self._timeline.say(
            "email",
            f"WelcomeUser queued a mail, attempt {attempt}",
            incoming.delivery.correlation_id,
        )
        return None


class Onlooker(Consumer):
    """A second consumer of the topic: it gets every event too, once the relay has sent it."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__("onlooker")
        self._timeline = timeline
        self._seen: dict[str, int] = defaultdict(int)
        self.last: tuple[UserRegisteredV1, str] | None = None

    async def seen(self, email: str) -> int:
        return self._seen[email]

    async def on_event(self, event: IntegrationEvent) -> None:
        assert isinstance(event, UserRegisteredV1)
        delivery = current_delivery()
        assert delivery is not None
        self._seen[event.email] += 1
        self.last = event, delivery.id
        self._timeline.say(
            "relay", f"sent {type(event).__name__} to the bus", delivery.correlation_id
        )


def say_answer(timeline: Timeline, answer: Answer) -> None:
    """Tell what the mail server said to an attempt to deliver a mail."""
    if answer.mail is None:
        text = f"{answer.reply} (to {answer.recipient})"
    else:
        text = "From: {From}  To: {To}\nSubject: {Subject}".format_map(dict(answer.mail.items()))
    style = "yellow" if answer.mail is None else "bold"
    timeline.say("smtp", text, timeline.correlation_id(answer.recipient), style=style)
