"""`events new`: each service that it writes is installed, checked, tested and run, as its CI does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import time
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from sqlalchemy import Engine, create_engine, text

from events.cli import main
from events.cli.commands.new import render
from tests.databases.database import new_database

# Each choice of each option, in half of the combinations. They share a cache of mypy, which takes
# files of one path, size and second for the same: so no two names are equally long.
SERVICES = [
    ("shop", "database", "none"),
    ("my-shop", "rabbitmq", "fastapi"),
    ("our-shop-of-coffee", "redis", "none"),
    ("their-shop", "nats", "fastapi"),
]


@dataclass(frozen=True)
class Service:
    name: str
    folder: Path
    python: Path

    def run(self, *arguments: str | Path, **environment: str) -> str:
        done = subprocess.run(
            [self.python, "-m", *arguments],
            cwd=self.folder,
            env=os.environ | environment,
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def write(*arguments: str, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["new", *arguments]) == 0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all services."""
    home = tmp_path_factory.mktemp("services")
    for name, bus, web in SERVICES:
        write(name, "--bus", bus, "--web", web, folder=home)
    return home


@pytest.fixture(scope="module")
def python(home: Path) -> Path:
    """Return the interpreter of a new environment, which sees the packages of this one."""
    venv.create(home / "env", with_pip=False, symlinks=True)
    python = home / "env" / "bin" / "python"
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run(
        [str(python), "-c", asked], text=True, capture_output=True, check=True
    ).stdout.strip()
    there = sysconfig.get_path("purelib")
    (Path(own) / "beside.pth").write_text(f"import site; site.addsitedir({there!r})\n")
    return python


@pytest.fixture(params=SERVICES, ids="-".join)
def service(request: pytest.FixtureRequest, home: Path, python: Path) -> Service:
    name, *_ = request.param
    return Service(name, home / name, python)


def test_it_is_installed_with_what_it_asks_for(service: Service, home: Path) -> None:
    # Without an index, pip fails if a dependency is not here, or not in a version that is wanted.
    service.run("pip", "install", "--quiet", "--no-index", "--no-build-isolation", ".[dev]")
    package = service.name.replace("-", "_")
    where = f"import {package}.app; print({package}.app.__file__)"
    done = subprocess.run(
        [service.python, "-P", "-c", where], cwd=home, text=True, capture_output=True, check=True
    )
    assert Path(done.stdout.strip()).is_relative_to(home / "env")


def test_it_is_clean_and_typed(service: Service, home: Path) -> None:
    service.run("ruff", "check", ".")
    service.run("ruff", "format", "--check", ".")
    service.run("mypy", "--cache-dir", home / "mypy")


def test_pyright_accepts_them(home: Path) -> None:
    """In one run, whose settings are those that each has of its own."""
    folders = [name for name, *_ in SERVICES]
    for folder in folders:
        own = tomllib.loads((home / folder / "pyproject.toml").read_text())["tool"]["pyright"]
        assert own["typeCheckingMode"] == "strict"
    roots = [{"root": folder, "extraPaths": [folder]} for folder in folders]
    settings = {"typeCheckingMode": "strict", "include": folders, "executionEnvironments": roots}
    (home / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable],
        cwd=home,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


# A plugin with which their tests wait as long as ours do, see conftest.py.
UNHURRIED = """
from events.testing import eventually, until_quiet

for function in (eventually, until_quiet):
    function.__defaults__ = (120.0,)
"""


def test_its_tests_pass(service: Service, tmp_path: Path) -> None:
    (tmp_path / "unhurried.py").write_text(UNHURRIED)
    given = ("-q", "-p", "no:cacheprovider", "-p", "unhurried")
    said = service.run("pytest", *given, PYTHONPATH=str(tmp_path))
    passed = re.search(r"(\d+) passed", said)
    assert passed, said
    assert int(passed[1]) == 5, said


def test_the_application_is_found(service: Service) -> None:
    assert f"{service.name}-receipts" in service.run("events.cli", "check", "--offline")


