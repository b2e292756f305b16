"""The built distribution: what is in it, and that it lives beside the distribution `Events`.

Each environment is a bare venv without pip; this environment's pip installs into it from a local
folder. Only filling that folder, once per run, needs the package index.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# The first test of a run fetches packages, on whatever network there is.

# What users write: every path, with every name that it must have.
PUBLIC = {
    "events.domain": [
        "AggregateRoot",
        "DomainEvent",
        "DomainEventDispatcher",
        "DomainEventHandler",
        "DomainEventHandlerFactory",
        "DomainEventHandlerRegistry",
    ],
    "events.domain.event": ["DomainEvent"],
    "events.domain.aggregate": [
        "AggregateRoot",
        "AggregateRoot.publish_event",
        "AggregateRoot.pop_events",
    ],
    "events.domain.dispatcher": [
        "DomainEventDispatcher",
        "DomainEventDispatcher.store_event",
        "DomainEventDispatcher.store_events",
        "DomainEventDispatcher.from_entity",
        "DomainEventDispatcher.process",
        "DomainEventDispatcher.__aenter__",
        "DomainEventDispatcher.__aexit__",
    ],
    "events.domain.event_handler": [
        "DomainEventHandler",
        "DomainEventHandlerFactory",
        "DomainEventHandlerFactory.create",
        "DomainEventHandlerRegistry",
        "DomainEventHandlerRegistry.add",
        "DomainEventHandlerRegistry.remove",
        "DomainEventHandlerRegistry.get",
    ],
    "events.domain.event_handler.handler": ["DomainEventHandler", "DomainEventHandlerRegistry"],
    "events.domain.event_handler.factory": ["DomainEventHandlerFactory"],
    "events.domain.implementation.dishka": [
        "DishkaDomainEventHandlerFactory",
        "DomainEventImplementationProvider",
    ],
    "events.domain.implementation.dishka.provider": ["DomainEventImplementationProvider"],
    "events.domain.implementation.dishka.factory": ["DishkaDomainEventHandlerFactory"],
    "events.integration": [
        "Consumer",
        "EventHandlerConsumer",
        "EventKey",
        "EventRegistry",
        "IntegrationEvent",
        "IntegrationEventBus",
        "IntegrationEventBusRegistration",
        "Topic",
    ],
    "events.integration.event": [
        "EventKey",
        "EventRegistry",
        "IntegrationEvent",
        "IntegrationEvent.to_dict",
        "IntegrationEvent.from_dict",
        "IntegrationEvent.registry",
    ],
    "events.integration.bus": [
        "IntegrationEventBus",
        "IntegrationEventBus.startup",
        "IntegrationEventBus.shutdown",
        "IntegrationEventBus.register",
        "IntegrationEventBus.unregister",
        "IntegrationEventBus.send",
    ],
    "events.integration.topology": ["Consumer", "IntegrationEventBusRegistration", "Topic"],
    "events.integration.topology.consumer": [
        "Consumer",
        "Consumer.on_event",
        "EventHandler",
        "EventHandlerConsumer",
        "EventHandlerConsumer.add_handler",
        "EventHandlerConsumer.on",
        "EventHandlerConsumer.subscribe",
        "EventHandlerRegistry",
    ],
    "events.integration.topology.consumer.base": ["Consumer"],
    "events.integration.topology.consumer.handler": [
        "EventHandler",
        "EventHandlerConsumer",
        "EventHandlerRegistry",
    ],
    "events.memory": ["MemoryBroadcastBus", "MemoryBroker", "MemoryBus", "MemoryChannels"],
}

IMPORT_ALL = """
import importlib
from functools import reduce

public = {public!r}
missing = []
for path, names in public.items():
    module = importlib.import_module(path)
    for name in names:
        try:
            reduce(getattr, name.split("."), module)
        except AttributeError as error:
            missing.append(f"{{path}}: {{error}}")
assert not missing, "\\n".join(missing)
"""

IMPORT_OURS = IMPORT_ALL.format(public=PUBLIC)

IMPORT_EVENTS = """
from events import Events

seen = []
events = Events()
events.on_change += seen.append
events.on_change("changed")
assert seen == ["changed"]
"""

USER_CODE = """
from dataclasses import dataclass

from events.domain import AggregateRoot, DomainEvent, DomainEventHandler
from events.errors import BusUnavailableError, EventsError
from events.integration import IntegrationEvent, Topic


