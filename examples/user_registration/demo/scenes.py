"""What is shown, scene by scene, and what has to be true after each."""

from collections.abc import Sequence
from functools import partial

from events.integration import correlate
from examples.user_registration.contracts import USERS
from examples.user_registration.demo.checks import Checks
from examples.user_registration.demo.premises import ATTEMPTS
from examples.user_registration.demo.stage import Stage

ROLLED_BACK = "edsger@rollback.example"
DELAYED = "barbara@greylist.example"
UNLUCKY = "alan@unlucky.example"
HOPELESS = "alonzo@hopeless.example"
UNKNOWN = "kurt@unknown.example"
TWICE = "haskell@twice.example"
RESERVED = frozenset({ROLLED_BACK, DELAYED, UNLUCKY, HOPELESS, UNKNOWN, TWICE})

_BUSY = "451 4.3.0 mailbox busy"
_UNKNOWN = "550 5.1.1 no such mailbox"
_A_WHILE = 0.3  # seconds; a mail that nothing holds up takes some 20 ms


async def registrations_go_through(stage: Stage, check: Checks, emails: Sequence[str]) -> None:
    check.scene("Users register")
    facts = stage.facts
    for email in emails:
        check.that("201: the user is registered", await stage.register(email), 201)
        committed = stage.transactions.committed(email)
        check.that("one commit stored the user and the event", committed, (1, 1))
        await one_mail_arrives(stage, check, email)
        await check.until("the outbox is empty again", facts.outbox, 0)
        check.that("one user is in the database", await facts.users(email), 1)
    taken = emails[0]
    check.that("409: the address is taken", await stage.register(taken), 409)
    check.that("422: this is not an address", await stage.register("nonsense"), 422)
    await check.stays("no other mail is sent", partial(facts.mails, taken), 1, seconds=_A_WHILE)


async def a_failure_leaves_nothing(stage: Stage, check: Checks, _emails: Sequence[str]) -> None:
    check.scene("A registration that fails in a handler leaves nothing")
    facts, email = stage.facts, ROLLED_BACK
    stage.faults.fail_for.add(email)
    check.that("500: the client gets an error", await stage.register(email), 500)
    await check.until("a user had been written", stage.transactions.rolled_back, 1)
    check.that("there is no such user", await facts.users(email), 0)
    check.that("there is no outbox row", await facts.outbox(), 0)
    await check.stays("there is no mail", partial(facts.mails, email), 0, seconds=_A_WHILE)
    stage.faults.fail_for.clear()
    stage.timeline.say("demo", "the handler works again")
    check.that("201: the user is registered", await stage.register(email), 201)
    await one_mail_arrives(stage, check, email)


async def a_failure_is_retried(stage: Stage, check: Checks, _emails: Sequence[str]) -> None:
    check.scene("A handler that fails twice succeeds with the third attempt")
    email = UNLUCKY
    stage.faults.fail_email(email, times=2)
    stage.timeline.say("demo", f"the email service fails twice for {email}")
    check.that("201: the client is not affected", await stage.register(email), 201)
    await one_mail_arrives(stage, check, email)
    attempts = await stage.attempts.of(email)
    check.that("it took attempts 1, 2 and 3", attempts, [1, 2, 3])


async def a_dead_letter_is_redriven(stage: Stage, check: Checks, _emails: Sequence[str]) -> None:
    check.scene("An event that cannot be handled is kept and redriven")
    facts, email = stage.facts, HOPELESS
    stage.faults.fail_email(email)
    stage.timeline.say("demo", f"the email service fails each time for {email}")
    check.that("201: the user is registered", await stage.register(email), 201)
    kept = {email: ("retries-exhausted", ATTEMPTS)}
    await check.until("the event is a dead letter", facts.dead_letter_reasons, kept)

    letter = (await facts.dead_letters())[email]
    text = f"for {email}: {letter.reason}, attempts: {letter.attempts}\n{letter.error}"
    stage.timeline.say("dead", text, letter.message.correlation_id)
    check.that("no attempt has sent a mail", await facts.mails(email), 0)

    stage.faults.fail_email(email, times=0)
    stage.timeline.say("demo", "the email service works again: redrive")
    redriven = await stage.bus.redrive(letter.consumer, [letter])
    check.that("the dead letter is redriven", redriven, 1)
    await one_mail_arrives(stage, check, email)
    await check.until("no dead letter is left", facts.dead_letter_reasons, {})
    check.that("no other consumer received it again", await stage.onlooker.seen(email), 1)


async def a_refused_mail_is_kept(stage: Stage, check: Checks, _emails: Sequence[str]) -> None:
    check.scene("A mail that the server refuses is retried or parked")
    facts = stage.facts
    stage.mail.refuse(DELAYED, _BUSY, times=2)
    stage.mail.refuse(UNKNOWN, _UNKNOWN)
    stage.timeline.say("demo", f"the mail server answers 451 twice for {DELAYED}")
    stage.timeline.say("demo", f"and 550 each time for {UNKNOWN}")
    check.that("201: the user is registered", await stage.register(DELAYED), 201)
    check.that("201: the user is registered", await stage.register(UNKNOWN), 201)
    await one_mail_arrives(stage, check, DELAYED)
    await check.until("the other is parked at once", facts.parked_attempts, {UNKNOWN: 1})
    row = (await facts.parked())[UNKNOWN]
    stage.timeline.say("dead", f"for {UNKNOWN}: {row.error}", row.message.correlation_id)

    stage.mail.accept(UNKNOWN)
    stage.timeline.say("demo", f"the mail server accepts {UNKNOWN} now: redrive")
    check.that("the parked mail is redriven", await stage.mail_relay.redrive([row]), 1)
    await one_mail_arrives(stage, check, UNKNOWN)
    check.that("no mail is parked", await facts.parked_attempts(), {})


async def a_copy_changes_nothing(stage: Stage, check: Checks, _emails: Sequence[str]) -> None:
    check.scene("An event that is sent twice leads to one mail")
    email = TWICE
    check.that("201: the user is registered", await stage.register(email), 201)
    await one_mail_arrives(stage, check, email)
    await check.until("one event was sent", partial(_seen, stage, email), 1)
    assert stage.onlooker.last is not None
    event, event_id = stage.onlooker.last
    stage.timeline.say("demo", "the same event is sent once more, under the same id")
    with correlate(stage.timeline.correlation_id(email)):
        await stage.users_bus.send(USERS, event, id=event_id)
    await check.until("without an inbox it is handled twice", partial(_seen, stage, email), 2)
    await check.stays(
        "with an inbox it is handled once",
        partial(stage.facts.mails, email),
        1,
        seconds=0.3,
    )
    check.that("no mailbox received a copy", stage.mail.copies, 0)


async def _seen(stage: Stage, email: str) -> int:
    return await stage.onlooker.seen(email)


async def one_mail_arrives(stage: Stage, check: Checks, email: str) -> None:
    await check.until("one mail has arrived", partial(stage.facts.mails, email), 1)
    check.that("the email service has handled one event", await stage.attempts.done(email), 1)


SCENES = (
    registrations_go_through,
    a_failure_leaves_nothing,
    a_failure_is_retried,
    a_dead_letter_is_redriven,
    a_refused_mail_is_kept,
    a_copy_changes_nothing,
)
