"""Place an order from a terminal: `python -m {{package}} ann@example.com 2`."""

import argparse
import asyncio

from sqlalchemy.ext.asyncio import AsyncSession

from {{package}}.database import connect, make_outbox
from {{package}}.orders import place_order
from {{package}}.settings import Settings


async def order(email: str, quantity: int) -> str:
    async with connect(Settings.from_environment().database_url) as engine:
        async with AsyncSession(engine) as session:
            order_id = await place_order(session, make_outbox(session), email, quantity)
            await session.commit()
            return order_id


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m {{package}}", description="Place an order with the service."
    )
    parser.add_argument("email")
    parser.add_argument("quantity", type=int)
    arguments = parser.parse_args()
    print(asyncio.run(order(arguments.email, arguments.quantity)))


if __name__ == "__main__":
    main()
