from typing import Annotated
from uuid import UUID

from dishka.integrations.fastapi import DishkaRoute, FromDishka
from fastapi import APIRouter, Request, status
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel

from examples.user_registration.user_service.application.ports import EmailTakenError
from examples.user_registration.user_service.application.register_user import RegisterUser
from examples.user_registration.user_service.domain.email import email_address

router = APIRouter(route_class=DishkaRoute)


class NewUser(BaseModel):
    email: Annotated[str, AfterValidator(email_address)]


class RegisteredUser(BaseModel):
    id: UUID
    email: str


@router.post("/users", status_code=status.HTTP_201_CREATED)
async def register_user(new: NewUser, register: FromDishka[RegisterUser]) -> RegisteredUser:
    user = await register(new.email)
    return RegisteredUser(id=user.id, email=user.email)


async def email_taken(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, EmailTakenError)
    return JSONResponse({"detail": str(error)}, status.HTTP_409_CONFLICT)
