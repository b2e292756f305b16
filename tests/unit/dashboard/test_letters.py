"""Dead letters on the page: found, shown without secrets, sent back."""

from __future__ import annotations

import re

import pytest

from events.testing import eventually
from tests.unit.dashboard.conftest import Client

MAILS = "dashboard.mails"


async def group_of(client: Client, who: str = "anna") -> str:
    page = await client.get("dead", who=who)
    found = re.search(r"dead/letters\?consumer=dashboard.mails&amp;group=(\w+)", page.text)
    assert found, page.text
    return found[1]


async def test_failures_of_one_cause_are_one_group(client: Client) -> None:
    await client.fail(30)
    page = (await client.get("dead", who="reader")).text

    assert page.count('<li class="card">') == 1
    assert "<strong>30</strong>" in page
    assert "ConnectionError: no mail to *** at attempt # of #" in page
    assert "Redrive" not in page.partition("<ul")[2]  # which a reader cannot


async def test_a_list_has_pages_in_order(client: Client) -> None:
    await client.fail(70)
    seen: list[str] = []
    path = f"dead/letters?consumer={MAILS}&group={await group_of(client)}"
    for _ in range(2):
        page = (await client.get(path)).text
        seen += re.findall(r"at attempt 1 of (\d+)</code>", page)
        following = re.search(r'href="\.\./(dead/letters\?[^"]*)">Next page', page)
        if following:
            path = following[1].replace("&amp;", "&")
    assert seen == [str(number) for number in range(70)]


@pytest.mark.parametrize(("who", "key_is_shown"), [("anna", False), ("privy", True)])
async def test_a_list_tells_letters_of_one_error_apart(
    client: Client, who: str, key_is_shown: bool
) -> None:
    await client.fail(1, key="ada@example.com")
    (letter,) = await client.bus.dead_letters(MAILS)

    page = (await client.get(f"dead/letters?consumer={MAILS}", who=who)).text

    known_by = "ada@example.com" if key_is_shown else letter.message.id
    assert f"<code>{known_by}</code>" in page


async def test_the_form_of_a_redrive_shows_the_error_of_what_is_chosen(client: Client) -> None:
    await client.fail(2)
    page = await client.get(
        f"dead/chosen?action=redrive&consumer={MAILS}&group={await group_of(client)}"
    )
    assert "<code>ConnectionError: no mail to *** at attempt 1 of 0</code>" in page.text


@pytest.mark.parametrize(("who", "shown"), [("reader", False), ("anna", False), ("privy", True)])
async def test_personal_values_are_for_those_who_may_see_them(
    client: Client, who: str, shown: bool
) -> None:
    await client.fail(1, key="ada@example.com")
    (letter,) = await client.bus.dead_letters(MAILS)

    pages = [
        await client.get(f"dead/letter?consumer={MAILS}&id={letter.id}", who=who),
        await client.get(f"dead/letters?consumer={MAILS}", who=who),
        await client.get("dead", who=who),
    ]

    assert all(page.status_code == 200 for page in pages)
    assert ("ada@example.com" in "".join(page.text for page in pages)) is shown
    assert "&#34;number&#34;: 0" in pages[0].text


@pytest.mark.parametrize(("who", "found"), [("reader", 0), ("anna", 0), ("privy", 1)])
async def test_a_search_finds_no_more_than_it_shows(client: Client, who: str, found: int) -> None:
    await client.fail(1)
    page = await client.get(f"dead/letters?consumer={MAILS}&text=ADA@example", who=who)
    assert page.text.count("<li>") == found
    page = await client.get(f"dead/letters?consumer={MAILS}&text=NO MAIL to", who=who)
    assert page.text.count("<li>") == 1
    page = await client.get(
        f"dead/chosen?action=redrive&consumer={MAILS}&text=ada@example", who=who
    )
    assert f"Redrive {found} dead letter" in page.text


async def test_what_no_class_describes_is_hidden(client: Client) -> None:
    await client.fail(1)
    await client.bus.unregister(client.bus.registrations[0])
    (letter,) = await client.bus.dead_letters(MAILS)
    path = f"dead/letter?consumer={MAILS}&id={letter.id}"
    assert "Hidden: it is not known" in (await client.get(path)).text
    assert "ada@example.com" not in (await client.get(path)).text
    assert "ada@example.com" in (await client.get(path, who="privy")).text


async def test_a_group_goes_back_behind_a_canary(client: Client) -> None:
    await client.fail(25)
    client.consumer.broken = False
    fields = {"consumer": MAILS, "group": await group_of(client), "token": await client.token()}
    fields |= {"canary": "yes", "canary_wait": "20", "batch": "10"}

    response = await client.post("dead/redrive", fields)

    assert response.status_code == 303
    data = await client.job(response.headers["location"])
    counts = {"total": 25, "done": 25, "gone": 0}
    assert data == {"state": "finished", **counts, "canary": "handled", "connected": True}
    await eventually(lambda: sorted(client.consumer.handled) == list(range(25)))
    assert await client.dead() == 0


