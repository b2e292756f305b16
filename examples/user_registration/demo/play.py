"""Play the scenes, and say whether all went as it should."""

from collections.abc import Sequence
from contextlib import suppress

from dishka import Provider
from rich.console import Console
from rich.text import Text

from examples.user_registration.demo.checks import Checks, MissingError
from examples.user_registration.demo.log import log_to
from examples.user_registration.demo.mail_server import MailServer
from examples.user_registration.demo.scenes import SCENES
from examples.user_registration.demo.stage import MakeMailServer, stage
from examples.user_registration.demo.timeline import Timeline
from examples.user_registration.demo.trace import tracing


async def play(
    emails: Sequence[str],
    *,
    port: int = 0,
    patience: float = 5.0,
    make_mail_server: MakeMailServer = MailServer,
    overrides: Sequence[Provider] = (),
) -> bool:
    """Register these addresses, play the other scenes, and tell whether every check passed.

    `patience` is how many seconds each check may take. `make_mail_server` and `overrides` are for
    those who want to see it fail: a server that loses mail, a part that does not do its work.
    """
    timeline = Timeline(Console(highlight=False))
    checks = Checks(timeline, patience)
    timeline.head()
    with log_to(timeline), tracing() as trace:
        async with stage(timeline, make_mail_server, overrides, port) as everything:
            everything.introduce()
            for scene in SCENES:
                with suppress(MissingError):  # it is noted; the next scene may show more
                    await scene(everything, checks, emails)
    tree = trace.tree()
    if tree is not None:
        timeline.show(Text("\nThe trace of the first registration", "bold"))
        timeline.show(tree)
    timeline.show(checks.summary())
    timeline.say("demo", checks.verdict())
    return checks.all_passed