@dataclass(frozen=True)
class UserRegistered(DomainEvent):
    type = "user.registered"
    email: str


@dataclass(frozen=True)
class UserRegisteredV1(IntegrationEvent):
    type = "user.registered"
    version = 1
    email: str


class User(AggregateRoot):
    def register(self) -> None:
        self.publish_event(UserRegistered(email="ada@example.org"))


class Announce(DomainEventHandler[UserRegistered]):
    async def handle(self, event: UserRegistered) -> None:
        print(UserRegisteredV1(email=event.email).to_dict(), Topic("users"))


def text_of(error: BusUnavailableError) -> str:
    base: EventsError = error
    return f"{base}: {error.reason}"
"""

# The same code with one mistake for each import: a checker that takes a module for untyped, hence
# for Any, accepts them all.
WRONG_CODE = """
from events.domain import AggregateRoot
from events.errors import BusUnavailableError
from events.integration import Topic

AggregateRoot().publish_event("not an event")  # wrong
Topic(name=1)  # wrong
BusUnavailableError(nonsense=True)  # wrong
"""


def spawn(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    # Neither this checkout nor the settings of who runs the tests may leak into what is tested.
    leaks = ("PYTHON", "MYPY", "COV", "FORCE_COLOR")
    env = {name: value for name, value in os.environ.items() if not name.startswith(leaks)}
    return subprocess.run(command, cwd=cwd, env=env, text=True, capture_output=True, check=False)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = spawn(*command, cwd=cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Environment:
    """A virtual environment that gets its packages from a local folder, and its scripts from us."""

    path: Path
    packages: Path

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    def pip(self, *args: str | Path) -> None:
        run(sys.executable, "-m", "pip", "--quiet", "--python", self.python, *args)

    def install(self, *names: str) -> None:
        # An existing index or folder in the user's settings must not win over what was built here.
        self.pip("install", "--isolated", "--no-index", "--find-links", self.packages, *names)

    def uninstall(self, name: str) -> None:
        self.pip("uninstall", "--yes", name)

    def execute(self, code: str) -> None:
        # -P: the current directory is not where these imports may come from.
        run(self.python, "-P", "-W", "error", "-c", code, cwd=self.path)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (wheel,) = dist.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def packages(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel, `Events`, and what the wheel and its dishka extra need."""
    folder = tmp_path_factory.mktemp("packages")
    download = (sys.executable, "-m", "pip", "--quiet", "download", "--dest", folder)
    run(*download, "--require-hashes", "-r", Path(__file__).with_name("packages.txt"))
    run(*download, f"msgspec=={version('msgspec')}", f"dishka=={version('dishka')}")
    (folder / wheel.name).write_bytes(wheel.read_bytes())
    return folder


def make_environment(packages: Path, path: Path) -> Environment:
    venv.create(path, with_pip=False, symlinks=True)
    return Environment(path, packages)


