"""The connection to NATS, and what is subscribed on it; a `Supervisor` makes it again.

A connection of our own is never mended but replaced: nats-py gives up for good where a server says
no once, and what it buffers while it reconnects would leave after its `send` had raised. So
it is held where it would begin to reconnect, and closed. A client that was passed in mends
itself, as its owner set it up; this only watches, and ends when its owner closes it.

Who uses the link adds a listener: it is awaited each time before the link is up, and learns
whether the client is a new one, without subscriptions. If it fails, so does the attempt.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from nats.aio.client import Client
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError
from nats.errors import NoServersError, UnexpectedEOF

from events.errors import BusUnavailableError
from events.integration.brokering.problems import Outage
from events.integration.brokering.supervisor import NoConnectionError, Supervisor
from events.integration.implementation.nats import _driver as driver
from events.integration.implementation.nats._denials import Denial, denial_in

OnUp: TypeAlias = Callable[[bool], Awaitable[None]]
OnEnd: TypeAlias = Callable[[BusUnavailableError], None]

logger = logging.getLogger("events.integration")

_LOOK = 0.2  # seconds between looks at the client, which tells of most of its ends by itself
_CLOSING = 2.0  # seconds for what ends with an answer, or with a flush
_STILL_SILENT = 0.25
_REFUSED = (
    "authorization", "authentication", "permissions", "certificate_verify_failed",
    "secure connection not available",
)  # fmt: skip


class Link(Supervisor[Client]):
    """Own the connection of a transport, or watch the client that it was given."""

    def __init__(
        self,
        servers: Sequence[str] | Client,
        *,
        name: str,
        timeout: float,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(self, Outage(name), look_every=_LOOK)
        self.name = name
        self.on_denied: list[Callable[[Denial], None]] = []
        self._given = servers if isinstance(servers, Client) else None
        self._servers = [] if isinstance(servers, Client) else list(servers)
        self._options = options
        # A round over all servers, each of which is tried twice, takes no longer than this.
        self._dialling = timeout / (2 * max(1, len(self._servers)))
        self._listeners: list[OnUp] = []
        self._client: Client | None = None
        self._prepared: Client | None = None  # the one that the listeners know
        self._reconnects = 0  # of a client that mends itself
        self._subscriptions: list[NatsSubscription] = []
        self._said = ""  # by the driver, since it was connected last
        self._unheard: str | None = None  # why answers cannot reach us
        self._silent = False  # it gave no answer when one was needed to end

    @property
    def client(self) -> Client:
        """The client in use, which may be lost; only while the link is open."""
        if self._client is None:
            raise BusUnavailableError(self.name, self.reason or "it is not connected")
        return self._client

    @property
    def version(self) -> tuple[int, int]:
        """The server's version."""
        version = self.client.connected_server_version
        return version.major, version.minor

    def add_listener(self, on_up: OnUp, on_end: OnEnd | None = None) -> None:
        """Have these called when the link comes up, or will never be up again."""
        self._listeners.append(on_up)
        if on_end is not None:
            self.on_end.append(on_end)

    def add_writer(self, begin: Callable[[], None], stop: Callable[[], None]) -> None:
        """Have these called when the listeners are done, and when the link is down."""
        self.on_up.append(lambda _: begin())
        self.on_down.append(stop)

    def remove_listener(self, on_up: OnUp, on_end: OnEnd) -> None:
        """Call these no more."""
        self._listeners.remove(on_up)
        self.on_end.remove(on_end)

    # --- opening and closing ------------------------------------------------------------------

    async def close(self) -> None:
        """Disconnect; a client that was passed in stays as it is."""
        await super().close()
        subscriptions, self._subscriptions = self._subscriptions, []
        self._client = self._prepared = None
        if self._given is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSING):
                    for subscription in subscriptions:
                        with suppress(NatsError, OSError):
                            await subscription.unsubscribe()

    async def time_to_wait(self, timeout: float) -> float:  # noqa: ASYNC109 - it is not waited for here
        """Return how long to wait for answers in the end: not long while no server can answer.

        A server that is frozen keeps its connections for a while, so it is asked.
        """
        if not self.is_up:
            return min(timeout, _CLOSING)
        try:
            async with asyncio.timeout(_STILL_SILENT if self._silent else _CLOSING):
                await self.client.flush()
        except (NatsError, OSError, TimeoutError):
            self._silent = True
            return min(timeout, _STILL_SILENT)
        self._silent = False
        return timeout

    async def listen(self, subject: str, hear: driver.Hear) -> NatsSubscription:
        """Subscribe with the client in use; a new one has to subscribe again."""
        subscription = await driver.listen(self.client, subject, hear)
        self._subscriptions.append(subscription)
        return subscription

    async def leave(self, subscription: NatsSubscription) -> None:
        """Unsubscribe, and return when all that the server has sent was heard.

        Raises `TimeoutError` if it does not answer.
        """
        if subscription not in self._subscriptions:
            return
        self._subscriptions.remove(subscription)
        try:
            async with asyncio.timeout(_CLOSING):
                await subscription.drain()  # type: ignore[no-untyped-call]
        except TimeoutError:
            self._silent = True
            raise

    # --- for the supervisor -------------------------------------------------------------------

    async def dial(self) -> Client:
        """See `Dialer`."""
        client: Client | None = None
        try:
            client = await (self._connect() if self._given is None else self._await(self._given))
            self._client = client
            fresh, self._prepared = client is not self._prepared, None
            for listener in tuple(self._listeners):
                await listener(fresh)
            if self._given is None:
                await self._require_heard(client)
        except BaseException as error:
            if client is not None:
                await self.hang_up(client)
            if not isinstance(error, NatsError | OSError | TimeoutError):
                raise
            if not (isinstance(error, NoServersError) and self._said):  # what was said says more
                self._note(error)
            refused = _is_refusal(self._said)
            raise NoConnectionError(self._said, refused=refused) from error
        self._prepared = client
        self._said = ""
        self._reconnects = client.stats["reconnects"]
        return client

    async def hang_up(self, connection: Client) -> None:
        """See `Dialer`."""
        if self._given is None:
            await _close(connection)

    def why_lost(self, connection: Client) -> str | None:
        """See `Dialer`. A client that has reconnected by itself was lost meanwhile."""
        if self._unheard is not None:
            return self._unheard
        if _usable(connection) and connection.stats["reconnects"] == self._reconnects:
            return None
        return self._said or _last_words(connection) or "the server hung up"

    async def _connect(self) -> Client:
        self._subscriptions = []
        self._unheard = None
        client = driver.new_client()

        async def lost() -> None:
            self.look()
            if client.is_reconnecting:
                await asyncio.Event().wait()  # until it is closed: reconnecting is ours

        options: dict[str, Any] = {"ping_interval": 5, "name": "events", **self._options}
        try:
            await client.connect(
                self._servers,
                **options,
                # Each server is tried this often and once more; the next round is ours to begin.
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=self._dialling,  # type: ignore[arg-type] # any number will do
                error_cb=self._heard,
                disconnected_cb=lost,
                closed_cb=lost,
            )
        except BaseException:
            await _close(client)
            raise
        return client

    async def _await(self, client: Client) -> Client:
        while not _usable(client):
            if client.is_closed or client.is_draining:
                raise NoConnectionError("the client passed to the bus is closed", ended=True)
            self.reason = "the client passed to the bus is not connected"
            await asyncio.sleep(_LOOK)
        return client

    async def _require_heard(self, client: Client) -> None:
        """Return when the server has read what we subscribe to; raise if it does not let us."""
        async with asyncio.timeout(_CLOSING):
            await driver.flush(client)
        if self._unheard is not None:
            raise NatsError(self._unheard)

    async def _heard(self, error: Exception) -> None:
        denial = denial_in(error)
        if denial is not None:
            self._deny(denial)
            return
        self._note(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            raise error  # out of `connect`, which would try it again without a pause or an end

    def _note(self, error: Exception) -> None:
        # A server that refuses us hangs up as well, at times before its reason was read.
        hung_up = isinstance(error, ConnectionResetError | BrokenPipeError | UnexpectedEOF)
        if not (hung_up and _is_refusal(self._said)):
            self._said = _said(error)

    def _deny(self, denial: Denial) -> None:
        if denial.verb == "subscription":
            if any(each.subject.lower() == denial.subject for each in self._subscriptions):
                # Without what is random in it: the same reason each time.
                inboxes = ".".join((*denial.subject.split(".")[:-2], ">"))
                self._unheard = denial.text.replace(denial.subject, inboxes)
                self.look()
            return
        for on_denied in tuple(self.on_denied):
            on_denied(denial)


def _is_refusal(reason: str) -> bool:
    return any(word in reason.lower() for word in _REFUSED)


def _last_words(client: Client) -> str:
    """Return what ended the connection, of which the driver does not tell its callbacks."""
    error = client.last_error
    return "" if error is None or denial_in(error) is not None else _said(error)


def _usable(client: Client) -> bool:
    return client.is_connected and not client.is_draining


async def _close(client: Client) -> None:
    try:
        async with asyncio.timeout(_CLOSING):
            await client.close()
    except Exception as error:  # noqa: BLE001 - it is done with, and the next one must not wait
        logger.debug("closing a connection: %r", error)
    except asyncio.CancelledError:
        # nats-py cancels its own task that reconnects, and where that one waits for the transport
        # to be closed, everybody else who waits for the same gets a `CancelledError`.
        me = asyncio.current_task()
        if me is None or me.cancelling():
            raise


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
