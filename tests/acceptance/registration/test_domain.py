"""Domain and application of both services, without a database and without a broker."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from events.domain import (
    DomainEventDispatcher,
    DomainEventHandler,
    DomainEventHandlerRegistry,
    SimpleDomainEventHandlerFactory,
)
from events.testing import RecordingOutbox
from examples.user_registration.contracts import USERS, UserRegisteredV1
from examples.user_registration.email_service.application.mail import MAILS, MailQueuedV1
from examples.user_registration.email_service.application.welcome_user import WelcomeUser
from examples.user_registration.user_service.application.announce_user import AnnounceUser
from examples.user_registration.user_service.application.ports import EmailTakenError
from examples.user_registration.user_service.application.register_user import RegisterUser
from examples.user_registration.user_service.domain.email import InvalidEmailError, email_address
from examples.user_registration.user_service.domain.user import User, UserRegistered
from examples.user_registration.user_service.infrastructure.passwords import Argon2PasswordHasher


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("ada@example.com", "ada@example.com"),
        ("  Ada.Lovelace+news@Example.COM ", "ada.lovelace+news@example.com"),
        ("a@b.co", "a@b.co"),
        (f"{'a' * 242}@example.com", f"{'a' * 242}@example.com"),
    ],
)
def test_an_address_has_one_form(given: str, address: str) -> None:
    assert email_address(given) == address


@pytest.mark.parametrize(
    "given",
    [
        "",
        "ada",
        "ada@",
        "@example.com",
        "ada@localhost",
        "a b@example.com",
        "ada@@example.com",
        ".ada@example.com",
        "ada@exa\0mple.com",
        "ada@example.com\nBcc: all@example.com",
        f"{'a' * 243}@example.com",
    ],
)
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(InvalidEmailError, match="is not an email address"):
        email_address(given)


def test_a_user_who_registers_publishes_it() -> None:
    before = datetime.now(UTC)
    before = datetime.now(UTC)
    user = User.register("Ada@example.com", "hash")

    assert user.email == "ada@example.com"
    assert before <= user.registered_at <= datetime.now(UTC)
    assert user.pop_events() == [UserRegistered(user)]
    assert "hash" not in repr(user), "it would end in some log"


class World:
    """Everything that `RegisterUser` needs of others, in memory."""

    def __init__(self, *handlers: type[DomainEventHandler[UserRegistered]]) -> None:
        self.stored: dict[str, User] = {}
        self.committed: list[str] = []
        self.outbox = RecordingOutbox()
        registry = DomainEventHandlerRegistry.of(handlers)
        factory = SimpleDomainEventHandlerFactory(
            {AnnounceUser: lambda: AnnounceUser(self.outbox)}, registry
        )
        self.register = RegisterUser(self, self, DomainEventDispatcher(factory), self)

    async def hash(self, password: str) -> str:
        return password[::-1]

    async def add(self, user: User) -> None:
        if user.email in self.stored:
            raise EmailTakenError(user.email)
        self.stored[user.email] = user

    async def commit(self) -> None:
        self.committed = list(self.stored)


async def test_registering_stores_announces_and_commits() -> None:
    world = World(AnnounceUser)

    user = await world.register("Ada@example.com", "secret")

    assert world.committed == ["ada@example.com"]
    assert user.password_hash == "terces"
    (put,) = world.outbox.sent
    assert put.topic == USERS
    assert put.event == UserRegisteredV1(
        user_id=user.id, email="ada@example.com", registered_at=user.registered_at
    )
    assert put.key == str(user.id)


async def test_a_taken_address_is_neither_announced_nor_committed() -> None:
    world = World(AnnounceUser)
    world.stored["ada@example.com"] = User.register("ada@example.com", "hash")

    with pytest.raises(EmailTakenError, match=r"ada@example.com is registered already"):
        await world.register("ada@example.com", "secret")

    assert world.outbox.sent == []
    assert world.committed == []


class Fails(DomainEventHandler[UserRegistered]):
    async def handle(self, event: UserRegistered) -> None:
        raise RuntimeError("no")


async def test_a_handler_that_fails_keeps_it_from_being_committed() -> None:
    world = World(AnnounceUser, Fails)

    with pytest.raises(RuntimeError, match="no"):
        await world.register("ada@example.com", "secret")

    assert world.committed == []


async def test_nonsense_is_found_before_a_password_is_hashed() -> None:
    world = World(AnnounceUser)
    world.hash = None  # type: ignore[method-assign, assignment]

    with pytest.raises(InvalidEmailError):
        await world.register("nonsense", "secret")


async def test_passwords_are_hashed_so_that_two_alike_are_not() -> None:
    hasher = Argon2PasswordHasher(time_cost=1, memory_kib=64)

    first, second = await hasher.hash("secret"), await hasher.hash("secret")

    assert first != second
    assert first.startswith("$argon2id$")
    assert "secret" not in first


async def test_a_welcome_is_owed_to_who_registered() -> None:
    mails = RecordingOutbox()
    registered = datetime(2026, 11, 25, 12, tzinfo=UTC)

    await WelcomeUser(mails).handle(
        UserRegisteredV1(user_id=uuid4(), email="ada@example.com", registered_at=registered)
    )

    (put,) = mails.sent
    assert put.topic == MAILS
    assert isinstance(put.event, MailQueuedV1)
    assert put.event.recipient == "ada@example.com"
    assert "25 November 2026" in put.event.text
