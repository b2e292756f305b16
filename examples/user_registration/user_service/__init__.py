"""Who is registered. Tells others by way of its outbox."""

from pathlib import Path

ALEMBIC = Path(__file__).parent / "alembic.ini"
