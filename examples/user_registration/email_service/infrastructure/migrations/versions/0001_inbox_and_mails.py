"""The inbox, which keeps the ids of handled messages, and the outbox of mails to send."""

import sqlalchemy as sa
from alembic import op

from examples.user_registration.chassis.outbox_migrations import create_outbox, drop_outbox

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "inbox",
        sa.Column("consumer", sa.String(255), primary_key=True),
        sa.Column("message_id", sa.String(255), primary_key=True),
        sa.Column("handled_at", sa.DateTime(timezone=True), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_inbox_handled_at", "inbox", ["handled_at"])
    create_outbox("mails")


def downgrade() -> None:
    drop_outbox("mails")
    op.drop_table("inbox")
