"""The users, and the outbox in which their registrations wait to be sent."""

import sqlalchemy as sa
from alembic import op

from examples.user_registration.chassis.outbox_migrations import create_outbox, drop_outbox

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("password_hash", sa.String(255), nullable=False),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("email", name="uq_users_email"),
    )
    create_outbox("outbox")


def downgrade() -> None:
    drop_outbox("outbox")
    op.drop_table("users")
