"""What is shown, scene by scene, and what has to be true after each."""

from collections.abc import Sequence
from functools import partial

from examples.user_registration.demo.checks import Checks
from examples.user_registration.demo_rabbitmq.stage import Stage

_MISSED_BY_EMAIL = ("barbara@example.com", "margaret@example.com")
_MISSED_BY_RELAY = ("katherine@example.com", "dorothy@example.com")
RESERVED = frozenset({*_MISSED_BY_EMAIL, *_MISSED_BY_RELAY})


async def people_register(stage: Stage, check: Checks, emails: Sequence[str]) -> None:
    check.scene("Three processes, one registration after the other")
    for email in emails:
        check.that("201: the user is registered", await stage.register(email), 201)
        await one_mail_arrives(stage, check, email)
    check.that("409: the address is taken", await stage.register(emails[0]), 409)


async def the_email_service_dies(stage: Stage, check: Checks, _emails: Sequence[str]) -> None:
    check.scene("kill -9 of the email service: the broker keeps the unhandled events")
    pid = stage.services.email.pid
    await stage.services.email.kill()
    stage.timeline.say("demo", f"kill -9 {pid}: the email service is gone")
    for email in _MISSED_BY_EMAIL:
        check.that("201: the client is not affected", await stage.register(email), 201)
    await check.until("the relay has sent both events", stage.outbox, 0)
    for email in _MISSED_BY_EMAIL:
        check.that("no mail yet", await stage.mails(email), 0)
    stage.timeline.say("demo", "the email service is started again")
    await stage.services.email.start()
    for email in _MISSED_BY_EMAIL:
        await one_mail_arrives(stage, check, email)


async def the_relay_dies(stage: Stage, check: Checks, _emails: Sequence[str]) -> None:
    check.scene("kill -9 of the relay: the outbox keeps the unsent events")
    pid = stage.services.relay.pid
    await stage.services.relay.kill()
    stage.timeline.say("demo", f"kill -9 {pid}: the relay is gone")
    for email in _MISSED_BY_RELAY:
        check.that("201: the client is not affected", await stage.register(email), 201)
    check.that("both events wait in the outbox", await stage.outbox(), 2)
    stage.timeline.say("demo", "the relay starts again; the old lease expires after 2 s")
    await stage.services.relay.start()
    for email in _MISSED_BY_RELAY:
        await one_mail_arrives(stage, check, email)


async def all_end(stage: Stage, check: Checks, _emails: Sequence[str]) -> None:
    check.scene("SIGTERM: each process finishes its work and exits with 0")
    for service in reversed(tuple(stage.services)):
        check.that(f"{service.name} has ended with status 0", await service.stop(), 0)
    check.that("no mailbox received a copy", stage.mail.copies, 0)


async def one_mail_arrives(stage: Stage, check: Checks, email: str) -> None:
    await check.until(f"{email} has one mail", partial(stage.mails, email), 1)


SCENES = (people_register, the_email_service_dies, the_relay_dies, all_end)
