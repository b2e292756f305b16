"""The JSON that the processes log, as lines of one timeline."""

import json
import re
from typing import Any

from examples.user_registration.demo.timeline import Timeline

_uuid = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NOT_SHOWN = {"event", "level", "logger", "service", "timestamp", "correlation_id", "exception"}


def show(timeline: Timeline, service: str, line: str) -> None:
    """Show a line of a service's log."""
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:
        timeline.say(service, line, style="red")  # what is no log line is a traceback
        return
    values = [f"{name}={value}" for name, value in entry.items() if name not in _NOT_SHOWN]
    text = "  ".join([entry["event"], " ".join(values)]).rstrip()
    timeline.say(
        service,
        _uuid.sub(lambda each: f"…{each[0][-6:]}", text),
        entry.get("correlation_id", ""),
        style={"info": "", "debug": "dim"}.get(entry["level"], "yellow"),
    )
