"""What is shown, scene by scene, and what has to be true after each."""

from collections.abc import Sequence
from functools import partial

from examples.user_registration.demo.checks import Checks
from examples.user_registration.demo.stage import ATTEMPTS, Stage

ROLLED_BACK = "edsger@rollback.example"
DELAYED = "barbara@greylist.example"
BUSY = "alan@busy.example"
UNKNOWN = "kurt@unknown.example"
RESERVED = frozenset({ROLLED_BACK, DELAYED, BUSY, UNKNOWN})

_BUSY = "451 4.3.0 mailbox busy"
_UNKNOWN = "550 5.1.1 no such mailbox"
_A_WHILE = 0.3  # seconds; a mail that nothing holds up takes some 20 ms


async def registrations_go_through(stage: Stage, check: Checks, emails: Sequence[str]) -> None:
    check.scene("Registrations go through")
    facts = stage.facts
    for email in emails:
        check.that("201: the user is registered", await stage.register(email), 201)
        committed = stage.transactions.committed(email)
        check.that("user and event came in one commit", committed, (1, 1))
        await one_mail_arrives(stage, check, email)
        await check.until("the outbox is empty again", facts.outbox, 0)
        check.that("one user is in the database", await facts.users(email), 1)
    taken = emails[0]
    check.that("409: the address is taken", await stage.register(taken), 409)
    check.that("422: this is no address", await stage.register("nonsense"), 422)
    await check.stays("no more mail comes of it", partial(facts.mails, taken), 1, seconds=_A_WHILE)


async def a_failure_leaves_nothing(stage: Stage, check: Checks, _emails: Sequence[str]) -> None:
    check.scene("A registration that fails in a handler leaves nothing")
    facts, email = stage.facts, ROLLED_BACK
    stage.faults.fail_for.add(email)
    check.that("500: the client is told", await stage.register(email), 500)
    await check.until("a user had been written", stage.transactions.rolled_back, 1)
    check.that("there is no such user", await facts.users(email), 0)
    check.that("there is no outbox row", await facts.outbox(), 0)
    await check.stays("there is no mail", partial(facts.mails, email), 0, seconds=_A_WHILE)
    stage.faults.fail_for.clear()
    stage.timeline.say("demo", "the handler works again")
    check.that("201: the user is registered", await stage.register(email), 201)
    await one_mail_arrives(stage, check, email)


async def a_failure_is_retried(stage: Stage, check: Checks, _emails: Sequence[str]) -> None:
    check.scene("A handler that fails twice succeeds at last")
    email = DELAYED
    stage.mail.refuse(email, _BUSY, times=2)
    stage.timeline.say("demo", f"the mail server answers 451 twice for {email}")
    check.that("201: the client need not know", await stage.register(email), 201)
    await one_mail_arrives(stage, check, email)
    attempts = await stage.attempts.of(email)
    check.that("it took attempts 1, 2 and 3", attempts, [1, 2, 3])


async def a_dead_letter_is_redriven(stage: Stage, check: Checks, _emails: Sequence[str]) -> None:
    check.scene("What cannot be handled is kept, and redriven")
    facts = stage.facts
    stage.mail.refuse(UNKNOWN, _UNKNOWN)
    stage.mail.refuse(BUSY, _BUSY)
    stage.timeline.say("demo", f"the mail server answers 550 each time for {UNKNOWN}")
    stage.timeline.say("demo", f"and 451 each time for {BUSY}")
    check.that("201: the user is registered", await stage.register(UNKNOWN), 201)
    check.that("201: the user is registered", await stage.register(BUSY), 201)
    kept = {UNKNOWN: ("unretryable", 1), BUSY: ("retries-exhausted", ATTEMPTS)}
    await check.until("both events are dead letters", facts.dead_letter_reasons, kept)

    letters = await facts.dead_letters()
    for email, letter in letters.items():
        text = f"for {email}: {letter.reason}, attempts: {letter.attempts}\n{letter.error}"
        stage.timeline.say("dead", text, letter.message.id)
        check.that("it has no mail", await facts.mails(email), 0)

    stage.mail.accept(UNKNOWN)
    stage.mail.accept(BUSY)
    stage.timeline.say("demo", "the mail server takes mail for both again: redrive")
    redriven = await stage.bus.redrive("email-service", letters.values())
    check.that("both dead letters are redriven", redriven, 2)
    for email in (UNKNOWN, BUSY):
        await one_mail_arrives(stage, check, email)
    await check.until("no dead letter is left", facts.dead_letter_reasons, {})
    seen = [await stage.onlooker.seen(email) for email in (UNKNOWN, BUSY)]
    check.that("no other consumer got them again", seen, [1, 1])


async def one_mail_arrives(stage: Stage, check: Checks, email: str) -> None:
    await check.until("one mail has arrived", partial(stage.facts.mails, email), 1)
    await check.until("the email service is done", partial(stage.attempts.done, email), 1)


SCENES = (
    registrations_go_through,
    a_failure_leaves_nothing,
    a_failure_is_retried,
    a_dead_letter_is_redriven,
)
