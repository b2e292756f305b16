from __future__ import annotations

from typing import Any

import pytest

from events.domain import (
    DomainEvent,
    DomainEventHandler,
    DomainEventHandlerRegistry,
    SimpleDomainEventHandlerFactory,
)
from events.domain.event_handler.factory import DomainEventHandlerFactory
from events.errors import HandlerNotBuiltError


class Ping(DomainEvent):
    type = "ping"


class Plain(DomainEventHandler[Ping]):
    async def handle(self, event: Ping) -> None: ...


class Needy(DomainEventHandler[Ping]):
    def __init__(self, session: str) -> None:
        self.session = session

    async def handle(self, event: Ping) -> None: ...


def registry(*handlers: type[Any]) -> DomainEventHandlerRegistry:
    return DomainEventHandlerRegistry({Ping: handlers})


async def test_calls_the_maker_or_the_class_once() -> None:
    factory: DomainEventHandlerFactory = SimpleDomainEventHandlerFactory(
        {Needy: lambda: Needy("s")}, registry(Needy, Plain)
    )
    needy, plain = await factory.create(Ping)

    assert isinstance(needy, Needy)
    assert needy.session == "s"
    assert isinstance(plain, Plain)
    assert await factory.create(Ping) == [needy, plain]


def test_makes_the_handlers_of_all_that_were_defined_by_default() -> None:
    assert SimpleDomainEventHandlerFactory()._registry is DomainEventHandler.registry


async def test_an_event_without_handlers_has_none() -> None:
    assert await SimpleDomainEventHandlerFactory(registry=registry()).create(Ping) == []


async def test_says_how_to_make_what_needs_arguments() -> None:
    with pytest.raises(HandlerNotBuiltError) as caught:
        await SimpleDomainEventHandlerFactory(registry=registry(Needy)).create(Ping)
    assert str(caught.value) == (
        "cannot build the handler Needy: Needy.__init__() missing 1 required positional argument: "
        "'session'. Pass a maker: "
        "SimpleDomainEventHandlerFactory({Needy: lambda: Needy(...)})"
    )
    assert isinstance(caught.value.__cause__, TypeError)
    assert caught.value.handler is Needy


async def test_errors_of_a_maker_are_raised_as_they_are() -> None:
    error = TypeError("mine")

    def make() -> Plain:
        raise error

    with pytest.raises(TypeError) as caught:
        await SimpleDomainEventHandlerFactory({Plain: make}, registry(Plain)).create(Ping)
    assert caught.value is error


async def test_says_what_a_maker_must_be() -> None:
    async def make() -> Plain:
        return Plain()

    for maker, cure in (
        (Plain(), "its maker is <.*Plain object at .*>: pass a callable, as in `lambda: ...`"),
        (make, "its maker is async: await what it needs beforehand, or write a factory"),
        (lambda: None, "its maker returned None: return a handler"),
        (lambda: Plain, "its maker returned <class '.*Plain'>: return a handler"),
    ):
        makers: Any = {Plain: maker}
        with pytest.raises(HandlerNotBuiltError, match=cure):
            await SimpleDomainEventHandlerFactory(makers, registry(Plain)).create(Ping)
