"""Settings, from the environment."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    database_url: str = "sqlite+aiosqlite:///{{package}}.db"
%% if broker
    broker_url: str = "{{broker_url}}"
%% end

    @classmethod
    def from_environment(cls) -> "Settings":
        """Return the settings; what the environment does not name has its default."""
        return cls(
            database_url=os.environ.get("DATABASE_URL", cls.database_url),
%% if broker
            broker_url=os.environ.get("BROKER_URL", cls.broker_url),
%% end
        )
