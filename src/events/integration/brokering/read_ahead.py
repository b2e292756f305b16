"""Limits of what a consumer has in flight."""

from __future__ import annotations

READ_AHEAD = 8 << 20
"""Bytes of events in flight beyond which nothing more is read; one event is always let through."""
