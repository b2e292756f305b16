"""A connection to one of the hosts, which a `Supervisor` makes again when it is lost.

Hosts are tried one after another, from the one after the last that answered.
"""

from __future__ import annotations

from collections.abc import Sequence

from events.integration.brokering.problems import Outage
from events.integration.brokering.supervisor import NoConnectionError, Supervisor
from events.integration.brokering.urls import masked
from events.integration.implementation.rabbitmq._connection import Connection
from events.integration.implementation.rabbitmq._driver import DriverError

_REFUSED = ("ACCESS_REFUSED", "NOT_ALLOWED", "Probable", "CERTIFICATE_VERIFY_FAILED")


class Link(Supervisor[Connection]):
    """Keep one connection up. A round over the hosts takes no longer than `connect_timeout`."""

    def __init__(
        self, outage: Outage, urls: Sequence[str], *, connect_timeout: float, timeout: float
    ) -> None:
        super().__init__(self, outage)
        self._urls = list(urls)
        self._dialling = connect_timeout / len(urls)
        self._timeout = timeout

    async def dial(self) -> Connection:
        """See `Dialer`."""
        reasons: list[str] = []
        refused = True
        for _ in range(len(self._urls)):
            url = self._urls[0]
            self._urls.append(self._urls.pop(0))
            try:
                connection = await Connection.open(url, self._dialling)
            except (DriverError, OSError) as error:
                refused = refused and any(word in str(error) for word in _REFUSED)
                reasons.append(f"{masked(url)}: {error}")
                continue
            if connection.is_open:
                connection.on_lost = self.lose
                return connection
            reasons.append(f"{masked(url)}: it closed the connection at once")
            refused = False
        if len(reasons) == 1:  # there is but one host, and it is named already
            raise NoConnectionError(reasons[0].partition(": ")[2], refused=refused)
        raise NoConnectionError("; ".join(reasons), refused=refused)

    async def hang_up(self, connection: Connection) -> None:
        """See `Dialer`."""
        await connection.close(self._timeout)

    def why_lost(self, connection: Connection) -> str | None:
        """See `Dialer`; it says so by itself, before."""
        return None if connection.is_open else "it is closed"