async def test_a_canary_that_dies_again_keeps_the_others(client: Client) -> None:
    await client.fail(25)
    fields = {"consumer": MAILS, "canary": "yes", "token": await client.token()}

    response = await client.post("dead/redrive", fields)

    location = response.headers["location"]
    assert (await client.job(location))["state"] == "failed"
    page = (await client.get("jobs/" + location.rpartition("/")[2])).text
    assert "The first one failed again, so the others were not redriven" in page
    assert "ada@example.com" not in page
    assert await client.dead() == 25


async def test_a_job_is_stopped_and_what_it_had_not_reached_is_kept(client: Client) -> None:
    await client.fail(40)
    client.consumer.broken = False
    token = await client.token()
    fields = {"consumer": MAILS, "token": token, "batch": "10", "rate": "0.1"}

    location = (await client.post("dead/redrive", fields)).headers["location"]
    id_ = location.rpartition("/")[2]
    second = await client.post("dead/redrive", fields)
    assert second.status_code == 409
    stopped = await client.post(f"jobs/{id_}/stop", {"token": token})

    assert stopped.status_code == 303
    data = (await client.get(f"jobs/{id_}/data")).json()
    assert data["state"] == "stopped"
    assert data["done"] + await client.dead() == 40


async def test_a_job_shows_that_it_waits_for_the_broker(client: Client) -> None:
    await client.fail(20)
    client.consumer.broken = False
    token = await client.token()
    fields = {"consumer": MAILS, "token": token, "batch": "10", "rate": "0.1"}
    location = (await client.post("dead/redrive", fields)).headers["location"]
    id_ = location.rpartition("/")[2]
    waiting = "Waiting for the broker: the bus is not connected"
    assert waiting not in (await client.get(f"jobs/{id_}")).text

    await client.bus.shutdown()

    assert (await client.get(f"jobs/{id_}/data")).json()["connected"] is False
    assert waiting in (await client.get(f"jobs/{id_}")).text
    await client.post(f"jobs/{id_}/stop", {"token": token})


async def test_ticked_ones_alone_are_discarded(client: Client) -> None:
    await client.fail(5)
    letters = await client.bus.dead_letters(MAILS)
    token = await client.token()
    page = await client.get(
        f"dead/chosen?action=discard&consumer={MAILS}&id={letters[1].id}&id={letters[3].id}"
    )
    assert "Discard 2 dead letters" in page.text
    fields = {"consumer": MAILS, "id": letters[1].id, "token": token}

    response = await client.post("dead/discard", fields)

    assert (await client.job(response.headers["location"]))["done"] == 1
    left = [each.id for each in await client.bus.dead_letters(MAILS)]
    assert left == [each.id for each in letters if each is not letters[1]]


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        (f"dead/letter?consumer={MAILS}&id=none", 404, "Not there any more"),
        ("dead/letter?id=1", 400, "the field consumer is missing"),
        ("dead/letters?since=yesterday", 400, "since must be a time"),
        (f"dead/chosen?action=eat&consumer={MAILS}", 400, "action must be redrive or discard"),
        ("dead/letters?since=0001-01-01T00:00%2B14:00", 400, "since must be a time"),
        (f"dead/letters?consumer={MAILS}&after=none", 400, "after must be the id of a dead letter"),
        (f"dead/letters?consumer={MAILS}&after={'9' * 20}", 400, "after must be the id of a dead"),
        (f"dead/letters?consumer={MAILS}&after={'9' * 5000}", 400, "after must be the id of a"),
        (f"dead/letters?consumer={'x' * 300}", 400, "its name is longer than"),
        ("dead/letters?after=1", 400, "the field consumer is missing"),
        ("story?id=a%00b", 400, "id has a NUL character"),
        ("jobs/none", 404, "No such job"),
        ("outbox", 404, "No outbox"),
        ("no/such/page", 404, "No such page"),
        ("static/app.py", 404, "No such page"),
    ],
)
async def test_what_is_not_there_says_so(client: Client, path: str, status: int, text: str) -> None:
    response = await client.get(path)
    assert response.status_code == status
    assert text in response.text


async def test_a_bus_that_is_down_is_a_sentence(client: Client) -> None:
    await client.bus.shutdown()
    response = await client.get("dead")
    assert response.status_code == 503
    assert "Out of reach" in response.text
    overview = await client.get("")
    assert overview.status_code == 200
    assert "The bus is not started" in overview.text


@pytest.mark.parametrize("field", ["batch=0", "batch=x", "rate=-1", "rate=nan", "canary_wait=1e9"])
async def test_amounts_that_make_no_sense_are_refused(client: Client, field: str) -> None:
    await client.fail(1)
    name, _, value = field.partition("=")
    fields = {"consumer": MAILS, "canary": "yes", "token": await client.token(), name: value}
    response = await client.post("dead/redrive", fields)
    assert response.status_code == 400
    assert f"{name} must be a number" in response.text
    assert await client.dead() == 1
