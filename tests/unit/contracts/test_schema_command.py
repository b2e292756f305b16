"""`events schema` in a repository, as a developer and CI run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from events.cli import main
from events.integration import EventRegistry, IntegrationEvent

APP = '''
from dataclasses import dataclass

from events.contracts import Service
from events.integration import EventHandlerConsumer, IntegrationEvent, Topic

ORDERS = Topic("orders")


@dataclass
class OrderPlacedV1(IntegrationEvent):
    """An order was placed."""

    type = "order.placed"
    version = 1
    number: int


async def thank(event: OrderPlacedV1) -> None: ...


mails = EventHandlerConsumer("mails", {OrderPlacedV1: [thank]})
service = Service("shop", [mails.subscribe(ORDERS)], sends={ORDERS: [OrderPlacedV1]})
'''
BROKEN = APP.replace("number: int", "number: int\n    note: str")


class Repository:
    """A working directory with a service; each command sees the code as it is then."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, monkeypatch
        (folder / "pyproject.toml").write_text('[tool.events]\napp = "contractual_shop:service"\n')
        self.write(APP)

    def write(self, text: str) -> None:
        (self.folder / "contractual_shop.py").write_text(text)

    def events(self, *arguments: str) -> int:
        return self.main("schema", *arguments)

    def main(self, *arguments: str) -> int:
        sys.modules.pop("contractual_shop", None)
        sys.dont_write_bytecode = True
        self.patch.setattr(IntegrationEvent, "registry", EventRegistry())
        return main([*arguments])

    def git(self, *arguments: str) -> None:
        who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=self.folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return Repository(tmp_path, monkeypatch)


def test_a_lock_is_written_and_holds(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert repository.events("check") == 1
    assert "events.lock.json does not describe the code" in capsys.readouterr().out
    assert repository.events("lock") == 0
    lock = json.loads(Path("events.lock.json").read_text())
    assert lock["events"]["order.placed"]["1"]["source"] == "contractual_shop.py"
    capsys.readouterr()

    assert repository.events("check") == 0
    assert repository.events("diff") == 0
    assert capsys.readouterr().out == (
        "mails on orders: order.placed v1: deploy either side first\n0 errors, 0 warnings\n"
    )


def test_a_breaking_change_is_neither_locked_nor_merged_unseen(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.git("init", "-q")
    repository.events("lock")
    repository.git("add", ".")
    repository.git("commit", "-qm", "first")
    before = Path("events.lock.json").read_text()
    repository.write(BROKEN)
    capsys.readouterr()

    assert repository.events("diff") == 1
    assert "~ order.placed v1 $.note: added, string\n" in capsys.readouterr().out
    assert repository.events("lock") == 1
    assert Path("events.lock.json").read_text() == before
    said = capsys.readouterr().out
    assert "Object missing required field `note`" in said
    assert 'example: {"type": "order.placed", "version": 1, "number": 7}' in said
    assert "cure: restore this version" in said

    # Somebody insists: CI compares with the branch that it is to be merged into.
    assert repository.events("lock", "--accept-breaking") == 0
    assert repository.events("check") == 0
    assert repository.events("check", "--base", "HEAD") == 1
    assert repository.events("check", "--base", "HEAD", "--accept", "order.placed.v1") == 0


def test_what_is_compatible_passes_once_it_is_locked(repository: Repository) -> None:
    repository.events("lock")
    repository.write(APP.replace("number: int", 'number: int\n    note: str = ""'))

    assert repository.events("check") == 1  # the lock must say so, for others to see it
    assert repository.events("lock") == 0
    assert repository.events("check") == 0


@pytest.mark.parametrize("format", ["text", "json", "github", "sarif"])
def test_each_format(
    repository: Repository, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    repository.events("lock")
    repository.write(BROKEN)
    capsys.readouterr()

    assert repository.events("check", "--format", format) == 1

    said = capsys.readouterr().out
    if format == "text":
        assert "2 errors, 0 warnings" in said
    elif format == "github":
        assert said.startswith(
            "::error file=contractual_shop.py,line=10,title=new-cannot-read-old::order.placed v1: mails: "
        )
        assert "%0A" in said.splitlines()[0]
    elif format == "json":
        (verdict,) = json.loads(said)["verdicts"]
        assert (verdict["consumers_first"], verdict["producers_first"]) == (False, False)
    else:
        (run,) = json.loads(said)["runs"]
        place = run["results"][0]["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == "contractual_shop.py"
        assert {each["id"] for each in run["tool"]["driver"]["rules"]} == {
            "lock-out-of-date",
            "new-cannot-read-old",
        }
        jsonschema.validate(json.loads(said)["runs"][0]["results"], {"type": "array"})


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["check", "--base", "HEAD"], "--base HEAD: "),
        (["check", "--against", "theirs.json"], "--against theirs.json: the file does not exist"),
        (["check", "--app", "contractual_shop:ORDERS"], "gives no events.contracts.Service"),
    ],
)
def test_wrong_arguments_exit_with_2(
    repository: Repository,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    reason: str,
) -> None:
    with pytest.raises(SystemExit) as ended:
        repository.events(*arguments)

    assert ended.value.code == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_a_lock_with_a_conflict_fails_in_one_line(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("events.lock.json").write_text("<<<<<<< HEAD\n")

    assert repository.events("check") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("events: events.lock.json is not JSON")


def test_the_document_of_the_service(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert repository.main("asyncapi", "--server", "amqp://guest:secret@broker/shop") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["servers"]["amqp"]["description"] == "amqp://guest:***@broker/shop"

    for name in ("asyncapi.yaml", "asyncapi.json"):
        assert repository.main("asyncapi", "-o", name) == 0
        assert repository.events("lock") == 0
        assert repository.events("check", "--against", name) == 0
        said = capsys.readouterr().out
        assert "shop: mails on orders: order.placed v1: deploy either side first" in said
