"""Recurring events, at the times of a cron expression.

Needs the extra `recurring`: `pip install "integration-events[recurring]"`.
"""

from events.integration.outbox.recurring import Recurring

__all__ = ["Recurring"]
