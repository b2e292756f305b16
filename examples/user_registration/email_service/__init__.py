"""Who is written to. Hears of users by events, and owes each of them one mail."""

from pathlib import Path

ALEMBIC = Path(__file__).parent / "alembic.ini"
