"""First tables: the service's own, and those of the library."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

moment = sa.DateTime(timezone=True)
sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")
schedule_id = sa.String(255).with_variant(sa.VARCHAR(255, collation="C"), "postgresql")


def message_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("event_id", sa.String(255), nullable=False),
        sa.Column("topic", sa.String(255), nullable=False),
        sa.Column("key", sa.String(255)),
        sa.Column("partition_id", sa.SmallInteger, nullable=False),
        sa.Column("type", sa.String(255), nullable=False),
%% if broker
        sa.Column("version", sa.Integer, nullable=False),
%% end
        sa.Column("headers", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("created_at", moment, nullable=False),
    ]


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("email", sa.String(255), nullable=False),
        sa.Column("quantity", sa.Integer, nullable=False),
    )
    op.create_table(
        "receipts",
        sa.Column("order_id", sa.String(36), primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
    )
%% if broker
    op.create_table(
        "outbox",
        sa.Column("id", sequence, primary_key=True, autoincrement=True),
        *message_columns(),
        sa.Column("available_at", moment, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("last_error", sa.Text),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_due", "outbox", ["available_at", "id"])
    op.create_table(
        "outbox_parked",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        *message_columns(),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("last_error", sa.Text),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("parked_at", moment, nullable=False),
    )
    op.create_table(
        "outbox_relays",
        sa.Column("relay", sa.String(255), primary_key=True),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("partitions", sa.String(255), nullable=False),
        sa.Column("lease_seconds", sa.Double, nullable=False),
        sa.Column("expires_at", moment, nullable=False),
    )
    op.create_table(
        "outbox_scheduled",
        sa.Column("id", sequence, primary_key=True, autoincrement=True),
        sa.Column("schedule_id", schedule_id, nullable=False),
        *message_columns(),
        sa.Column("available_at", moment, nullable=False),
        sa.UniqueConstraint("schedule_id", name="uq_outbox_scheduled"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_scheduled_due", "outbox_scheduled", ["available_at", "id"])
    op.create_table(
        "outbox_recurring",
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("put_until", moment, nullable=False),
    )
    op.create_table(
        "inbox",
        sa.Column("consumer", sa.String(255), primary_key=True),
        sa.Column("message_id", sa.String(255), primary_key=True),
        sa.Column("handled_at", moment, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_inbox_handled_at", "inbox", ["handled_at"])
%% else
    op.create_table(
        "bus",
        sa.Column("id", sequence, primary_key=True, autoincrement=True),
        sa.Column("consumer_id", sa.Integer, nullable=False),
        *message_columns(),
        sa.Column("available_at", moment, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("crashes", sa.Integer, nullable=False, server_default=sa.text("0")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_bus_due", "bus", ["consumer_id", "available_at", "id"])
    op.create_table(
        "bus_consumers",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("topic", sa.String(255), nullable=False),
        sa.Column("consumer", sa.String(255), nullable=False),
        sa.UniqueConstraint("topic", "consumer", name="uq_bus_consumers"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "bus_dead_letters",
        sa.Column("id", sequence, primary_key=True, autoincrement=True),
        sa.Column("consumer_id", sa.Integer, nullable=False),
        sa.Column("consumer", sa.String(255), nullable=False),
        *message_columns(),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("died_at", moment, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_bus_dead_letters", "bus_dead_letters", ["consumer", "id"])
    op.create_table(
        "bus_members",
        sa.Column("member", sa.String(255), primary_key=True),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("partitions", sa.Text, nullable=False),
        sa.Column("lease_seconds", sa.Double, nullable=False),
        sa.Column("expires_at", moment, nullable=False),
    )
    op.create_table(
        "bus_scheduled",
        sa.Column("id", sequence, primary_key=True, autoincrement=True),
        sa.Column("schedule_id", schedule_id, nullable=False),
        *message_columns(),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("available_at", moment, nullable=False),
        sa.UniqueConstraint("schedule_id", name="uq_bus_scheduled"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_bus_scheduled_due", "bus_scheduled", ["available_at", "id"])
    op.create_table(
        "bus_recurring",
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("put_until", moment, nullable=False),
    )
%% end


def downgrade() -> None:
%% if broker
    op.drop_table("inbox")
    for name in ("recurring", "scheduled", "relays", "parked"):
        op.drop_table(f"outbox_{name}")
    for table in ("outbox", "receipts", "orders"):
%% else
    for name in ("recurring", "scheduled", "members", "dead_letters", "consumers"):
        op.drop_table(f"bus_{name}")
    for table in ("bus", "receipts", "orders"):
%% end
        op.drop_table(table)
