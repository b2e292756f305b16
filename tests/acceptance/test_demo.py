"""The demo, as people start it: it ends well, says what it saw, and fails when something is missing."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE = "examples.user_registration"
SECONDS = 240  # of which a machine with nothing else to do needs eight

SCENES = (
    "1  Users register",
    "2  A registration that fails in a handler leaves nothing",
    "3  A handler that fails twice succeeds with the third attempt",
    "4  An event that cannot be handled is kept and redriven",
    "5  A mail that the server refuses is retried or parked",
    "6  An event that is sent twice leads to one mail",
    "7  A process that is killed loses nothing",
)

# The demo's events are of no concern to this process, so even what is changed runs in another.
PLAY = """
import asyncio, sys
from dishka import Provider, Scope, provide
from sqlalchemy.ext.asyncio import AsyncEngine
from events.integration import IntegrationEventBus, OutboxRelay
from events.integration.implementation.sqlalchemy import SQLAlchemyOutboxStore
from examples.user_registration.demo.mail_server import MailServer
from examples.user_registration.demo.play import play

class LosesMail(MailServer):
    def deliver(self, recipient, mail):
        pass

class NeverStarted(Provider):
    @provide(scope=Scope.APP)
    def relay(self, engine: AsyncEngine, bus: IntegrationEventBus) -> OutboxRelay:
        return OutboxRelay(SQLAlchemyOutboxStore(engine), bus)

everything_happened = asyncio.run(play(["ada@example.com"], time_limit=1, {}))
sys.exit(not everything_happened)
"""


def environment() -> dict[str, str]:
    # Wide, so that no line is broken; without what would have it written in colours.
    return {k: v for k, v in os.environ.items() if k != "FORCE_COLOR"} | {"COLUMNS": "240"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment(),
        text=True,
        encoding="utf-8",
        capture_output=True,
        check=False,
        timeout=SECONDS,
    )


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("-m", MODULE, *arguments)


@pytest.fixture(scope="module")
def done() -> subprocess.CompletedProcess[str]:
    """A run without arguments, for all who only read what it wrote."""
    return demo()


def mails_to(email: str, output: str) -> int:
    return len(re.findall(rf"smtp +From: \S+ +To: {re.escape(email)}\n +Subject: ", output))


def test_every_scene_comes_to_its_end(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for scene in SCENES:
        assert f"\n{scene} " in done.stdout
    assert "MISSING" not in done.stdout
    assert "Traceback" not in done.stdout
    assert "\x1b" not in done.stdout, "colours have no place in a pipe"
    assert re.search(r"all \d\d checks passed", done.stdout)


def test_it_ends_with_the_trace_of_one_registration(
    done: subprocess.CompletedProcess[str],
) -> None:
    _, _, tree = done.stdout.partition("The trace of the first registration\n")
    branches = [
        "POST /users",
        "handle user.registered",
        "create registration.users",
        "linked: send registration.users",
        "linked: process registration.users",
        "create registration.mails",
        "linked: send registration.mails",
    ]
    for branch in branches:
        assert re.search(rf"^[│├└─ ]*{branch} ", tree, re.MULTILINE), branch


def test_the_timeline_follows_an_event_by_its_correlation_id(
    done: subprocess.CompletedProcess[str],
) -> None:
    output = done.stdout

    assert mails_to("ada@example.com", output) == mails_to("grace@example.com", output) == 1
    found = re.search(r"(\w{6}) smtp +From: \S+ +To: ada@example.com", output)
    assert found, output
    followed = [line[15:23].strip() for line in output.splitlines() if line[8:14] == found[1]]
    # The answer to the client and the relay race each other; the rest has an order.
    assert sorted(followed) == ["email", "http", "http", "outbox", "outbox", "relay", "smtp"]
    assert followed[:2] == ["http", "outbox"]
    assert followed.index("email") < followed.index("smtp")


def test_it_shows_retries_and_dead_letters_with_their_reasons(
    done: subprocess.CompletedProcess[str],
) -> None:
    output = done.stdout

    for attempt in (1, 2):
        assert re.search(
            rf"log +registration.email failed .* attempt {attempt} of 3, again in .* lets this fail",
            output,
        )
        assert re.search(rf"log +mail.queued .* attempt {attempt}, again in .* 451 ", output)
    assert "WelcomeUser queued a mail, attempt 3" in output
    assert re.search(r"dead +for kurt@unknown.example: MailRefusedError: 550 ", output)
    assert re.search(
        r"dead +for alonzo@hopeless.example: retries-exhausted, attempts: 3 *\n.* lets this fail",
        output,
    )


def test_a_process_is_killed_before_it_commits_and_its_work_is_done_afterwards(
    done: subprocess.CompletedProcess[str],
) -> None:
    _, _, scene = done.stdout.partition("\n7  ")

    killed = scene.index("it is killed there, by SIGKILL")
    assert scene.index("has handled the event, and has not committed") < killed
    assert scene.index("WelcomeUser queued a mail") > killed
    assert mails_to("niklaus@killed.example", scene) == 1


def test_it_registers_the_addresses_that_it_is_given() -> None:
    done = demo("alice@example.com", "bob@example.com")

    assert done.returncode == 0, done.stdout + done.stderr
    for email in ("alice@example.com", "bob@example.com"):
        assert mails_to(email, done.stdout) == 1
    assert "ada@example.com" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "argument EMAIL: 'nonsense' is not an email address"),
        (["ada@example.com", "x@y"], "argument EMAIL: 'x@y' is not an email address"),
        (["ada@example.com", "Ada@Example.com"], "EMAIL: ada@example.com is given more than once"),
        (["alan@unlucky.example"], "EMAIL: alan@unlucky.example is used in a later scene"),
        (["--port", "70000"], "argument --port: '70000' is not a port"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(arguments: list[str], message: str) -> None:
    done = demo(*arguments)

    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = demo("--port", str(port))

    assert done.returncode == 1
    assert f"cannot start: port {port} of 127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("change", ["make_mail_server=LosesMail", "overrides=[NeverStarted()]"])
def test_it_fails_and_says_what_did_not_happen(change: str) -> None:
    done = run("-c", PLAY.replace("{}", change))

    assert done.returncode == 1, done.stdout + done.stderr
    assert "MISSING one mail has arrived: expected 1, found 0" in done.stdout
    assert "then missing: one mail has arrived" in done.stdout
    assert re.search(r"\d of 7 scenes did not finish", done.stdout)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_without_a_traceback(number: signal.Signals, status: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", MODULE],
        cwd=ROOT,
        env=environment(),
        text=True,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "attempt 1 of 3" in line:  # an event waits for its next attempt
                break
        process.send_signal(number)
        _, stderr = process.communicate(timeout=SECONDS)

    assert process.returncode == status
    assert stderr == "\nstopped\n"
