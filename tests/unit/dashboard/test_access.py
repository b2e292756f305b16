"""Who gets in, and who may change something: each door, tried by hand."""

from __future__ import annotations

import inspect
import logging
from typing import Any, cast

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route

from events.dashboard import Access, dashboard
from events.dashboard.security import Guard
from events.memory import MemoryBus
from tests.unit.dashboard.conftest import ORIGIN, ROOT, Client, Open

ALL = {"consumer": "dashboard.mails"}
# Every route there is, so that one that is added is tried as well.
ROUTES = [
    each
    for each in dashboard(MemoryBus(), authorize=lambda _: None).routes
    if isinstance(each, Route)
]
WRITES = [each.path for each in ROUTES if "POST" in (each.methods or ())]
READS = [each.path for each in ROUTES if "GET" in (each.methods or ())]


def path_of(route: str) -> str:
    return (
        route.lstrip("/")
        .replace("{id}", "x")
        .replace("{name}", "style.css")
        .replace("{rest:path}", "x/y")
    )


def test_it_does_not_start_without_authorize() -> None:
    with pytest.raises(TypeError, match="authorize"):
        cast("Any", dashboard)(MemoryBus())
    with pytest.raises(TypeError, match=r"dashboard needs authorize, .* not None: return None"):
        dashboard(MemoryBus(), authorize=cast("Any", None))
    assert inspect.signature(dashboard).parameters["authorize"].default is inspect.Parameter.empty


def test_what_is_no_bus_and_no_relay_is_named() -> None:
    with pytest.raises(TypeError, match="dashboard needs a bus first"):
        dashboard(cast("Any", "amqp://"), authorize=lambda _: None)
    with pytest.raises(TypeError, match="relay must be an OutboxRelay"):
        dashboard(MemoryBus(), relay=cast("Any", "x"), authorize=lambda _: None)


@pytest.mark.parametrize("route", READS)
async def test_nobody_sees_anything(client: Client, route: str) -> None:
    response = await client.get(path_of(route), who="nobody")

    assert response.status_code == 403
    assert response.headers["content-type"].startswith("text/plain")
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize("route", WRITES)
@pytest.mark.parametrize("who", ["nobody", "reader"])
async def test_who_may_not_operate_cannot_by_a_request_made_by_hand(
    client: Client, route: str, who: str
) -> None:
    await client.fail(1)
    token = await client.token("anna")

    response = await client.post(path_of(route), ALL | {"token": token}, who=who)

    assert response.status_code == 403
    assert await client.dead() == 1


@pytest.mark.parametrize("route", WRITES)
async def test_a_reader_cannot_even_with_a_token_of_their_own(open_page: Open, route: str) -> None:
    async with open_page(secret="known") as client:
        await client.fail(1)
        await client.get("", who="reader")  # for the cookie
        reader = Access("read", "somebody at 127.0.0.1")
        token = Guard("known", ()).token(client.http.cookies["events"], reader)

        response = await client.post(path_of(route), ALL | {"token": token}, who="reader")

        assert response.status_code == 403
        assert "this needs the role 'operate'" in response.text
        assert await client.dead() == 1


@pytest.mark.parametrize("route", WRITES)
@pytest.mark.parametrize("token", ["", "0" * 64, "é", "of berta"])
async def test_nothing_is_written_without_the_visitors_own_token(
    client: Client, route: str, token: str
) -> None:
    await client.fail(1)
    await client.get("")  # for the cookie
    given = await client.token("berta") if token == "of berta" else token

    response = await client.post(path_of(route), ALL | {"token": given})

    assert response.status_code == 403
    assert "Nothing was done: it has no valid token" in response.text
    assert await client.dead() == 1


@pytest.mark.parametrize("route", WRITES)
async def test_a_token_is_of_no_use_in_another_browser(client: Client, route: str) -> None:
    await client.fail(1)
    token = await client.token()
    for cookie in ("", "a" * 64):
        client.http.cookies.clear()
        if cookie:
            client.http.cookies.set("events", cookie)
        response = await client.post(path_of(route), ALL | {"token": token})
        assert response.status_code == 403
    assert await client.dead() == 1


