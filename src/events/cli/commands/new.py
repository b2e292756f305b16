"""`events new`: write a small, complete service: it runs, it is typed, and it has tests.

The files are templates in `events/cli/scaffold`. `{{name}}` is replaced by a value. Lines between
`%% if FLAG` (or `%% if not FLAG`), `%% else` and `%% end` are kept or removed.
"""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

from events.cli._exit import OK, UsageError

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_TAKEN = {"alembic", "events", "migrations", "sqlalchemy", "test", "tests"}

# What differs from broker to broker. The indented text is the broker's service in compose.yaml.
_BROKERS: dict[str, dict[str, str]] = {
    "rabbitmq": {
        "broker_title": "RabbitMQ",
        "broker_url": "amqp://guest:guest@localhost:5672/",
        "compose_url": "amqp://guest:guest@broker:5672/",
        "bus_module": "events.rabbitmq",
        "bus": "RabbitMQBus",
        "compose_broker": """\
    image: rabbitmq:4
    hostname: broker # names the folder of its data
    volumes: ["broker:/var/lib/rabbitmq"]
    healthcheck:
      test: ["CMD", "rabbitmq-diagnostics", "-q", "check_port_connectivity"]
      interval: 5s
      timeout: 10s
      retries: 20""",
    },
    "redis": {
        "broker_title": "Redis Streams",
        "broker_url": "redis://localhost:6379/0",
        "compose_url": "redis://broker:6379/0",
        "bus_module": "events.redis",
        "bus": "RedisStreamsBus",
        "compose_broker": """\
    image: redis:7
    command: redis-server --appendonly yes --appendfsync always
    volumes: ["broker:/data"]
    healthcheck: {test: ["CMD", "redis-cli", "ping"], interval: 2s, retries: 30}""",
    },
    "nats": {
        "broker_title": "NATS JetStream",
        "broker_url": "nats://localhost:4222",
        "compose_url": "nats://broker:4222",
        "bus_module": "events.nats",
        "bus": "NATSBus",
        "compose_broker": """\
    image: nats:2-alpine
    command: -js -sd /data -m 8222
    volumes: ["broker:/data"]
    healthcheck:
      test: ["CMD", "wget", "-q", "-O", "-", "http://127.0.0.1:8222/healthz"]
      interval: 2s
      retries: 30""",
    },
}
_BUSES = ["database", *_BROKERS]

_ONLY = {  # files that not every service has, and the flag that they need
    "package/web.py.tpl": "web",
    "tests/test_web.py.tpl": "web",
    "package/__main__.py.tpl": "command",
    "tests/test_command.py.tpl": "command",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `events new`."""
    parser.add_argument(
        "name", help="the name of the service and its folder, such as shop or my-shop"
    )
    parser.add_argument(
        "--bus",
        choices=_BUSES,
        default="database",
        help="the bus that carries events (default: database)",
    )
    parser.add_argument(
        "--web", choices=["fastapi", "none"], default="fastapi", help="default: fastapi"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the service into a new folder, and print the next steps."""
    name: str = arguments.name
    package = name.replace("-", "_")
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid name: use lower-case letters, digits and hyphens"
        )
    if keyword.iskeyword(package) or package in _TAKEN | sys.stdlib_module_names:
        raise UsageError(f"{name!r} is the name of another module: choose another name")
    folder = Path(name)
    if folder.exists():
        raise UsageError(f"{folder} already exists: choose another name, or remove it")
    web = arguments.web == "fastapi"
    flags = {"broker": arguments.bus in _BROKERS, "web": web, "command": not web}
    values = _values(name, package, arguments.bus)
    for path, template in _templates():
        if path not in _ONLY or flags[_ONLY[path]]:
            target = folder / _target(path, package)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(render(template, values, flags), encoding="utf-8")
    _say_what_is_next(name, values, flags)
    return OK


def _values(name: str, package: str, bus: str) -> dict[str, str]:
    broker = _BROKERS.get(bus)
    return {
        "name": name,
        "package": package,
        "version": version("integration-events"),
        "extras": ",".join(["postgresql", "sqlalchemy", *([bus] if broker else [])]),
        "database_names": "connect" if broker else "bus, connect",
        **(broker or {}),
    }


def _templates() -> Iterator[tuple[str, str]]:
    """Return the path of each template and its text."""
    waiting: list[tuple[str, Traversable]] = [("", files("events.cli").joinpath("scaffold"))]
    while waiting:
        at, found = waiting.pop()
        if found.is_dir():
            below = sorted(found.iterdir(), key=lambda each: each.name)
            waiting += [(f"{at}/{each.name}".lstrip("/"), each) for each in below]
        elif at.endswith(".tpl"):
            yield at, found.read_text(encoding="utf-8")


def _target(path: str, package: str) -> PurePosixPath:
    parts = path.removesuffix(".tpl").split("/")
    if parts[0] == "package":
        parts[0] = package
    return PurePosixPath(*(re.sub("^dot_", ".", part) for part in parts))


def render(template: str, values: Mapping[str, str], flags: Mapping[str, bool]) -> str:
    r"""Return the text with its values filled in, and without the lines whose flag is off.

    >>> render("%% if a\nyes {{b}}\n%% else\nno\n%% end\n", {"b": "1"}, {"a": True})
    'yes 1\n'
    """
    lines: list[str] = []
    keep = [True]
    for line in template.splitlines(keepends=True):
        word, *condition = line.removeprefix("%% ").split() if line.startswith("%% ") else [""]
        if word == "if":
            keep.append(flags[condition[-1]] != (condition[0] == "not"))
        elif word == "else":
            keep[-1] = not keep[-1]
        elif word == "end":
            keep.pop()
        elif all(keep):
            lines.append(line)
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], "".join(lines))


def _say_what_is_next(name: str, values: Mapping[str, str], flags: Mapping[str, bool]) -> None:
    package = values["package"]
    steps = [
        f"cd {name}",
        "python -m venv .venv && . .venv/bin/activate",
        'pip install -e ".[dev]"',
        "pytest",
        "alembic upgrade head",
        "events run",
    ]
    if flags["broker"]:
        steps.append("events relay env:DATABASE_URL env:BROKER_URL   # in another terminal")
    steps.append(
        f"uvicorn {package}.web:web   # in another terminal"
        if flags["web"]
        else f"python -m {package} ann@example.com 2   # in another terminal"
    )
    print(f"Wrote {name}. Next steps:\n")
    print("".join(f"    $ {step}\n" for step in steps))
    print("Or start everything, with PostgreSQL: docker compose up --build")
    print(f"See {name}/README.md for the files and commands.")
