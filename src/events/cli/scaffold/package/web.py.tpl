"""The HTTP interface: `uvicorn {{package}}.web:web`."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from pydantic import BaseModel, Field
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from {{package}}.database import connect, make_outbox
from {{package}}.orders import place_order
from {{package}}.settings import Settings


@asynccontextmanager
async def lifespan(web: FastAPI) -> AsyncGenerator[None]:
    async with connect(Settings.from_environment().database_url) as engine:
        web.state.engine = engine
        yield


web = FastAPI(title="{{name}}", lifespan=lifespan)


async def session_of(request: Request) -> AsyncGenerator[AsyncSession]:
    async with AsyncSession(request.app.state.engine) as session:
        yield session


SessionOfRequest = Annotated[AsyncSession, Depends(session_of)]


class NewOrder(BaseModel):
    email: str = Field(max_length=255)
    quantity: int = Field(ge=1)


class PlacedOrder(BaseModel):
    order_id: str


@web.post("/orders", status_code=201)
async def post_order(order: NewOrder, session: SessionOfRequest) -> PlacedOrder:
    order_id = await place_order(session, make_outbox(session), order.email, order.quantity)
    await session.commit()  # before the answer, which promises that the order is stored
    return PlacedOrder(order_id=order_id)


@web.get("/health")
async def health(session: SessionOfRequest) -> None:
    await session.execute(text("SELECT 1"))
