from events.domain import DomainEventHandler
from events.integration import Outbox
from examples.user_registration.contracts import USERS, UserRegisteredV1
from examples.user_registration.user_service.domain.user import UserRegistered


class AnnounceUser(DomainEventHandler[UserRegistered]):
    """Tell other services. The outbox keeps the event in the same transaction as the user."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def handle(self, event: UserRegistered) -> None:
        user = event.user
        announcement = UserRegisteredV1(
            user_id=user.id, email=user.email, registered_at=user.registered_at
        )
        await self._outbox.put(USERS, announcement, key=str(user.id))
