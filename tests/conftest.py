"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# Nothing is wrong with code that a busy machine runs slowly; what hangs has pytest's timeout.
settings.register_profile("events", deadline=None)
settings.load_profile("events")
