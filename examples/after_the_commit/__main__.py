"""Pay while the mail server is down: `python -m examples.after_the_commit [DATABASE_URL]`."""

import asyncio
import logging
import sys
import tempfile

from sqlalchemy.exc import IntegrityError

from events.integration import current_delivery
from examples.after_the_commit.shop import MAILER, Order, ReceiptDueV1, opened


class MailServer:
    def __init__(self) -> None:
        self.is_up = False
        self.mailed = asyncio.Event()

    async def mail(self, event: ReceiptDueV1) -> None:
        delivery = current_delivery()
        assert delivery is not None
        print(f"attempt {delivery.attempt}: mail the receipt of order {event.order}", flush=True)
        if not self.is_up:
            raise ConnectionError("the mail server is down")
        print(f"mailed to {event.email}", flush=True)
        self.mailed.set()


async def play(url: str) -> None:
    server = MailServer()
    async with opened(url, server.mail) as shop:
        try:
            await shop.pay(Order(email="eve@example.com"), cents=0)
        except IntegrityError:
            print("a payment of nothing is rolled back, and its receipt with it")

        number = await shop.pay(Order(email="ada@example.com"), cents=700)
        print(f"order {number} is paid and committed")

        while not (letters := await shop.bus.dead_letters(MAILER)):  # noqa: ASYNC110 - a query
            await asyncio.sleep(0.05)
        for letter in letters:
            print(f"dead letter after {letter.attempts} attempts: {letter.error.splitlines()[0]}")

        server.is_up = True
        print(f"the mail server is up, redriven: {await shop.bus.redrive(MAILER, letters)}")
        await server.mailed.wait()


def main() -> None:
    logging.basicConfig(level="CRITICAL")
    with tempfile.TemporaryDirectory() as folder:
        url = sys.argv[1] if len(sys.argv) > 1 else f"sqlite+aiosqlite:///{folder}/shop.db"
        asyncio.run(play(url))


if __name__ == "__main__":
    main()
