"""What is marked as personal is sent as it is, and masked wherever an event is shown."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import pytest

from events.contracts.schemas import payload_schema
from events.integration import (
    PII,
    EventHandlerConsumer,
    EventRegistry,
    IntegrationEvent,
    Message,
    RetryPolicy,
    Topic,
)
from events.integration.personal import has_personal_data, masked, shown
from events.memory import MemoryBus
from events.testing import until_quiet

USERS = Topic("users")


class Base(IntegrationEvent, abstract=True):
    registry = EventRegistry()


@dataclass(frozen=True)
class Person:
    name: Annotated[str, PII]
    number: int
    friends: list[Person] = field(default_factory=list["Person"])


@dataclass(frozen=True)
class SignedUpV1(Base):
    type = "signed.up"
    version = 1
    number: int
    email: Annotated[str, PII]
    age: Annotated[int, msgspec.Meta(ge=0), PII] = 7
    who: Person | None = None
    others: dict[str, Person] = field(default_factory=dict[str, Person])
    phones: list[Annotated[str, PII]] = field(default_factory=list[str])
    pair: tuple[int, Annotated[str, PII]] = (1, "x")
    maybe: Annotated[str, PII] | None = None
    payload: Annotated[dict[str, Any], PII] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if self.email == "refused@example.org":
            raise ValueError(f"{self.email} is refused")


@dataclass(frozen=True)
class PlainV1(Base):
    type = "plain"
    version = 1
    text: str


EVENT = SignedUpV1(
    3,
    "ada@example.org",
    36,
    Person("Ada Lovelace", 1),
    {"b": Person("Charles Babbage", 2)},
    ["+441234567"],
    (5, "secret pair"),
    "perhaps",
    {"Byron House": ["Main Street 1"]},
)
SECRETS = [
    "ada@example.org",
    "Ada Lovelace",
    "Charles Babbage",
    "+441234567",
    "secret pair",
    "perhaps",
    "Byron House",
    "Main Street 1",
]


def test_it_is_sent_as_it_is() -> None:
    assert SignedUpV1.from_dict(EVENT.to_dict()) == EVENT
    assert all(secret in str(EVENT.to_dict()) for secret in SECRETS)


def test_the_repr_masks_it() -> None:
    assert repr(EVENT) == (
        "SignedUpV1(type='signed.up', version=1, number=3, email=***, age=***, "
        "who=Person(name=***, number=1, friends=[]), "
        "others={'b': Person(name=***, number=2, friends=[])}, phones=[***], "
        "pair=[5, ***], maybe=***, payload=***)"
    )
    assert "maybe=None" in repr(SignedUpV1(1, "a"))
    assert repr(PlainV1("text")) == "PlainV1(type='plain', version=1, text='text')"
    assert (has_personal_data(SignedUpV1), has_personal_data(PlainV1)) == (True, False)


def test_what_is_not_of_its_type_is_masked() -> None:
    assert shown(SignedUpV1, "phones", 5) == "***"
    assert shown(SignedUpV1, "who", {"name": "Ada"}) == "{'name': ***}"


@pytest.mark.parametrize("holder", [EVENT, EVENT.to_dict()], ids=["event", "payload"])
def test_a_text_is_masked_wherever_it_holds_a_value(holder: Any) -> None:
    text = f"no {', '.join(SECRETS)} in number 3"

    hidden = masked(text, SignedUpV1, holder)

    assert hidden == f"no {', '.join(['***'] * len(SECRETS))} in number 3"
    assert masked(text, PlainV1, holder) == text


@dataclass(frozen=True)
class ContactsV1(Base):
    type = "contacts"
    version = 1
    by_name: Annotated[dict[str, Person] | None, PII] = None
    people: Annotated[list[Person], PII] = field(default_factory=list[Person])
    more: Annotated[Any, PII] = None


@pytest.mark.parametrize("as_payload", [False, True])
def test_keys_that_are_personal_are_masked_and_names_of_fields_are_not(as_payload: bool) -> None:
    event = ContactsV1(
        {"Ada": Person("Byron", 1815)}, [Person("Charles", 1791)], {"Mary": ["x" * 5]}
    )

    hidden = masked(
        "name Ada Byron 1815, number Charles 1791, Mary xxxxx",
        ContactsV1,
        event.to_dict() if as_payload else event,
    )

    assert hidden == "name *** *** ***, number *** ***, *** ***"


@pytest.mark.parametrize("write", [str, repr, json.dumps], ids=["as it is", "repr", "json"])
@pytest.mark.parametrize(
    "name", ["O'Neil", 'Jo "Ace"', """O'Neil "Ace\"""", "a\\b", "a\nb", "Ödön"]
)
def test_a_value_is_masked_where_it_is_escaped(name: str, write: Callable[[str], str]) -> None:
    text = f"no {write(name)} here, nor among {[name, name + chr(34) + chr(39)]}"

    hidden = masked(text, SignedUpV1, SignedUpV1(1, name))

    assert not [
        each for each in re.findall("[A-Za-zÖöÖ]+", name) if len(each) > 1 and each in hidden
    ]
    assert hidden.count("***") == 3


def test_the_schema_marks_it() -> None:
    schema = payload_schema(SignedUpV1)

    assert schema["properties"]["email"] == {"x-pii": True, "type": "string"}
    assert schema["properties"]["phones"]["items"]["x-pii"] is True
    assert schema["$defs"]["Person"]["properties"]["name"]["x-pii"] is True
    assert "x-pii" not in schema["properties"]["number"]


async def test_logs_and_dead_letters_hold_none_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(event: SignedUpV1) -> None:
        raise ValueError(f"cannot mail to {event.email}, who is {event.who}")

    consumer = EventHandlerConsumer("mails", {SignedUpV1: [fail]})
    bus = MemoryBus([consumer.subscribe(USERS, retry=RetryPolicy(attempts=2, delay=0.001))])
    with caplog.at_level(logging.DEBUG, "events"):
        async with bus:
            await bus.send(USERS, EVENT)
            await until_quiet(bus)
            body = SignedUpV1(1, "allowed@example.org").to_dict()
            body["email"] = "refused@example.org"
            await bus.transport.publish(
                Message(
                    id="1",
                    topic="users",
                    type="signed.up",
                    headers={},
                    body=msgspec.json.encode(body),
                )
            )
            await until_quiet(bus)
            letters = await bus.dead_letters("mails")

    assert [letter.reason for letter in letters] == ["retries-exhausted", "undecodable"]
    assert letters[0].error.startswith("ValueError: cannot mail to ***, who is Person(name='***'")
    assert "*** is refused" in letters[1].error
    formatter = logging.Formatter()
    logged = "\n".join(formatter.format(record) for record in caplog.records)
    assert "in fail" in logged  # the traceback is there
    assert not [secret for secret in (*SECRETS, "refused@example.org") if secret in logged]
