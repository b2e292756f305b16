"""A dashboard for operators: backlogs, dead letters, the outbox, and buttons to redrive.

    app.mount("/events", dashboard(bus, relay=relay, authorize=authorize))

Needs the extra `dashboard`: `pip install "integration-events[dashboard]"`. The application, with
its `authorize`, decides who may see it. The page stands on `events.operations`, as the command
`events` does.
"""

from events.dashboard.access import Access
from events.errors import MissingExtraError

try:
    from events.dashboard.app import dashboard
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] not in {"jinja2", "starlette"}:
        raise
    raise MissingExtraError(__name__, "dashboard") from error

__all__ = ["Access", "dashboard"]
