"""The connection: made, lost, made again, for ever.

    closed --open--> up <--> lost        `close` leads back to closed from each of them
                      '--> ended         a client that was passed in has been closed by its owner

A connection of our own is never mended but replaced: nats-py gives up for good where a server says
no once, and what it buffers while it reconnects would leave after its sender was told that it did
not. So it is held where it would begin to reconnect, and closed. A client that was passed in mends
itself, as its owner set it up; this only watches.

Who uses the link adds a listener: it is awaited each time that the link is up, before anything is
written, and told whether the client is a new one, which knows none of its subscriptions.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from nats.aio.client import Client
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError
from nats.errors import NoServersError, UnexpectedEOF

from events.errors import BusUnavailableError
from events.integration.brokering.problems import Problems
from events.integration.implementation.nats import _driver as driver
from events.integration.implementation.nats._denials import Denial, denial_in

__all__ = ["Link", "OnUp", "end"]

OnUp: TypeAlias = Callable[[bool], Awaitable[None]]

logger = logging.getLogger("events.integration")

_LOOK = 0.2  # seconds between looks at the client, which tells of most of its ends by itself
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 5.0
_DIALLING = 2.0  # seconds for one server to answer
_CLOSING = 2.0  # seconds for what ends with an answer, or with a flush
_STILL_SILENT = 0.25
_REFUSED = (
    "authorization", "authentication", "permissions", "certificate_verify_failed",
    "secure connection not available",
)  # fmt: skip


async def end(task: asyncio.Task[None]) -> None:
    """Cancel the task until it ends: in some places nats-py swallows a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_LOOK)


