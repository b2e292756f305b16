"""Timeouts of a relay's database.

A server that vanishes without closing its connections, as in a failover, never answers on them,
and drivers wait for a quarter of an hour or for good. After the length of a lease
the answer is of no use, as the partitions are another's by then: so the relay gives the call up,
which costs the connection, and tries again on another one.
"""

from __future__ import annotations

_LEAST = 10.0  # seconds; a busy machine is no reason to throw connections away


def timeout(lease: float) -> float:
    """Return how many seconds a relay with such leases waits for an answer."""
    return max(lease, _LEAST)
