"""Play the scenes, and say whether all went as it should."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from dishka import Provider
from rich.console import Console
from rich.text import Text

from examples.user_registration.demo.checks import Checks, MissingError
from examples.user_registration.demo.killed import a_killed_process_loses_nothing
from examples.user_registration.demo.log import log_to
from examples.user_registration.demo.mail_server import Answer, MailServer
from examples.user_registration.demo.premises import Premises
from examples.user_registration.demo.scenes import SCENES
from examples.user_registration.demo.stage import stage
from examples.user_registration.demo.timeline import Timeline
from examples.user_registration.demo.trace import tracing
from examples.user_registration.demo.watch import say_answer

MakeMailServer: TypeAlias = Callable[[Callable[[Answer], None]], MailServer]


async def play(
    emails: Sequence[str],
    *,
    port: int = 0,
    time_limit: float = 60.0,
    make_mail_server: MakeMailServer = MailServer,
    overrides: Sequence[Provider] = (),
) -> bool:
    """Register these addresses, play the other scenes, and tell whether every check passed.

    `time_limit` is how many seconds each check may take. `make_mail_server` and `overrides` are for
    those who want to see it fail: a server that loses mail, a part that does not do its work.
    """
    timeline = Timeline(Console(highlight=False))
    checks = Checks(timeline, time_limit)
    timeline.head()
    with (
        TemporaryDirectory(prefix="user-registration-") as folder,
        log_to(timeline),
        tracing() as trace,
    ):
        async with make_mail_server(partial(say_answer, timeline)) as mail:
            premises = Premises(Path(folder), mail.port)
            await premises.migrate()
            open_stage = partial(stage, timeline, premises, mail, overrides, port)
            async with open_stage() as everything:
                everything.introduce()
                for scene in SCENES:
                    with suppress(MissingError):  # it is noted; the next scene may show more
                        await scene(everything, checks, emails)
            with suppress(MissingError):
                await a_killed_process_loses_nothing(premises, mail, timeline, checks, open_stage)
    tree = trace.tree()
    if tree is not None:
        timeline.show(Text("\nThe trace of the first registration", "bold"))
        timeline.show(tree)
    timeline.show(checks.summary())
    timeline.say("demo", checks.verdict())
    return checks.all_passed
