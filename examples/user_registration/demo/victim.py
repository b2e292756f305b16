"""A process that has both services running, registers somebody, and does not live to the end.

    python -m examples.user_registration.demo.victim FOLDER SMTP_PORT EMAIL CORRELATION_ID

It says so when the event is handled and not yet committed, and waits there to be killed.
"""

import asyncio
import sys
from pathlib import Path

import httpx

from events.integration import Handle, IncomingEvent
from examples.user_registration.chassis.http import serving
from examples.user_registration.demo.premises import SHORT_LEASE, Premises
from examples.user_registration.embedded import create_app

ANSWERED = "has answered 201"
HANDLED = "has handled the event, and has not committed"


async def _stop_before_the_commit(incoming: IncomingEvent, call_next: Handle, /) -> None:
    await call_next(incoming)
    print(HANDLED, flush=True)
    await asyncio.Event().wait()


async def _main(folder: str, smtp_port: str, email: str, correlation_id: str) -> None:
    premises = Premises(Path(folder), int(smtp_port), SHORT_LEASE)
    app = create_app(premises.containers(middlewares=[_stop_before_the_commit]))
    async with (
        serving(app) as url,
        httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http,
    ):
        response = await http.post(
            "/users",
            json={"email": email, "password": "correct horse battery staple"},
            headers={"X-Correlation-ID": correlation_id},
        )
        print(f"has answered {response.status_code}", flush=True)  # ANSWERED, as it should be
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
