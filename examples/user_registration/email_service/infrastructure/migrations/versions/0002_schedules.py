"""What the outbox of mails has for scheduled and recurring events."""

from examples.user_registration.chassis.outbox_migrations import (
    create_schedules,
    drop_schedules,
)

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_schedules("mails")


def downgrade() -> None:
    drop_schedules("mails")
