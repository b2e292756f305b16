from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from events.cli import COMMANDS, main
from events.cli._app import configured, find, load, opened
from events.cli._exit import UsageError

APP = """
import gc
from contextlib import asynccontextmanager
from dataclasses import dataclass

from events.integration import EventHandlerConsumer, IntegrationEvent, IntegrationEventBusRegistration, Topic
from events.integration.implementation.memory import InMemoryIntegrationEventBus

USERS = Topic("users")


@dataclass
class Registered(IntegrationEvent):
    type = "cli.registered"
    version = 1
    number: int


async def on_registered(event: Registered) -> None:
    print("handled", event.number, "frozen" if gc.get_freeze_count() else "", flush=True)


consumer = EventHandlerConsumer("mails", handlers={Registered: [on_registered]})
bus = InMemoryIntegrationEventBus(
    [IntegrationEventBusRegistration(consumer, USERS, [Registered])]
)


class Kept:
    bus = bus


@asynccontextmanager
async def sending():
    # What runs the bus runs this, too, so the event is sent once the bus is started.
    import asyncio

    async def send():
        while not bus.health().started:
            await asyncio.sleep(0.01)
        await bus.send(USERS, Registered(7))

    task = asyncio.create_task(send())
    yield bus
    print("closed", flush=True)
    task.cancel()
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    return tmp_path


def events(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "events.cli", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    )


def test_run_runs_the_consumers_until_a_signal(project: Path) -> None:
    process = events("run", "shop:sending", cwd=project)
    assert process.stdout is not None
    assert process.stderr is not None
    first = process.stdout.readline()
    began = next((line for line in process.stderr if " runs " in line), "")
    process.send_signal(signal.SIGTERM)
    rest, log = process.communicate(timeout=120)

    assert (first, rest, process.returncode) == ("handled 7 frozen\n", "closed\n", 0), log
    bus = "INFO events.integration: InMemoryIntegrationEventBus()"
    assert began.endswith(f"{bus} runs 'mails' on 'users'; stop it with SIGTERM\n")
    assert log.endswith(f"{bus} has stopped\n")


def test_the_reference_lists_every_command() -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "command.md"
    listed = re.findall(
        r"^\| `events ([a-z-]+)` \|", page.read_text(encoding="utf-8"), re.MULTILINE
    )

    assert sorted(listed) == sorted(COMMANDS)


def test_run_takes_app_as_the_other_commands_do(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--app", "shop:nothing"])
    assert "has no 'nothing'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["run", "shop:bus", "--app", "shop:nothing"])
    assert "name one application" in capsys.readouterr().err


@pytest.mark.parametrize("is_read", [True, False], ids=["a socket", "standard output"])
def test_a_broken_pipe_is_the_end_only_if_it_is_that_of_standard_output(
    is_read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_: object) -> int:
        if is_read:
            raise BrokenPipeError("of the connection to a broker")
        sys.stdout.write("a line\n")
        sys.stdout.flush()
        return 0

    command = SimpleNamespace(add_arguments=lambda _: None, run=run)
    monkeypatch.setattr("events.cli._module", lambda _: command)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        if is_read:
            with pytest.raises(BrokenPipeError, match="to a broker"):
                main(["backlog"])
        else:
            reader.close()
            assert main(["backlog"]) == 0


def test_help_imports_no_command_and_no_bus() -> None:
    program = (
        "import sys; from events.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name.startswith(('events.integration', 'asyncio', 'msgspec'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert "run the consumers of a bus" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("shop", "'shop' is not of the form module:name"),
        ("shop:", "is not of the form module:name"),
        ("shopp:bus", "there is no module 'shopp' to import"),
        ("shop:no", "'shop' has no 'no'"),
        (None, "name the application by --app"),
    ],
)
def test_what_cannot_be_loaded_is_said(project: Path, path: str | None, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(path)

    assert reason in str(caught.value)


def test_wrong_arguments_exit_with_2_and_one_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "shop:nothing"])

    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == "events: error: 'shop' has no 'nothing'"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--app", "shop:bus", "dead", "groups"], "--app comes after the command, as in `events "),
        (["dead", "redrive", "4f1c"], "unrecognized arguments: 4f1c; see `events dead redrive --"),
        (
            ["dead", "groups", "--app", "builtins:dict"],
            "gives no bus over a broker: it gives dict;",
        ),
        (["dead", "groups", "--app", "operator:add"], "is add, which takes arguments: give"),
    ],
)
def test_wrong_arguments_name_the_cure(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(given)

    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_without_a_command_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "find, group, redrive, discard and export dead letters" in capsys.readouterr().err


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert (
        capsys.readouterr().out == f"integration-events {metadata.version('integration-events')}\n"
    )


HELPER = """
import json


def port(text):
    return json.loads(text)
