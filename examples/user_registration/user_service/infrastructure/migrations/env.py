"""What Alembic runs: the database is the service's own, by `USER_SERVICE_DATABASE_URL`."""

from alembic import context

from examples.user_registration.chassis.migrations import migrate
from examples.user_registration.chassis.settings import load_or_exit
from examples.user_registration.user_service.infrastructure.tables import metadata
from examples.user_registration.user_service.settings import UserServiceSettings

migrate(
    metadata,
    context.config.attributes.get("url") or load_or_exit(UserServiceSettings).database_url,
)
