"""Steps of migrations that make an outbox's tables, for each service that has one.

A step is as fixed as the revision that calls it: a new layout gets a new step, and a new revision.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op


def create_outbox(name: str) -> None:
    """Make the outbox of this name, its parked rows and its relays."""
    op.create_table(
        name,
        _row_number(),
        *_message_columns(),
        sa.Column("available_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("last_error", sa.Text()),
        sqlite_autoincrement=True,
    )
    op.create_index(f"ix_{name}_due", name, ["available_at", "id"])
    op.create_table(
        f"{name}_parked",
        sa.Column("id", sa.BigInteger(), primary_key=True, autoincrement=False),
        *_message_columns(),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text()),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("parked_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        f"{name}_relays",
        sa.Column("relay", sa.String(255), primary_key=True),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("partitions", sa.String(255), nullable=False),
        sa.Column("lease_seconds", sa.Double[float](), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    )


def drop_outbox(name: str) -> None:
    """Undo `create_outbox`."""
    op.drop_table(f"{name}_relays")
    op.drop_table(f"{name}_parked")
    op.drop_table(name)


def create_schedules(name: str) -> None:
    """Make what the outbox of this name has for scheduled and recurring events."""
    op.create_table(
        f"{name}_scheduled",
        _row_number(),
        sa.Column(
            "schedule_id",
            sa.String(255).with_variant(sa.VARCHAR(255, collation="C"), "postgresql"),
            nullable=False,
        ),
        *_message_columns(),
        sa.Column("available_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("schedule_id", name=f"uq_{name}_scheduled"),
        sqlite_autoincrement=True,
    )
    op.create_index(f"ix_{name}_scheduled_due", f"{name}_scheduled", ["available_at", "id"])
    op.create_table(
        f"{name}_recurring",
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("put_until", sa.DateTime(timezone=True), nullable=False),
    )


def drop_schedules(name: str) -> None:
    """Undo `create_schedules`."""
    op.drop_table(f"{name}_recurring")
    op.drop_table(f"{name}_scheduled")


def _row_number() -> sa.Column[int]:
    return sa.Column(
        "id",
        sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
        primary_key=True,
        autoincrement=True,
    )


def _message_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("event_id", sa.String(255), nullable=False),
        sa.Column("topic", sa.String(255), nullable=False),
        sa.Column("key", sa.String(255)),
        sa.Column("partition_id", sa.SmallInteger(), nullable=False),
        sa.Column("type", sa.String(255), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("headers", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    ]