@pytest.fixture(scope="module")
def bare(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return an environment with our wheel, without any extra."""
    environment = make_environment(packages, tmp_path_factory.mktemp("bare"))
    environment.install("integration-events")
    return environment


@pytest.fixture(scope="module", params=["Events first", "Events last"])
def both(
    packages: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Environment:
    """Return an environment with our wheel and `Events`, installed in either order."""
    environment = make_environment(packages, tmp_path_factory.mktemp("both"))
    names = ["Events", "integration-events[dishka]"]
    for name in names if request.param == "Events first" else reversed(names):
        environment.install(name)
    return environment


@pytest.fixture
def environment(packages: Path, tmp_path: Path) -> Environment:
    """Return an empty environment, for a test that changes what is installed."""
    return make_environment(packages, tmp_path / "env")


# --- contents -------------------------------------------------------------------------------------


def test_wheel_holds_the_modules_and_nothing_else(wheel: Path) -> None:
    src = ROOT / "src"
    expected = {
        path.relative_to(src).as_posix()
        for path in src.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected


def test_wheel_leaves_to_events_the_files_that_events_owns(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    owned = ("events/__init__.py", "events/events.py", "events/tests/")
    assert [name for name in names if name.startswith(owned)] == []


def test_each_sub_package_is_marked_as_typed(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    packages = {name.split("/")[1] for name in names if name.count("/") > 1}
    for package in packages - {"licenses", "tests"}:
        if ".dist-info" not in package:
            assert f"events/{package}/py.typed" in names
    assert "events/py.typed" in names


def test_sdist_holds_what_is_needed_and_not_more(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert {"pyproject.toml", "README.md", "LICENSE", "src/events/errors.py"} <= set(names)
    top = {name.split("/")[0] for name in names}
    assert not top & {".venv", ".ci", ".git", "dist"}
    assert [name for name in names if "__pycache__" in name or name.endswith(".pyc")] == []


# --- beside Events --------------------------------------------------------------------------------


def test_both_import_side_by_side(both: Environment) -> None:
    both.execute(IMPORT_EVENTS + IMPORT_OURS)


def test_ours_first_then_events_in_one_process(both: Environment) -> None:
    both.execute(IMPORT_OURS + IMPORT_EVENTS)


def test_ours_imports_without_events(environment: Environment) -> None:
    environment.install("integration-events[dishka]")
    environment.execute(IMPORT_OURS)


@pytest.mark.parametrize("first", ["Events", "integration-events[dishka]"])
def test_uninstalling_one_leaves_the_other(environment: Environment, first: str) -> None:
    names = ["Events", "integration-events[dishka]"]
    environment.install(first)
    environment.install(*(name for name in names if name != first))

    environment.uninstall("Events")
    environment.execute(IMPORT_OURS)

    environment.install("Events")
    environment.uninstall("integration-events")
    environment.execute(IMPORT_EVENTS)


# --- extras ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("events.domain.implementation.dishka", "dishka"),
        ("events.integration.implementation.dishka", "dishka"),
        ("events.integration.implementation.sqlalchemy", "sqlalchemy"),
        ("events.integration.implementation.rabbitmq", "rabbitmq"),
        ("events.integration.implementation.redis", "redis"),
        ("events.integration.implementation.nats", "nats"),
        ("events.dishka", "dishka"),
        ("events.sqlalchemy", "sqlalchemy"),
        ("events.rabbitmq", "rabbitmq"),
        ("events.redis", "redis"),
        ("events.nats", "nats"),
    ],
)
def test_a_missing_extra_is_named(bare: Environment, module: str, extra: str) -> None:
    bare.execute(f"""
try:
    import {module}
except ImportError as error:
    assert "integration-events[{extra}]" in str(error), repr(error)
    if ".implementation." in "{module}":
        assert str(error).startswith("{module} "), repr(error)
else:
    raise AssertionError("imported without its extra")
""")


def test_everything_without_an_extra_imports_in_a_bare_environment(bare: Environment) -> None:
    public = {path: names for path, names in PUBLIC.items() if ".implementation" not in path}
    bare.execute(IMPORT_ALL.format(public=public))


def test_every_extra_is_in_all() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    extras.pop("demo")  # of `events demo` alone
    (everything,) = extras.pop("all")
    match = re.fullmatch(r"integration-events\[(.*)\]", everything)
    assert match
    assert set(match[1].split(",")) == set(extras)


# --- types ----------------------------------------------------------------------------------------


def check(environment: Environment, checker: str, code: str, folder: Path) -> tuple[int, str]:
    # The checker is ours; what it sees is the installed wheel, not this checkout.
    (folder / "code_of_a_user.py").write_text(code)
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    command: dict[str, list[str | Path]] = {
        "mypy": ["mypy", "--strict", "--no-incremental", "--python-executable"],
        "pyright": ["pyright", "--pythonpath"],
    }
    arguments = (*command[checker], environment.python, "code_of_a_user.py")
    done = spawn(sys.executable, "-m", *arguments, cwd=folder)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_user_code_against_the_installed_wheel_is_clean(
    both: Environment, checker: str, tmp_path: Path
) -> None:
    code, output = check(both, checker, USER_CODE, tmp_path)
    assert code == 0, output


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_the_installed_wheel_is_not_taken_for_untyped(
    bare: Environment, checker: str, tmp_path: Path
) -> None:
    _, output = check(bare, checker, WRONG_CODE, tmp_path)
    errors = {int(line) for line in re.findall(r"\.py:(\d+)(?::\d+)?(?: -|:) error", output)}
    lines = WRONG_CODE.splitlines()
    assert errors == {n for n, line in enumerate(lines, 1) if line.endswith("# wrong")}, output