"""


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "import shop_that_is_not_there",
            "broken.py:1: ModuleNotFoundError: No module named 'shop_that_is_not_there'",
        ),
        ("\nbus = 1 / 0", "broken.py:2: ZeroDivisionError: division by zero"),
        ("import os\n\nbus = os.environ['PORT?']", "broken.py:3: KeyError: 'PORT?'"),
        ("def bus(:\n", "broken.py:1: SyntaxError: invalid syntax"),
        ("raise RuntimeError", "broken.py:1: RuntimeError"),
        ("raise RuntimeError('one\\ntwo\\x1b[2J')", "broken.py:1: RuntimeError: one two\\x1b[2J"),
        # The last line of the application, although a library below it failed.
        ("import helper\n\nhelper.port('')", "helper.py:6: JSONDecodeError: Expecting value: "),
        (
            "from events.integration import Topic\nUSERS = Topic('')",
            "broken.py:2: InvalidTopologyError: Topic(''): ",
        ),
        ("def bus():\n    return {}['url']", "broken.py:2: KeyError: 'url'"),
        ("async def bus():\n    raise OSError('no network')", "broken.py:2: OSError: no network"),
        (
            "from contextlib import asynccontextmanager\n\n"
            "@asynccontextmanager\nasync def bus():\n    yield open('no such file')",
            "broken.py:5: FileNotFoundError: [Errno 2] No such file or directory: 'no such file'",
        ),
    ],
)
@pytest.mark.parametrize("command", ["run", "describe", "relay"])
def test_what_the_application_raises_is_one_line_with_its_place(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    source: str,
    said: str,
) -> None:
    if command == "relay" and "async def bus():\n    raise" in source:
        pytest.skip("a relay's factory is no coroutine function, which is said")
    (project / "broken.py").write_text(source)
    (project / "helper.py").write_text(HELPER)
    for module in ("broken", "helper"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.delenv("EVENTS_TRACEBACK", raising=False)
    arguments = ["relay", "broken:bus"] if command == "relay" else [command, "--app", "broken:bus"]
    try:
        assert main(arguments) == 1
        lines = (
            [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"]
            if command == "relay"
            else capsys.readouterr().err.splitlines()
        )
        (line,) = lines
        assert line.removeprefix("events: ").startswith(said)
        assert line.endswith(" (the traceback: EVENTS_TRACEBACK=1)")
    finally:
        for module in ("broken", "helper"):
            sys.modules.pop(module, None)


def test_its_traceback_is_shown_if_asked_for(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "broken.py").write_text("\nbus = 1 / 0\n")
    monkeypatch.setenv("EVENTS_TRACEBACK", "1")

    assert main(["run", "broken:bus"]) == 1
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "Traceback (most recent call last):"
    assert last.startswith("events: broken.py:2: ZeroDivisionError")


def test_what_is_installed_is_the_users_if_the_application_is(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("events._named._NOT_THEIRS", (f"{project}{os.sep}",))
    (project / "shipped").mkdir()
    (project / "shipped" / "__init__.py").write_text("from shipped import settings\n")
    (project / "shipped" / "settings.py").write_text("PORT = int('many')\n")

    assert main(["run", "shipped.app:bus"]) == 1
    said = capsys.readouterr().err
    place = Path("shipped", "settings.py")
    assert said.startswith(f"events: {place}:1: ValueError: invalid literal")


def test_a_name_may_be_dotted(project: Path) -> None:
    assert load("shop:Kept.bus") is load("shop:bus")


def test_the_nearest_pyproject_names_the_application(project: Path) -> None:
    (project / "pyproject.toml").write_text('[tool.events]\napp = "shop:bus"\n')
    inner = project / "inner"
    inner.mkdir()

    assert configured(inner) == {"app": "shop:bus"}
    assert load(None) is load("shop:bus")


@pytest.mark.parametrize(
    ("text", "reason"), [("[tool", "is not valid TOML"), ("[tool]\nevents = 3", "must be a table")]
)
def test_a_pyproject_that_cannot_be_read_is_said(project: Path, text: str, reason: str) -> None:
    (project / "pyproject.toml").write_text(text)

    with pytest.raises(UsageError, match=reason):
        configured()


async def test_what_an_application_may_be() -> None:
    async def made() -> tuple[int, str]:
        return 1, "a"

    for app, parts in (([1, "a"], [1, "a"]), (7, [7]), (lambda: 7, [7]), (made, [1, "a"])):
        async with opened(app) as given:
            assert list(given) == parts


def test_a_part_is_found_by_its_class() -> None:
    assert find([1, "a"], str, "text") == "a"
    with pytest.raises(UsageError, match="gives no text: it gives int"):
        find([1], str, "text")
    with pytest.raises(UsageError, match="gives 2 of text: str, str; give one"):
        find(["a", "b"], str, "text")
