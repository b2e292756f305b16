"""For tests of code that sends and receives events, and of buses that carry them.

The suites that every bus must pass are in `events.testing.contracts`, which needs pytest.
"""

from events.testing.faults import Fault
from events.testing.faulty import FaultyTransport
from events.testing.observations import Observation, RecordingObserver
from events.testing.recording import (
    RecordedEvent,
    RecordingIntegrationEventBus,
    RecordingOutbox,
)
from events.testing.waiting import eventually, until_quiet

__all__ = [
    "Fault",
    "FaultyTransport",
    "Observation",
    "RecordedEvent",
    "RecordingIntegrationEventBus",
    "RecordingObserver",
    "RecordingOutbox",
    "eventually",
    "until_quiet",
]
