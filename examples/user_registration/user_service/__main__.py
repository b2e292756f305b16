"""`python -m examples.user_registration.user_service`: the HTTP service."""

import asyncio
import sys

import structlog

from examples.user_registration.chassis.http import serving
from examples.user_registration.chassis.logs import configure_logs
from examples.user_registration.chassis.process import run
from examples.user_registration.chassis.settings import load_or_exit
from examples.user_registration.user_service.container import create_container
from examples.user_registration.user_service.presentation.app import create_app
from examples.user_registration.user_service.settings import UserServiceSettings

_logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("user_service")


async def serve(settings: UserServiceSettings) -> None:
    app = create_app(create_container(settings))
    async with serving(app, host=settings.http_host, port=settings.http_port) as url:
        _logger.info("serving", url=url)
        await asyncio.Event().wait()  # until the signal


def main() -> int:
    configure_logs("user-service")
    settings = load_or_exit(UserServiceSettings)
    return run(lambda: serve(settings))


if __name__ == "__main__":
    sys.exit(main())
