from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from dishka import AsyncContainer
from dishka.integrations.fastapi import setup_dishka
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.ext.asyncio import AsyncEngine

from examples.user_registration.chassis.database import look_at
from examples.user_registration.chassis.http import probes
from examples.user_registration.user_service.application.ports import EmailTakenError
from examples.user_registration.user_service.infrastructure.tables import users
from examples.user_registration.user_service.presentation.api import email_taken, invalid, router
from examples.user_registration.user_service.presentation.correlation import CorrelationMiddleware


def create_app(container: AsyncContainer) -> FastAPI:
    """Make the HTTP application; the container, which it closes in the end, has all the rest."""

    async def database() -> str | None:
        await look_at(await container.get(AsyncEngine), users)
        return None

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        yield
        await container.close()

    app = FastAPI(title="User service", lifespan=lifespan)
    app.router.routes.extend(probes({"database": database}))
    app.include_router(router)
    app.add_exception_handler(EmailTakenError, email_taken)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_middleware(CorrelationMiddleware)
    setup_dishka(container, app)
    return app
