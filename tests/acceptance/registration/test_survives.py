"""The registration example as processes, some of which die: every user gets one mail, none two."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.acceptance.registration.scenario import (
    MAILS_AT_ONCE,
    Databases,
    Outcome,
    Scenario,
    Victim,
    sqlite,
)
from tests.brokers.rabbitmq_server import RabbitMQServer

REGISTRATIONS = 200
VICTIMS: list[Victim] = ["relay", "relay", "relay", "email", "email", "email", "broker"]


def new_seed() -> int:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it when the test fails
    return seed


def check(outcome: Outcome, registrations: int) -> None:
    """Everybody is registered, and has one mail."""
    assert outcome.statuses == {201: registrations}, "the broker is no business of who registers"
    assert outcome.users == registrations
    addresses = {f"user-{number}@example.com" for number in range(registrations)}
    assert outcome.mails == dict.fromkeys(addresses, 1)
    assert outcome.heard == registrations
    assert not any(outcome.left.values()), outcome.left
    # What no inbox can prevent: killed with mails at the server, it sends these once more. They are
    # one batch, as the relay of mails has one in flight. They have the Message-IDs of the first, by
    # which the mailboxes recognise them.
    assert outcome.copies <= MAILS_AT_ONCE * outcome.kills["email"]


async def test_every_user_gets_one_mail_whoever_is_killed(
    broker: RabbitMQServer, databases: Databases, tmp_path: Path
) -> None:
    seed = new_seed()
    victims = list(VICTIMS)
    random.Random(seed).shuffle(victims)

    outcome = await Scenario(broker, databases, tmp_path, seed=seed).play(REGISTRATIONS, victims)

    print(f"killed: {victims}; copies of mails: {outcome.copies}")  # noqa: T201
    check(outcome, REGISTRATIONS)


async def test_it_would_be_noticed_if_there_were_no_inbox(
    broker: RabbitMQServer, tmp_path: Path
) -> None:
    program = ["-m", "tests.acceptance.registration.without_inbox"]
    scenario = Scenario(broker, sqlite(tmp_path), tmp_path, seed=1, email=program)

    outcome = await scenario.play(30, ["relay"])

    with pytest.raises(AssertionError, match=r"'user-\d+@example.com': 2"):
        check(outcome, 30)


async def test_it_would_be_noticed_if_the_outbox_were_passed_by(
    broker: RabbitMQServer, tmp_path: Path
) -> None:
    program = ["-m", "tests.acceptance.registration.without_outbox"]
    # With this seed the broker is killed when most are still to be registered.
    scenario = Scenario(broker, sqlite(tmp_path), tmp_path, seed=4, timeout=30.0, users=program)

    with pytest.raises(AssertionError, match=r"waited 30 s for .*not sent: "):
        await scenario.play(60, ["broker"])
