"""`python -m events` is the command `events`."""

from __future__ import annotations

import sys

from events.cli import main

sys.exit(main())