def test_its_migrations_fit_postgresql(service: Service) -> None:
    with new_database("postgresql") as database:
        url = database.url("postgresql+asyncpg").render_as_string(hide_password=False)
        service.run("alembic", "upgrade", "head", DATABASE_URL=url)
        service.run("alembic", "check", DATABASE_URL=url)


def test_the_image_has_what_the_commands_need(service: Service) -> None:
    dockerfile = (service.folder / "Dockerfile").read_text()
    copied = {
        source
        for line in re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE)
        for source in line.split()
    }
    assert all((service.folder / source).exists() for source in copied)
    sent = set(re.findall(r"^!(.*)$", (service.folder / ".dockerignore").read_text(), re.MULTILINE))
    assert copied == sent

    services = yaml.safe_load((service.folder / "compose.yaml").read_text())["services"]
    settings = (service.folder / service.name.replace("-", "_") / "settings.py").read_text()
    read = set(re.findall(r'environ.get\("(\w+)"', settings))
    commands = {"migrate": "alembic", "relay": "events", "web": "uvicorn", "worker": "events"}
    own = {name: each for name, each in services.items() if "build" in each}
    for name, each in own.items():
        assert each["command"].split()[0] == commands[name]
        assert set(each["environment"]) == read
        assert set(each["depends_on"]) <= set(services)
    assert ("relay" in own) == ("broker" in services) == ("BROKER_URL" in read)


def test_an_order_becomes_a_receipt_in_processes_of_their_own(home: Path, python: Path) -> None:
    write("parcels", "--bus", "database", "--web", "none", folder=home)
    parcels = Service("parcels", home / "parcels", python)
    parcels.run("alembic", "upgrade", "head")
    engine = create_engine(f"sqlite:///{parcels.folder / 'parcels.db'}")
    worker = subprocess.Popen([python, "-m", "events.cli", "run"], cwd=parcels.folder)
    try:
        assert until_there(engine, "SELECT consumer FROM bus_consumers") == ["parcels-receipts"]
        parcels.run("parcels", "ann@example.com", "2")
        receipts = until_there(engine, "SELECT text FROM receipts")
    finally:
        worker.terminate()
        worker.wait(timeout=120)
        engine.dispose()
    assert receipts == ["2 pieces for ann@example.com"]
    assert worker.returncode == 0


def until_there(engine: Engine, query: str) -> list[str]:
    deadline = time.monotonic() + 120
    while True:
        with engine.connect() as connection:
            found = list(connection.scalars(text(query)))
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Shop", "is not a valid name"),
        ("../shop", "is not a valid name"),
        ("7up", "is not a valid name"),
        ("events", "the name of another module"),
        ("class", "the name of another module"),
        ("json", "the name of another module"),
    ],
)
def test_a_name_that_is_no_packages_is_refused(
    name: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["new", name])
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").mkdir()
    with pytest.raises(SystemExit):
        main(["new", "shop"])
    assert "shop already exists" in capsys.readouterr().err
    assert list((tmp_path / "shop").iterdir()) == []


def test_the_next_steps_are_those_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["new", "shop", "--bus", "nats", "--web", "none"])
    steps = re.findall(r"^ +\$ (.*?)(?: +#.*)?$", capsys.readouterr().out, re.MULTILINE)
    readme = (tmp_path / "shop" / "README.md").read_text()
    assert "events relay env:DATABASE_URL env:BROKER_URL" in steps
    assert [step for step in steps[1:] if f"$ {step}" not in readme] == []


def test_conditions_nest_and_negate() -> None:
    template = "%% if a\n%% if not b\n1\n%% else\n2\n%% end\n%% else\n3\n%% end\n{{x}}\n"
    flags = [{"a": a, "b": b} for a in (True, False) for b in (True, False)]
    assert [render(template, {"x": "!"}, each)[0] for each in flags] == ["2", "1", "3", "3"]
    with pytest.raises(KeyError):
        render("{{unknown}}", {}, {})
