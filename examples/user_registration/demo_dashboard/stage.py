"""Both services in one process, with the switch and the dashboard beside them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from starlette.requests import Request

from events.contracts import Service
from events.dashboard import Access, dashboard
from events.integration import OutboxRelay
from events.integration.implementation.base import TransportIntegrationEventBus
from events.operations import Rates
from examples.user_registration.chassis.http import serving
from examples.user_registration.contracts import USERS, UserRegisteredV1
from examples.user_registration.demo.mail_server import Answer, MailServer
from examples.user_registration.demo.premises import Premises
from examples.user_registration.demo_dashboard.switch import Switch, switch_routes
from examples.user_registration.embedded import create_app

_AT_ONCE = 8  # registrations; each hashes a password


def _authorize(_request: Request) -> Access:
    """Let everybody in: this listens on loopback. Yours looks at the session."""
    return Access("operate", name="you")


@asynccontextmanager
async def stage(port: int) -> AsyncGenerator[str]:
    switch, taken, registered = Switch(), list[Answer](), list[str]()
    with TemporaryDirectory(prefix="dashboard-demo-") as folder:
        async with MailServer(taken.append) as mail, Rates() as rates:
            premises = Premises(Path(folder), mail.port)
            await premises.migrate()
            containers = premises.containers(middlewares=[switch.fail_while_broken])
            app = create_app(containers)
            async with serving(app, port=port) as url:
                bus = await containers.email.get(TransportIntegrationEventBus)
                relay = await containers.users.get(OutboxRelay)

                async def register(count: int) -> None:
                    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as http:
                        turn = asyncio.Semaphore(_AT_ONCE)

                        async def one(address: str) -> None:
                            person = {"email": address, "password": "correct horse battery"}
                            async with turn:
                                (await http.post("/users", json=person)).raise_for_status()
                            registered.append(address)

                        first = len(registered)
                        addresses = [f"user{first + n}@example.com" for n in range(count)]
                        await asyncio.gather(*(one(each) for each in addresses))

                def figures() -> tuple[int, int]:
                    return len(registered), sum(each.mail is not None for each in taken)

                services = [
                    Service("user-service", sends={USERS: [UserRegisteredV1]}, owner="accounts"),
                    Service("email-service", bus, owner="messaging"),
                ]
                # Mounted when the parts that it looks at are there; on the way of a request.
                app.router.routes.extend(switch_routes(switch, register, figures))
                app.mount(
                    "/events",
                    dashboard(
                        bus, relay=relay, services=services, rates=rates, authorize=_authorize
                    ),
                )
                yield url
