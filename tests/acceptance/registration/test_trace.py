"""One trace from the request through outbox, relay, broker and handler, over three processes."""

from __future__ import annotations

from pathlib import Path

from examples.user_registration.demo_rabbitmq.processes import EMAIL, RELAY, USERS
from tests.acceptance.registration.scenario import MAILS_AT_ONCE, Scenario, Victim, sqlite
from tests.acceptance.registration.spans import receiving
from tests.brokers.rabbitmq_server import RabbitMQServer

REGISTRATIONS = 30
VICTIMS: list[Victim] = ["relay", "email", "broker"]


def traced(url: str, name: str, program: list[str]) -> list[str]:
    assert program[0] == "-m"
    return ["-m", "tests.acceptance.registration.traced", url, name, *program[1:]]


async def test_no_parent_and_no_link_is_missing_whoever_is_killed(
    broker: RabbitMQServer, tmp_path: Path
) -> None:
    with receiving() as spans:
        scenario = Scenario(
            broker,
            sqlite(tmp_path),
            tmp_path,
            seed=7,
            users=traced(spans.url, "users", USERS),
            relay=traced(spans.url, "relay", RELAY),
            email=traced(spans.url, "email", EMAIL),
        )
        outcome = await scenario.play(REGISTRATIONS, VICTIMS)

    assert outcome.statuses == {201: REGISTRATIONS}
    creations = spans.named("create registration.users", "users")
    assert len(creations) == REGISTRATIONS
    mailed = 0
    for created in creations:
        above = [each.name for each in spans.ancestors_of(created)]
        assert above[0] == "handle user.registered"
        assert above[-1] == "POST /users"
        assert {each.service for each in spans.linked_to(created, "send registration.users")} == {
            "relay"
        }
        processed = spans.linked_to(created, "process registration.users")
        assert {each.service for each in processed} == {"email"}
        mails = [each for every in processed for each in spans.children_of(every)]
        mailed += any(spans.linked_to(mail, "send registration.mails") for mail in mails)

    assert spans.dangling_links == []
    # A process that is killed exports no span that it had not ended, so what such a handler had
    # put is there without it. If it had committed that, the next attempt is a duplicate's.
    alone = [mail for mail in spans.orphans if spans.linked_to(mail, "send registration.mails")]
    assert mailed + len(alone) == REGISTRATIONS
    assert {(each.service, each.name) for each in spans.orphans} <= {
        ("email", "create registration.mails")
    }
    assert len(spans.orphans) <= MAILS_AT_ONCE * outcome.kills["email"]
    # The scenario's copies come from nowhere, and are recognised.
    unlinked = [each for each in spans.named("process registration.users") if not each.links]
    assert unlinked
    assert all("events.duplicate" in each.happened for each in unlinked)
