from typing import Annotated
from uuid import UUID

from dishka.integrations.fastapi import DishkaRoute, FromDishka
from fastapi import APIRouter, Request, status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, Field, SecretStr

from examples.user_registration.user_service.application.ports import EmailTakenError
from examples.user_registration.user_service.application.register_user import RegisterUser
from examples.user_registration.user_service.domain.email import email_address

router = APIRouter(route_class=DishkaRoute)


class NewUser(BaseModel):
    email: Annotated[str, AfterValidator(email_address)]
    password: SecretStr = Field(min_length=8, max_length=200)


class RegisteredUser(BaseModel):
    id: UUID
    email: str


@router.post("/users", status_code=status.HTTP_201_CREATED)
async def register_user(new: NewUser, register: FromDishka[RegisterUser]) -> RegisteredUser:
    user = await register(new.email, new.password.get_secret_value())
    return RegisteredUser(id=user.id, email=user.email)


async def email_taken(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, EmailTakenError)
    return JSONResponse({"detail": str(error)}, status.HTTP_409_CONFLICT)


async def invalid(_request: Request, error: Exception) -> JSONResponse:
    """Say what is wrong without saying it back: there is a password in it."""
    assert isinstance(error, RequestValidationError)
    detail = [{"loc": each["loc"], "msg": each["msg"]} for each in error.errors()]
    return JSONResponse({"detail": detail}, status.HTTP_422_UNPROCESSABLE_CONTENT)
