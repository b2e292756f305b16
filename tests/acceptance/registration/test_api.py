"""The HTTP service against its real database, without a broker: it needs none."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from examples.user_registration import user_service
from examples.user_registration.chassis.database import open_database
from examples.user_registration.chassis.migrations import upgrade
from examples.user_registration.user_service.container import create_container
from examples.user_registration.user_service.presentation.app import create_app
from examples.user_registration.user_service.settings import UserServiceSettings
from tests.acceptance.registration.scenario import Databases

PASSWORD = "correct horse battery staple"


def settings(url: str) -> UserServiceSettings:
    return UserServiceSettings(database_url=url, argon2_time_cost=1, argon2_memory_kib=64)


async def client(url: str) -> AsyncGenerator[httpx.AsyncClient]:
    app = create_app(create_container(settings(url)))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://test"
        ) as http,
    ):
        yield http


@pytest.fixture
async def http(databases: Databases) -> AsyncGenerator[httpx.AsyncClient]:
    await upgrade(user_service.ALEMBIC, databases.users)
    async for each in client(databases.users):
        yield each


@pytest.fixture
async def engine(databases: Databases) -> AsyncGenerator[AsyncEngine]:
    async with open_database(databases.users) as engine:
        yield engine


async def rows(engine: AsyncEngine, query: str) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.execute(text(query))).scalars())


def person(email: str = "ada@example.com") -> dict[str, str]:
    return {"email": email, "password": PASSWORD}


async def test_who_registers_is_stored_with_the_event_and_without_the_password(
    http: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    answer = await http.post("/users", json=person("Ada@Example.com"))

    assert answer.status_code == 201
    assert answer.json().keys() == {"id", "email"}
    assert answer.json()["email"] == "ada@example.com"
    (hashed,) = await rows(engine, "SELECT password_hash FROM users")
    assert hashed.startswith("$argon2id$")
    (body,) = await rows(engine, "SELECT body FROM outbox")
    event = json.loads(bytes(body))
    assert event["user_id"] == answer.json()["id"]
    assert event.keys() == {"type", "version", "user_id", "email", "registered_at"}


async def test_a_taken_address_is_a_conflict_in_whatever_case_it_is_written(
    http: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    await http.post("/users", json=person())

    answer = await http.post("/users", json=person("ADA@example.com"))

    assert answer.status_code == 409
    assert answer.json() == {"detail": "ada@example.com is registered already"}
    assert await rows(engine, "SELECT count(*) FROM outbox") == [1]


async def test_of_many_at_once_for_one_address_one_gets_it(
    http: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    answers = await asyncio.gather(*(http.post("/users", json=person()) for _ in range(12)))

    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 11}
    assert await rows(engine, "SELECT count(*) FROM users") == [1]
    assert await rows(engine, "SELECT count(*) FROM outbox") == [1]


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        (person("nonsense"), "email", "'nonsense' is not an email address"),
        (person("a@b\nBcc: c@d.ef"), "email", "is not an email address"),
        ({"email": 3, "password": PASSWORD}, "email", "valid string"),
        ({"password": PASSWORD}, "email", "Field required"),
        ({"email": "ada@example.com"}, "password", "Field required"),
        ({"email": "ada@example.com", "password": "short"}, "password", "at least 8"),
        ({"email": "ada@example.com", "password": "x" * 201}, "password", "at most 200"),
        ([], "body", "valid dictionary"),
    ],
)
async def test_nonsense_is_named_and_no_password_is_said_back(
    http: httpx.AsyncClient, engine: AsyncEngine, body: Any, field: str, reason: str
) -> None:
    answer = await http.post("/users", json=body)

    assert answer.status_code == 422
    (detail,) = answer.json()["detail"]
    assert detail["loc"][-1] == field
    assert reason in detail["msg"]
    assert detail.keys() == {"loc", "msg"}
    assert PASSWORD not in answer.text
    assert await rows(engine, "SELECT count(*) FROM users") == [0]


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
async def test_what_is_no_json_is_refused(http: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/json"}
    assert (await http.post("/users", content=b"{", headers=headers)).status_code == 422


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("given", "taken"),
    [("shop-7.a_b", True), ("", False), ("two words", False), ("x" * 65, False), ("é", False)],
)
async def test_the_id_of_a_request_is_in_the_answer_the_log_and_the_event(
    http: httpx.AsyncClient,
    engine: AsyncEngine,
    caplog: pytest.LogCaptureFixture,
    given: str,
    taken: bool,
) -> None:
    headers = {b"X-Correlation-ID": given.encode()}

    answer = await http.post("/users", json=person(), headers=headers)

    correlation_id = answer.headers["X-Correlation-ID"]
    assert (correlation_id == given) == taken
    (stored,) = await rows(engine, "SELECT headers FROM outbox")
    assert json.loads(stored)["ce-correlationid"] == correlation_id


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
async def test_it_lives_and_is_ready(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.user_registration.chassis.http._CHECK", 60.0)
    live, ready = await http.get("/livez"), await http.get("/readyz")

    assert (live.status_code, live.text) == (200, "ok")
    assert (ready.status_code, ready.json()) == (200, {"database": "ok"})


async def test_it_lives_but_is_not_ready_without_its_tables(
    databases: Databases, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.user_registration.chassis.http._CHECK", 60.0)
    caplog.set_level(logging.CRITICAL)
    async for http in client(databases.users):
        live, ready = await http.get("/livez"), await http.get("/readyz")

        assert live.status_code == 200
        assert ready.status_code == 503
        assert "users" in ready.json()["database"]
