from sqlalchemy import Column, DateTime, MetaData, String, Table, UniqueConstraint, Uuid
from sqlalchemy.orm import registry

from events.sqlalchemy import outbox_table
from examples.user_registration.user_service.domain.user import User

metadata = MetaData()

EMAIL_IS_UNIQUE = "uq_users_email"

users = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("email", String(254), nullable=False),
    Column("password_hash", String(255), nullable=False),
    Column("registered_at", DateTime(timezone=True), nullable=False),
    UniqueConstraint("email", name=EMAIL_IS_UNIQUE),
)
outbox = outbox_table(metadata)

# Mapped from outside, so that the domain does not know of the database.
registry(metadata=metadata).map_imperatively(User, users)
