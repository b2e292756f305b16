from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config


def test_the_migrations_make_the_tables_of_the_code(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    config = Config(Path(__file__).parents[1] / "alembic.ini")
    command.upgrade(config, "head")
    command.check(config)  # raises if a revision is missing
    command.downgrade(config, "base")
