"""New versions, with and without upcasters, and who is registered for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from events.contracts import Service
from events.contracts.against import check_against
from events.contracts.check import check
from events.contracts.diff import differences
from events.contracts.findings import Finding
from events.contracts.lock import LockFileError, dumps, loads, lock_of
from events.errors import InvalidTopologyError
from events.integration import (
    Consumer,
    EventRegistry,
    IntegrationEvent,
    IntegrationEventBusRegistration,
    Topic,
)
from events.memory import MemoryBus

ORDERS = Topic("orders")


class Mails(Consumer):
    async def on_event(self, event: IntegrationEvent) -> None: ...


def service(sends: list[Any], reads: list[Any], **options: Any) -> Service:
    registrations = (
        [IntegrationEventBusRegistration(Mails("mails"), ORDERS, reads)] if reads else []
    )
    return Service("shop", registrations, sends={ORDERS: sends} if sends else {}, **options)


def classes(*, upcaster: bool = True, first: bool = True) -> list[Any]:
    """Make the two versions of a release, in a registry of its own."""

    class Base(IntegrationEvent, abstract=True):
        registry = EventRegistry()

    made: list[Any] = []
    if first:

        @dataclass
        class OrderPlacedV1(Base):
            """An order was placed."""

            type = "order.placed"
            version = 1
            name: str

        made.append(OrderPlacedV1)

    class WithUpcast:
        @classmethod
        def upcast(cls, payload: dict[str, Any]) -> dict[str, Any]:
            first, _, last = payload.pop("name").partition(" ")
            return {**payload, "first": first, "last": last}

    body: dict[str, Any] = {
        "type": "order.placed",
        "version": 2,
        "__annotations__": {"first": str, "last": str},
    }
    if upcaster:
        body["upcast"] = WithUpcast.__dict__["upcast"]
    made.append(dataclass(type("OrderPlacedV2", (Base,), body)))
    return made


def rules(verdicts: list[Any]) -> set[str]:
    return {each.rule for each in found(verdicts)}


def found(verdicts: list[Any]) -> list[Finding]:
    return [each for verdict in verdicts for each in verdict.findings]


@pytest.fixture
def locked() -> dict[str, Any]:
    (v1, _) = classes()
    v1.registry.remove(_)
    return loads(dumps(lock_of(service([v1], [v1]))), "lock")


def test_a_new_version_with_an_upcaster_has_consumers_go_first(locked: dict[str, Any]) -> None:
    _, v2 = classes()

    verdicts = check(service([v2], [v2]), locked)

    assert rules(verdicts) == {"consumers-first"}
    (finding,) = found(verdicts)
    assert (finding.level, finding.consumer, finding.version) == ("warning", "mails", 2)
    orders = {each.version: (each.consumers_first, each.producers_first) for each in verdicts}
    assert orders == {1: (True, True), 2: (True, False)}


@pytest.mark.parametrize("first", [True, False])
def test_a_new_version_without_an_upcaster_is_an_error(locked: dict[str, Any], first: bool) -> None:
    v2 = classes(upcaster=False, first=first)[-1]

    verdicts = check(service([v2], [v2]), locked)

    (error,) = [each for each in found(verdicts) if each.level == "error"]
    assert (error.rule, error.version) == ("new-cannot-read-old", 1)
    assert "no upcaster leads from 1 to 2" in error.message
    assert error.example == locked["events"]["order.placed"]["1"]["example"]


def test_an_upcaster_that_fails_is_an_error(locked: dict[str, Any]) -> None:
    _, v2 = classes()

    def upcast(cls: Any, payload: dict[str, Any]) -> dict[str, Any]:
        return {**payload, "first": payload["frist"]}

    v2.upcast = classmethod(upcast)

    (error,) = [e for e in found(check(service([v2], [v2]), locked)) if e.level == "error"]

    assert "upcasting it from version 1 raised KeyError('frist')" in error.message
    assert "upcasting" in error.cure


def test_a_consumer_that_does_not_follow_is_an_error(locked: dict[str, Any]) -> None:
    v1, v2 = classes()

    verdicts = check(service([v2], [v1]), locked)

    assert "new-cannot-read-new" in rules(verdicts)


def test_both_versions_side_by_side_are_well(locked: dict[str, Any]) -> None:
    v1, v2 = classes()

    assert rules(check(service([v1, v2], [v1, v2]), locked)) == {"consumers-first"}


def test_a_changed_event_that_only_others_read_is_an_error() -> None:
    (v1, v2) = classes()
    v1.registry.remove(v2)
    lock = lock_of(service([v1], []))
    changed = classes()[0]
    changed.registry.remove(changed.registry["order.placed", 2])
    other: Any = dataclass(
        type(
            "OrderPlacedV1",
            (changed.__mro__[1],),
            {
                "type": "order.placed",
                "version": 1,
                "__annotations__": {"number": int},
                "__event_name__": changed.__event_name__,
            },
        )
    )

    verdicts = check(service([other], []), lock)

    assert rules(verdicts) == {"new-cannot-read-old", "old-cannot-read-new"}
    assert {each.consumer for each in found(verdicts)} == {"any other service"}
    accepted = found(check(service([other], []), lock, accept=["order.placed.v1"]))
    assert {each.level for each in accepted} == {"warning"}


def test_a_registration_that_goes_is_seen(locked: dict[str, Any]) -> None:
    v1, v2 = classes()
    v1.registry.remove(v2)

    (finding,) = found(check(service([v1], []), locked))

    assert (finding.rule, finding.level) == ("no-longer-consumed", "warning")


def test_the_other_team_sends_what_we_cannot_read(locked: dict[str, Any]) -> None:
    v1, v2 = classes(upcaster=False)
    v1.registry.remove(v1)

    assert rules(check_against(service([], [v2]), locked)) == {"cannot-read-theirs"}
    assert rules(check_against(service([v2], []), locked)) == {"they-cannot-read-ours"}
    ours = classes()[0]
    assert rules(check_against(service([ours], [ours]), locked)) == set()


def test_what_only_the_class_itself_refuses_is_no_verdict() -> None:
    class Base(IntegrationEvent, abstract=True):
        registry = EventRegistry()

    @dataclass
    class MailChanged(Base):
        type = "mail.changed"
        version = 1
        email: str

        def __post_init__(self) -> None:
            if "@" not in self.email:
                raise ValueError("no address")

    @dataclass
    class Secret(Base):
        type = "secret"
        version = 1
        word: str

        def __post_init__(self) -> None:
            if self.word != "sesame":
                raise ValueError("no")

    given = service([MailChanged], [MailChanged])
    lock = lock_of(given)
    assert lock["events"]["mail.changed"]["1"]["example"]["email"] == "ada@example.org"
    assert found(check(given, lock)) == []
    with pytest.raises(LockFileError, match=r"Secret refuses every .* examples=\[Secret\(...\)\]"):
        lock_of(service([Secret], []))
    described = service([Secret], [], examples=[Secret("sesame")])
    assert lock_of(described)["events"]["secret"]["1"]["example"]["word"] == "sesame"
    assert found(check(described, lock_of(described))) == []


def test_the_lock_is_the_same_whatever_the_order() -> None:
    v1, v2 = classes()

    one = service([v1, v2], [v1, v2], owner="checkout")
    other = replace(one, sends={ORDERS: [v2, v1]})

    assert dumps(lock_of(one)) == dumps(lock_of(other))
    lock = lock_of(one)
    assert lock["sends"] == {"orders": {"order.placed": [1, 2]}}
    assert lock["consumers"] == {"mails": {"orders": {"order.placed": {"1": 1, "2": 2}}}}
    assert lock["events"]["order.placed"]["1"]["schema"]["description"] == "An order was placed."


def test_a_bus_may_stand_for_its_registrations() -> None:
    v1, _ = classes()
    bus = MemoryBus([IntegrationEventBusRegistration(Mails("mails"), ORDERS, [v1])])

    assert list(lock_of(Service("shop", bus))["consumers"]) == ["mails"]


def test_differences_in_words(locked: dict[str, Any]) -> None:
    _, v2 = classes()

    assert differences(locked, lock_of(service([v2], [v2]))) == [
        "+ order.placed v2",
        "- sends order.placed v1 to orders",
        "+ sends order.placed v2 to orders",
        "- mails reads order.placed v1 of orders as v1",
        "+ mails reads order.placed v1 of orders as v2",
        "+ mails reads order.placed v2 of orders as v2",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<<<<<<< HEAD", "is not JSON: .* resolve the merge conflict"),
        ("[]", "no member `lock`"),
        ('{"lock": 2}', "has format 2, and this release reads 1"),
        ('{"lock": 1, "service": {}, "events": []}', r"its `events` must be an object, not \[\]"),
    ],
)
def test_a_lock_that_cannot_be_read_is_said(text: str, reason: str) -> None:
    with pytest.raises(LockFileError, match=rf"a\.lock\.json.*{reason}"):
        loads(text, "a.lock.json")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"name": ""}, "its name must be"),
        ({"sends": {"orders": []}}, "must be Topics, not 'orders'"),
        ({"sends": {ORDERS: [int]}}, "it sends <class 'int'> to 'orders'"),
    ],
)
def test_a_service_that_cannot_be_is_said(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidTopologyError, match=reason):
        Service(given.pop("name", "shop"), **given)
