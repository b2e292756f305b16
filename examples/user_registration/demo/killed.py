"""The scene in which a process is killed, and another goes on with its files."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import TypeAlias
from uuid import uuid4

from examples.user_registration.demo import victim
from examples.user_registration.demo.checks import Checks
from examples.user_registration.demo.mail_server import MailServer
from examples.user_registration.demo.premises import SHORT_LEASE, Premises
from examples.user_registration.demo.scenes import one_mail_arrives
from examples.user_registration.demo.stage import Stage
from examples.user_registration.demo.timeline import Timeline

KILLED = "niklaus@killed.example"

_STARTUP = 120.0  # seconds, for what hangs: it is imports and two services, on a busy machine
_STATUS = -signal.SIGKILL if os.name == "posix" else 1

Open: TypeAlias = Callable[[], AbstractAsyncContextManager[Stage]]


async def a_killed_process_loses_nothing(
    premises: Premises, mail: MailServer, timeline: Timeline, check: Checks, open_stage: Open
) -> None:
    """Have a process of its own killed in the middle of a handler, then everything started again.

    Nothing else runs meanwhile, so nobody else can have done the work.
    """
    check.scene("A process that is killed loses nothing")
    correlation_id = str(uuid4())
    timeline.recognise(KILLED, correlation_id)
    timeline.say("demo", "everything is stopped; another process is started on the same files")
    async with _process(premises, KILLED, correlation_id) as process:
        said = await _said(process)
        for each in sorted(said):
            timeline.say("other", f"process {process.pid} {each}", correlation_id)
        check.that("201, and the handler has run", said, {victim.ANSWERED, victim.HANDLED})
        process.kill()
        check.that("it is killed there, by SIGKILL", await process.wait(), _STATUS)
    check.that("no mail was sent", len(mail.mails(KILLED)), 0)
    timeline.say(
        "demo",
        f"everything starts again; the old leases expire after {SHORT_LEASE:g} s",
    )
    async with open_stage() as stage:
        check.that("the user is in the database", await stage.facts.users(KILLED), 1)
        await one_mail_arrives(stage, check, KILLED)
        await check.until("the outbox is empty", stage.facts.outbox, 0)
        await check.until("the bus is empty", stage.facts.on_the_bus, 0)
        one = partial(stage.facts.mails, KILLED)
        await check.stays("no other mail is sent", one, 1, seconds=0.3)


@asynccontextmanager
async def _process(premises: Premises, email: str, correlation_id: str) -> AsyncGenerator[Process]:
    arguments = (str(premises.folder), str(premises.smtp_port), email, correlation_id)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", victim.__name__, *arguments, stdout=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _said(process: Process) -> set[str]:
    """Return the two things that it says, in any order; fewer if it ends, or takes long."""
    assert process.stdout is not None
    said = set[str]()
    with suppress(TimeoutError):
        async with asyncio.timeout(_STARTUP):
            while len(said) < 2 and (line := await process.stdout.readline()):
                if line.startswith(b"has "):  # the rest is its log
                    said.add(line.decode().rstrip())
    return said
