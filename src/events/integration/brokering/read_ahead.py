"""How much a consumer has at hand that it has not handled yet."""

from __future__ import annotations

__all__ = ["READ_AHEAD"]

READ_AHEAD = 8 << 20
"""Bytes of events at hand beyond which nothing more is read; one event is always let through."""
