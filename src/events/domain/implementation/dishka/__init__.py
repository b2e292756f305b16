"""Domain event handlers from a dishka container; needs the extra `dishka`."""

from __future__ import annotations

from importlib import import_module

from events.errors import MissingExtraError

try:
    import_module("dishka")
except ModuleNotFoundError as error:
    if error.name != "dishka":
        raise
    raise MissingExtraError(__name__, "dishka") from error

from events.domain.implementation.dishka.factory import DishkaDomainEventHandlerFactory
from events.domain.implementation.dishka.provider import DomainEventImplementationProvider

__all__ = ["DishkaDomainEventHandlerFactory", "DomainEventImplementationProvider"]