@pytest.mark.parametrize(
    ("origin", "site"),
    [
        ("", ""),
        ("null", ""),
        ("http://evil.example", ""),
        ("http://shop.example.evil.example", ""),
        ("http://shop.example:81", ""),
        ("http://[", ""),
        ("http://shop.example]", ""),
        (ORIGIN, "cross-site"),
        (ORIGIN, "same-site"),
        (ORIGIN, "none"),
    ],
)
async def test_nothing_is_written_for_another_site(client: Client, origin: str, site: str) -> None:
    await client.fail(1)
    fields = ALL | {"token": await client.token()}

    response = await client.post("dead/discard", fields, origin=origin, sec_fetch_site=site)

    assert response.status_code == 403
    assert await client.dead() == 1


async def test_a_malformed_host_is_no_fault_of_the_page(client: Client) -> None:
    given = {"x-visitor": "anna", "host": "["}
    assert (await client.http.get(f"{ROOT}dead", headers=given)).status_code == 200


async def test_an_origin_can_be_named_for_a_proxy(open_page: Open) -> None:
    async with open_page(origins=["https://public.example/"]) as client:
        await client.fail(1)
        fields = ALL | {"token": await client.token()}
        response = await client.post("dead/discard", fields, origin="https://public.example")
        assert response.status_code == 303
        await client.job(response.headers["location"])
        assert await client.dead() == 0


async def test_processes_with_one_secret_take_the_tokens_of_one_another(open_page: Open) -> None:
    async with open_page(secret="of all") as one, open_page(secret="of all") as other:
        await one.fail(1)
        await other.fail(1)
        token = await one.token()
        other.http.cookies = one.http.cookies
        response = await other.post("dead/discard", ALL | {"token": token})
        assert response.status_code == 303


@pytest.mark.parametrize("answer", ["admin", "", True, 1, Access(cast("Any", "root"))])
async def test_any_other_answer_opens_no_door(open_page: Open, answer: object) -> None:
    async with open_page(authorize=lambda _: answer) as client:
        with pytest.raises(TypeError, match="authorize of the dashboard returned"):
            await client.get("")


async def test_authorize_may_lead_to_a_login(open_page: Open) -> None:
    def authorize(_: Request) -> None:
        raise HTTPException(303, headers={"location": "/login"})

    async with open_page(authorize=authorize) as client:
        response = await client.get("")
        assert (response.status_code, response.headers["location"]) == (303, "/login")


@pytest.mark.parametrize("route", READS)
async def test_each_answer_forbids_what_is_not_its_own(client: Client, route: str) -> None:
    for who in ("anna", "nobody"):
        response = await client.get(path_of(route), who=who)
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["referrer-policy"] == "same-origin"


async def test_the_cookie_is_for_requests_of_this_page_alone(client: Client) -> None:
    given = (await client.get("")).headers["set-cookie"]
    assert "HttpOnly" in given
    assert "SameSite=strict" in given
    assert "set-cookie" not in (await client.get("")).headers

    client.http.base_url = "https://shop.example"
    given = (await client.get("")).headers["set-cookie"]
    assert given.startswith("__Host-events=")
    assert "Secure" in given


async def test_a_form_that_is_too_large_is_refused(client: Client) -> None:
    await client.fail(1)
    response = await client.post("dead/discard", ALL | {"token": "x" * 300_000})
    assert response.status_code == 400
    assert await client.dead() == 1


async def test_who_did_it_is_recorded(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="events.operations")
    await client.fail(2)
    response = await client.post("dead/discard", ALL | {"token": await client.token()})
    assert (await client.job(response.headers["location"]))["done"] == 2

    assert "anna: discard of dead letters of dashboard.mails (all), 2 done, finished" in caplog.text
    page = (await client.get("audit", who="reader")).text
    assert "anna" in page
    assert "2 done" in page
