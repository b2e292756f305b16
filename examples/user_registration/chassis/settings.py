"""Settings from the environment and `.env`, with errors that a person at a terminal can use."""

import os
import sys
from difflib import get_close_matches
from typing import Annotated, TypeVar

from dotenv import dotenv_values
from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings

from examples.user_registration.chassis.database import async_url

S = TypeVar("S", bound=BaseSettings)

DatabaseUrl = Annotated[str, AfterValidator(async_url), Field(validate_default=True)]
# The same for all services.
RabbitMQUrl = Annotated[str, Field(validation_alias="RABBITMQ_URL")]
RabbitMQConnectTimeout = Annotated[float, Field(gt=0, validation_alias="RABBITMQ_CONNECT_TIMEOUT")]
Port = Annotated[int, Field(ge=0, lt=2**16)]
Seconds = Annotated[float, Field(gt=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


class SettingsError(Exception):
    """What is wrong with the environment, a line for each variable."""


def load(settings: type[S]) -> S:
    """Read the settings; raise `SettingsError` for values that cannot be, and for unknown names."""
    prefix = settings.model_config.get("env_prefix", "")
    known = {
        f"{prefix}{name}".upper()
        for name, field in settings.model_fields.items()
        if field.validation_alias is None
    }
    lines = [
        f"{name}: there is no such setting{_did_you_mean(name, known)}"
        for name in sorted({*os.environ, *dotenv_values(".env")})
        if prefix and name.startswith(prefix) and name not in known
    ]
    try:
        loaded = settings()
    except ValidationError as error:
        for each in error.errors(include_url=False, include_input=False):
            name = str(each["loc"][0]) if each["loc"] else ""
            variable = name if name.isupper() or not name else f"{prefix}{name}".upper()
            reason = each["msg"].removeprefix("Value error, ")
            lines.append(f"{variable}: {reason}" if variable else reason)
    else:
        if not lines:
            return loaded
    raise SettingsError("\n".join(lines))


def load_or_exit(settings: type[S]) -> S:
    """Read the settings, or end the program with what is wrong with them."""
    try:
        return load(settings)
    except SettingsError as error:
        print(f"cannot start, as the settings are wrong:\n{error}", file=sys.stderr)
        sys.exit(2)


def _did_you_mean(name: str, known: set[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
