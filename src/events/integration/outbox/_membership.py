"""The lease of a relay: renewing, releasing and logging."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from uuid import uuid4

from events.errors import RelayNameTakenError
from events.integration.outbox._timeouts import timeout
from events.integration.outbox.partitions import PARTITIONS, Lease, Renewal, Tenure, renew
from events.integration.outbox.port import OutboxStore
from events.integration.pipeline.cancelling import answered

logger = logging.getLogger("events.integration")

_MARGIN = 0.1  # of a lease, at its end, in which nothing is sent
_EVERY = 1 / 3  # of a lease, between two renewals
_WAITING = 1 / 30  # of a lease, the same while partitions are missing


class Membership:
    """Keeps the lease of a relay. One for each time it is started.

    Args:
        store: Where the leases are.
        name: The relay's name, or None for one that no other has.
        length: Seconds that a lease lasts.
    """

    def __init__(self, store: OutboxStore, name: str | None, length: float) -> None:
        token = uuid4().hex
        name = name or f"{socket.gethostname()}:{os.getpid()}:{token[:8]}"
        self._store = store
        self._tenure = Tenure()
        self._renew_at = 0.0
        self._rival: RelayNameTakenError | None = None
        self._logged: tuple[frozenset[int], bool] | None = None
        self.lease = Lease(name, token, frozenset(), length, 0.0)

    @property
    def sending_time(self) -> float:
        """Return for how many seconds the lease still allows sending, 0 or less if none."""
        return self._tenure.remaining - self.lease.length * _MARGIN

    @property
    def holds(self) -> bool:
        """Return whether its leases still exclude other relays."""
        return self._tenure.remaining > 0

    @property
    def renew_in(self) -> float:
        """Return in how many seconds the relay must renew."""
        return max(0.0, self._tenure.remaining - self._renew_at)

    async def renew(self) -> bool:
        """Renew the lease; return whether its partitions changed, also temporarily.

        Raises `RelayNameTakenError` while another process has the lease of the name.
        """
        granted = self._tenure.begin()
        before_asking = self._tenure.remaining
        renewed = False
        longest = 0.0

        def decide(leases: Sequence[Lease]) -> Renewal:
            nonlocal renewed, longest
            others = [lease for lease in leases if lease.token != self.lease.token]
            longest = max((min(other.remaining, other.length) for other in others), default=0.0)
            renewed = any(lease.token == self.lease.token for lease in leases)
            # A pause during the request would look like a clock that was set.
            if before_asking - self._tenure.remaining < self.lease.length / 4:
                self._compare_clocks(leases)
            return renew(leases, self.lease)

        try:
            asked = self._store.renew(decide)
            result = await answered(asked, timeout(self.lease.length))
        except RelayNameTakenError as taken:
            before, self._rival = self._rival, taken
            if before is not None and before.token == taken.token:
                taken.alive = taken.remaining > before.remaining  # it was renewed
            raise
        granted(result.own.length)
        self._rival = None
        before_, self.lease = self.lease.partitions, result.own
        missing = result.share - len(self.lease.partitions)
        self._renew_at = self.lease.length * (1 - (_WAITING if missing > 0 else _EVERY))
        self._log_partitions(missing, longest)
        return self.lease.partitions != before_ or (bool(before_) and not renewed)

    def _log_partitions(self, missing: int, longest: float) -> None:
        """Log which partitions it holds and waits for, when that has changed."""
        lease = self.lease
        logged = lease.partitions, missing > 0
        if logged == (self._logged or (frozenset(), False)):
            return
        self._logged = logged
        held = len(lease.partitions)
        if missing > 0:
            logger.info(
                "relay %s holds %d of %d partitions and waits for %d that other relays hold. A "
                "running relay releases its share now; that of a crashed one expires within %.0f s",
                lease.relay,
                held,
                PARTITIONS,
                missing,
                longest,
            )
        else:
            logger.info("relay %s holds %d of %d partitions", lease.relay, held, PARTITIONS)

    def _compare_clocks(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            moved = self._tenure.remaining - lease.remaining
            if lease.token == self.lease.token and abs(moved) > lease.length / 2:
                logger.warning(
                    "the database's clock was set %s by about %.0f s; leases that seem to expire "
                    "because of this may cause a batch to be sent twice",
                    "forward" if moved > 0 else "back",
                    abs(moved),
                )

    async def leave(self) -> None:
        """Release all partitions to the other relays immediately."""
        self._tenure.end()
        await self._store.leave(self.lease)