class Link:
    """Own the connection of a transport, or watch the client that it was given."""

    def __init__(
        self, servers: Sequence[str] | Client, *, name: str, options: Mapping[str, Any]
    ) -> None:
        self.name = name
        self.up = False
        self.reason = "it is closed"
        self.on_denied: list[Callable[[Denial], None]] = []
        self._unheard: str | None = None  # why answers cannot reach us
        self._problems = Problems(name)
        self._silent = False  # it gave no answer when one was needed to end
        self._given = servers if isinstance(servers, Client) else None
        self._servers = [] if isinstance(servers, Client) else list(servers)
        self._options = options
        self._client: Client | None = None
        self._subscriptions: list[NatsSubscription] = []
        self._listeners: list[OnUp] = []
        self._begin: list[Callable[[], None]] = []
        self._on_down: list[Callable[[], None]] = []
        self._on_end: list[Callable[[Exception], None]] = []
        self._changed = asyncio.Event()
        self._look_now = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    @property
    def client(self) -> Client:
        """The client in use; only while the link is open."""
        if self._client is None:
            raise BusUnavailableError(self.name, self.reason)
        return self._client

    @property
    def is_open(self) -> bool:
        """Tell whether it is between `open` and `close`, connected or not."""
        return self._watch is not None

    @property
    def version(self) -> tuple[int, int]:
        """The server's version."""
        version = self.client.connected_server_version
        return version.major, version.minor

    def add_listener(
        self,
        on_up: OnUp,
        on_end: Callable[[Exception], None] | None = None,
    ) -> None:
        """Have these called when the link is up, or will never be up again."""
        self._listeners.append(on_up)
        if on_end is not None:
            self._on_end.append(on_end)

    def add_writer(self, begin: Callable[[], None], stop: Callable[[], None]) -> None:
        """Have these called when the listeners are done, and when the link is down."""
        self._begin.append(begin)
        self._on_down.append(stop)

    def remove_listener(self, on_up: OnUp, on_end: Callable[[Exception], None]) -> None:
        """Call these no more."""
        self._listeners.remove(on_up)
        self._on_end.remove(on_end)

    # --- opening and closing ------------------------------------------------------------------

    async def open(self, timeout: float) -> None:  # noqa: ASYNC109 - it is ended with a reason
        """Connect, trying again until the time is over."""
        try:
            async with asyncio.timeout(timeout):
                await self._connect(forever=False)
        except TimeoutError as error:
            raise BusUnavailableError(self.name, f"no connection: {self.reason}") from error
        logger.info("%s is connected", self.name)
        self._watch = asyncio.create_task(self._keep_up(), name="nats-link")
        self._watch.add_done_callback(self._watch_is_over)

    async def close(self) -> None:
        """Disconnect; a client that was passed in stays as it is."""
        watch, self._watch = self._watch, None
        if watch is not None:
            await end(watch)
        self._down("it is closed")
        await self._drop()

    async def wait_up(self) -> None:
        """Return when the link is up."""
        while not self.up:
            self._changed.clear()
            await self._changed.wait()

    async def patience(self, timeout: float) -> float:  # noqa: ASYNC109 - it is not waited for here
        """Return how long to wait for answers in the end: not long while nobody can give any.

        A server that is frozen keeps its connections for a while, so it is asked.
        """
        if not self.up:
            return min(timeout, _CLOSING)
        try:
            async with asyncio.timeout(_STILL_SILENT if self._silent else _CLOSING):
                await self.client.flush()
        except (NatsError, OSError, TimeoutError):
            self._silent = True
            return min(timeout, _STILL_SILENT)
        self._silent = False
        return timeout

    def suspect(self) -> None:
        """Have the client looked at: it refused to write."""
        self._look_now.set()

    async def listen(self, subject: str, hear: driver.Hear) -> NatsSubscription:
        """Subscribe with the client in use; a new one has to be told again."""
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

    # --- the watch ----------------------------------------------------------------------------

    async def _keep_up(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client = self.client
            reconnects = client.stats["reconnects"]
            while (
                _usable(client)
                and client.stats["reconnects"] == reconnects
                and self._unheard is None
            ):
                self._look_now.clear()
                try:
                    async with asyncio.timeout(_LOOK):
                        await self._look_now.wait()
                except TimeoutError:
                    continue
            began, why = loop.time(), self.reason or _last_words(client) or "the server hung up"
            self._down(f"the connection was lost: {why}")
            logger.warning("%s lost its connection: %s; reconnecting", self.name, why)
            try:
                await self._connect(forever=True)
            except BusUnavailableError as error:
                logger.error("%s will not reconnect: %s", self.name, error.reason)  # noqa: TRY400
                for on_end in tuple(self._on_end):
                    on_end(error)
                return
            logger.warning("%s is connected again after %.1f s", self.name, loop.time() - began)

    def _watch_is_over(self, task: asyncio.Task[None]) -> None:
        """End who uses the link, if that was a mistake of ours: nobody would mend it any more."""
        if task is not self._watch or not (task.cancelled() or task.exception()):
            return
        why = "cancelled" if task.cancelled() else repr(task.exception())
        logger.error("%s will not reconnect: its watch ended: %s", self.name, why)
        for on_end in tuple(self._on_end):
            on_end(BusUnavailableError(self.name, why))

    async def _connect(self, *, forever: bool) -> None:
        wait = _FIRST_WAIT
        while True:
            try:
                fresh = await (self._dial() if self._given is None else self._await(self._given))
                for listener in tuple(self._listeners):
                    await listener(fresh)
                if self._given is None:
                    await self._require_heard(self.client)
            except (NatsError, OSError, TimeoutError) as error:
                if not isinstance(error, NoServersError):  # the error before says more
                    self._note(error)
                if not forever and _is_refusal(self.reason):
                    raise BusUnavailableError(self.name, f"refused: {self.reason}") from error
                if forever and _is_refusal(self.reason):
                    reason = f"it is refused, and tries again: {self.reason}"
                    self._problems.report("connecting", reason, logging.WARNING)
            else:
                self.up = True
                self.reason = ""
                self._problems.clear("connecting")
                self._changed.set()
                for begin in self._begin:
                    begin()
                return
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            wait = min(2 * wait, _LONGEST_WAIT)

    async def _require_heard(self, client: Client) -> None:
        """Return when the server has read what we subscribe to; raise if it does not let us."""
        async with asyncio.timeout(_DIALLING):
            await driver.flush(client)
        if self._unheard is not None:
            raise NatsError(self._unheard)

    async def _dial(self) -> bool:
        await self._drop()
        self._unheard = None
        client = driver.new_client()

        async def lost() -> None:
            self._look_now.set()
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
                connect_timeout=_DIALLING,  # type: ignore[arg-type] # any number will do
                error_cb=self._heard,
                disconnected_cb=lost,
                closed_cb=lost,
            )
        except BaseException:
            await _close(client)
            raise
        self._client = client
        return True

    async def _await(self, client: Client) -> bool:
        while not _usable(client):
            if client.is_closed or client.is_draining:
                raise BusUnavailableError(self.name, "the client that it was given is closed")
            self.reason = "the client that it was given is not connected"
            await asyncio.sleep(_LOOK)
        fresh = self._client is None
        self._client = client
        return fresh

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
        if not (hung_up and _is_refusal(self.reason)):
            self.reason = _said(error)

    def _deny(self, denial: Denial) -> None:
        if denial.verb == "subscription":
            if any(each.subject.lower() == denial.subject for each in self._subscriptions):
                # Without what is random in it: the same reason each time.
                inboxes = ".".join((*denial.subject.split(".")[:-2], ">"))
                self.reason = self._unheard = denial.text.replace(denial.subject, inboxes)
                self._look_now.set()
            return
        for on_denied in tuple(self.on_denied):
            on_denied(denial)

    async def _drop(self) -> None:
        """Have done with the client, and with the tasks of our subscriptions."""
        client, self._client = self._client, None
        subscriptions, self._subscriptions = self._subscriptions, []
        if client is None:
            return
        if self._given is None:
            await _close(client)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING):
                for subscription in subscriptions:
                    with suppress(NatsError, OSError):
                        await subscription.unsubscribe()

    def _down(self, reason: str) -> None:
        self.up = False
        self.reason = reason
        for on_down in tuple(self._on_down):
            on_down()


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
        # to be closed, whoever else waits for the same is told that it was cancelled.
        me = asyncio.current_task()
        if me is None or me.cancelling():
            raise


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
