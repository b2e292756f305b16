"""The email service with its inbox left out: what a test of it must notice."""

import sys
from collections.abc import Awaitable, Callable
from unittest import mock

from sqlalchemy.ext.asyncio import AsyncSession

from events.integration import Handle, IncomingEvent
from examples.user_registration.email_service import container
from examples.user_registration.email_service.__main__ import main


class CommitsAlone:
    def __init__(self, sessions: Callable[[], Awaitable[AsyncSession]], **_: object) -> None:
        self._sessions = sessions

    async def __call__(self, incoming: IncomingEvent, call_next: Handle, /) -> None:
        session = await self._sessions()
        await call_next(incoming)
        await session.commit()


if __name__ == "__main__":
    with mock.patch.object(container, "SQLAlchemyInbox", CommitsAlone):
        sys.exit(main())
