from sqlalchemy import Column, DateTime, String, Table, Uuid
from sqlalchemy.orm import registry

from events.integration.implementation.sqlalchemy import outbox_table
from examples.user_registration.user_service.domain.user import User

mapper = registry()

users = Table(
    "users",
    mapper.metadata,
    Column("id", Uuid, primary_key=True),
    Column("email", String(254), nullable=False, unique=True),
    Column("registered_at", DateTime(timezone=True), nullable=False),
)
outbox = outbox_table(mapper.metadata)

# Mapped from outside, so that the domain does not know of the database.
mapper.map_imperatively(User, users)
