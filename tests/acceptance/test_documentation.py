"""What the documentation shows besides Python: YAML, the contracts, and what it says of both."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import URL, Connection, MetaData, inspect
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import create_async_engine

from events.cli import main
from events.integration import EventRegistry, IntegrationEvent, Topic
from events.integration.implementation.memory import InMemoryIntegrationEventBus
from events.integration.implementation.sqlalchemy import PARTITIONS, SQLAlchemyOutbox, outbox_table
from tests.databases.database import new_database

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def fences(page: Path, kind: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def yaml_in(page: Path) -> list[Any]:
    return [document for text in fences(page, "yaml") for document in yaml.safe_load_all(text)]


def test_yaml_can_be_read() -> None:
    documents = [document for page in PAGES for document in yaml_in(page)]
    assert len(documents) >= 3
    assert all(isinstance(document, dict) for document in documents)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_commands_can_be_parsed(page: Path) -> None:
    for text in fences(page, "console"):
        for command in re.findall(r"^\$ (.*)$", text, re.MULTILINE):
            done = subprocess.run(
                ["bash", "-n", "-c", command], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{command}\n{done.stderr}"


def deployments() -> dict[str, Any]:
    found = yaml_in(DOCS / "how-to" / "kubernetes.md")
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in found
        if each.get("kind") == "Deployment"
    }


def test_pods_are_given_longer_than_a_shutdown_takes() -> None:
    bus = InMemoryIntegrationEventBus()
    needed = bus._shutdown_grace + bus._sender._timeout
    assert deployments()["worker"]["terminationGracePeriodSeconds"] > needed


def test_probes_ask_for_what_the_worker_answers() -> None:
    (container,) = deployments()["worker"]["containers"]
    asked = {
        container[f"{probe}Probe"]["httpGet"]["path"]
        for probe in ("startup", "readiness", "liveness")
    }
    answered = re.findall(r'@app\.get\("(.*?)"\)', (DOCS / "how-to" / "kubernetes.md").read_text())
    assert asked == set(answered)


def test_the_documented_transport_passes_the_contracts(tmp_path: Path) -> None:
    page = (DOCS / "how-to" / "write-a-bus.md").read_text(encoding="utf-8")
    on_a_transport, _, _ = page.partition("## On the bare port")
    code = re.findall(r"^```python\n(.*?)^```$", on_a_transport, re.MULTILINE | re.DOTALL)
    (tmp_path / "test_loudspeaker.py").write_text("\n".join(code))
    (tmp_path / "conftest.py").write_text(
        "from events.testing.contracts import Harness\n"
        "Harness.timeout, Harness.deadline = 120.0, 240.0  # for a busy machine\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "test_loudspeaker.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) >= 15, done.stdout


# --- the service that `events new` writes ---------------------------------------------------------


def test_the_pages_show_the_service_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "shop"]) == 0
    assert fences(DOCS / "how-to" / "docker.md", "dockerfile") == [
        (tmp_path / "shop" / "Dockerfile").read_text(encoding="utf-8")
    ]
    page = (DOCS / "how-to" / "new-service.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `(shop/[\w/]+\.py)` \|", page, re.MULTILINE)
    assert len(named) >= 6
    assert [name for name in named if not (tmp_path / "shop" / name).is_file()] == []


# --- links outside of the site --------------------------------------------------------------------

OUTSIDE = [*ROOT.glob("*.md"), *sorted(ROOT.glob("examples/**/*.md"))]


@pytest.mark.parametrize("page", OUTSIDE, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\((?!\w+:)([^)#]+)", text)
    gone = [link for link in links if not (page.parent / link).exists()]
    assert not gone, f"{page.name} links to {gone}"


# --- the outbox's revision ------------------------------------------------------------------------


@dataclass(frozen=True)
class InvoicePaidV1(IntegrationEvent):
    type = "invoice.paid"
    version = 1
    registry = EventRegistry()
    invoice: str


DRIVERS = ["sqlite+aiosqlite", "postgresql+asyncpg", "mariadb+asyncmy"]


@pytest.fixture(params=DRIVERS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[URL]:
    driver: str = request.param
    if driver.startswith("sqlite"):
        yield URL.create(driver, database=str(tmp_path / "a.db"))
        return
    with new_database(driver.partition("+")[0]) as new:
        yield new.url(driver)


async def test_the_documented_revision_makes_the_tables(database: URL) -> None:
    metadata = MetaData()
    outbox_table(metadata)
    (revision,) = [
        code for code in fences(DOCS / "how-to" / "outbox.md", "python") if "def upgrade" in code
    ]

    def migrate(connection: Connection) -> tuple[list[Any], list[str]]:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        namespace: dict[str, Any] = {}
        exec(revision, namespace)
        with Operations.context(context):
            namespace["upgrade"]()
            differences = compare_metadata(context, metadata)
            namespace["downgrade"]()
        return differences, inspect(connection).get_table_names()

    engine = create_async_engine(database)
    async with engine.begin() as connection:
        differences, left = await connection.run_sync(migrate)
    await engine.dispose()
    assert differences == []
    assert left == []


async def test_bodies_are_read_by_the_documented_sql(database: URL) -> None:
    page = (DOCS / "reference" / "outbox-table.md").read_text(encoding="utf-8")
    of_dialect = {"postgresql": "PostgreSQL", "mariadb": "MariaDB and MySQL", "sqlite": "SQLite"}
    (dialect,) = (name for name in of_dialect if database.drivername.startswith(name))
    found = re.search(rf"`([^`]+)` on\s{of_dialect[dialect]}", page)
    assert found
    metadata = MetaData()
    table = outbox_table(metadata)
    event = InvoicePaidV1("größe")
    engine = create_async_engine(database)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await SQLAlchemyOutbox(connection).put(Topic("invoices"), event)
        (body,) = (await connection.execute(sql(f"select {found[1]} from {table.name}"))).one()
    await engine.dispose()
    assert (body if isinstance(body, dict) else json.loads(body)) == event.to_dict()


def test_the_number_of_partitions_is_what_the_page_says() -> None:
    page = (DOCS / "explanation" / "outbox.md").read_text(encoding="utf-8")
    assert f"one of {PARTITIONS} **partitions**" in page
