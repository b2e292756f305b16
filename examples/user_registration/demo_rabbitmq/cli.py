"""The command line of the demo on RabbitMQ."""

from collections.abc import Sequence
from contextlib import suppress

from rich.console import Console

from examples.user_registration.demo.checks import Checks, MissingError
from examples.user_registration.demo.cli import DEFAULT, parse, parser_of_emails, run
from examples.user_registration.demo.timeline import Timeline
from examples.user_registration.demo_rabbitmq.scenes import RESERVED, SCENES
from examples.user_registration.demo_rabbitmq.stage import stage

_DESCRIPTION = """\
Runs user service, outbox relay and email service as processes, on RabbitMQ: the one that
RABBITMQ_URL names, else that on localhost, else one of its own. Registers users over HTTP, shows
the logs of all of them in one timeline, kills two of them, and stops everything in the end.
"""
_TIMEOUT = 60.0  # seconds that each check may take


def main(arguments: Sequence[str]) -> int:
    module = "examples.user_registration.demo_rabbitmq"
    parser = parser_of_emails(module, "demo-rabbitmq", _DESCRIPTION, RESERVED)
    emails: Sequence[str] = parse(parser, arguments).emails or DEFAULT
    return run(lambda: play(emails))


async def play(emails: Sequence[str]) -> bool:
    """Register these addresses, play the other scenes, and tell whether every check passed."""
    timeline = Timeline(Console(highlight=False))
    checks = Checks(timeline, _TIMEOUT)
    timeline.head()
    async with stage(timeline) as everything:
        for scene in SCENES:
            with suppress(MissingError):  # it is noted; the next scene may show more
                await scene(everything, checks, emails)
    timeline.show(checks.summary())
    timeline.say("demo", checks.verdict())
    return checks.all_passed
