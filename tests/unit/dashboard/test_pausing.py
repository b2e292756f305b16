"""Consumers are paused and resumed on the page, by whom it may and with a record of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from events.operations import AuditFile, Consumers
from events.operations.audit import record
from tests.unit.dashboard.conftest import Client, Open

NAME = "dashboard.mails"
ASK = f"consumers/chosen?action={{}}&consumer={NAME}"


async def test_a_pause_is_asked_for_done_shown_and_ended(client: Client) -> None:
    assert f"consumers/chosen?action=pause&amp;consumer={NAME}" in (await client.get("")).text
    asked = await client.get(f"consumers/chosen?action=pause&consumer={NAME}")
    assert "No process begins a handler of it until it is resumed" in asked.text
    assert await client.bus.paused() == frozenset()
    fields = {"token": await client.token(path=ASK.format("pause")), "consumer": NAME}
    assert (await client.post("consumers/pause", fields)).status_code == 303
    assert await client.bus.paused() == {NAME}
    page = (await client.get("", who="reader")).text
    assert "Paused in all processes by <bdi>anna</bdi>" in page
    assert "consumers/chosen" not in page  # a reader has no button
    asked = await client.get(f"consumers/chosen?action=pause&consumer={NAME}")
    assert "It is paused already" in asked.text
    fields = {"token": await client.token("berta", ASK.format("resume")), "consumer": NAME}
    assert (await client.post("consumers/resume", fields, who="berta")).status_code == 303
    assert await client.bus.paused() == frozenset()
    audit = (await client.get("audit")).text
    assert "<bdi>berta</bdi></strong>: resume of consumer dashboard.mails" in audit
    assert "<bdi>anna</bdi></strong>: pause of consumer dashboard.mails" in audit


@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_nothing_is_paused_without_role_token_or_name(client: Client, verb: str) -> None:
    path = f"consumers/{verb}"
    if verb == "resume":
        await client.bus.pause(NAME)
    before = await client.bus.paused()
    token = await client.token(path=ASK.format(verb))
    assert (await client.post(path, {"consumer": NAME})).status_code == 403
    assert (await client.post(path, {"consumer": NAME, "token": token}, who="berta")).is_error
    refused = await client.post(path, {"consumer": NAME, "token": token}, who="reader")
    assert refused.status_code == 403
    unknown = await client.post(path, {"consumer": "mials", "token": token})
    assert (unknown.status_code, "this bus has no consumer" in unknown.text) == (400, True)
    assert (await client.get(f"consumers/chosen?action=stop&consumer={NAME}")).status_code == 400
    assert await client.bus.paused() == before


async def test_a_pause_by_somebody_elsewhere_is_shown_as_far_as_it_is_known(
    open_page: Open, tmp_path: Path
) -> None:
    audit = AuditFile(tmp_path / "audit.jsonl")
    async with open_page() as alone, open_page(audit=audit) as shared:
        for client, given in ((alone, None), (shared, audit)):
            consumers = Consumers(client.bus, actor="carla@console", audit=given)
            await consumers.pause_everywhere(NAME)
        assert "the log of another process says by whom" in (await alone.get("")).text
        assert "Paused in all processes by <bdi>carla@console</bdi>" in (await shared.get("")).text
        assert "carla@console" not in (await alone.get("audit")).text
        assert "only in their logs" in (await alone.get("audit")).text
        assert "carla@console" in (await shared.get("audit")).text


def test_an_audit_file_gives_its_last_records_and_skips_what_is_none(tmp_path: Path) -> None:
    audit = AuditFile(tmp_path / "audit.jsonl")
    assert audit.records() == []
    for number in range(50):
        record(
            audit,
            actor="anna",
            action="discard",
            target="dead letters of mails",
            selection="x" * 1_000,
            count=number,
            outcome="finished",
        )
        with audit.path.open("ab") as file:
            file.write(b'not a record\n\xff\n{"actor": "\xff"}\n')
    assert [each.count for each in audit.records(1_000)] == list(range(50))
    last = audit.records(10)  # of lines that are longer than usual, fewer
    assert [each.count for each in last] == list(range(50))[-len(last) :]
    assert 0 < len(last) <= 10
