"""What is found at a NATS server and cannot serve, answered by hand: each difference is named."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from nats.errors import ConnectionClosedError

from events.errors import BusUnavailableError, InvalidTopologyError
from events.integration.implementation.nats._api import Api, ApiError
from events.integration.implementation.nats._driver import Incoming
from events.integration.implementation.nats._limits import PullLimits
from events.integration.implementation.nats._topology import (
    ConsumerSpec,
    NotTakenError,
    StreamSpec,
    consumer_exists,
    ensure_consumer,
    ensure_stream,
    seconds,
)

STREAM = StreamSpec(name="orders", subject="orders.>", deletes=True)
CONSUMER = ConsumerSpec(
    stream="orders", name="billing", ack_wait=30, filters=("orders.paid", "orders.refunded")
)


class Server:
    """Answers each request with what the test has for its path, once for each, in order."""

    def __init__(self, **answers: list[dict[str, Any] | ApiError]) -> None:
        self._answers = answers
        self.asked: list[tuple[str, Any]] = []

    async def request(self, path: str, payload: Any, answer: type[Any]) -> Any:
        self.asked.append((path, payload))
        found = self._answers["_".join(path.split(".")[:2])].pop(0)
        if isinstance(found, ApiError):
            raise found
        return msgspec.convert(found, answer)


def api(server: Server) -> Api:
    return cast("Api", server)


def stream(**changes: Any) -> dict[str, Any]:
    config = {"name": "orders", "subjects": ["orders.>"], "storage": "file", "retention": "limits"}
    return {"config": config | changes}


MISSING = ApiError(404, 10059, "not found")


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        (
            {"subjects": ["orders.paid"]},
            r"its subjects are \['orders.paid'\], and do not include 'orders.>'",
        ),
        ({"subjects": []}, "its subjects are"),
        ({"storage": "memory"}, "its storage is 'memory': only 'file' survives a restart"),
        ({"retention": "workqueue"}, "which allows only one consumer"),
        ({"no_ack": True}, r"it acknowledges nothing \(no_ack\)"),
        ({"sealed": True}, "it accepts no messages, because it is sealed or a mirror"),
        ({"mirror": {"name": "other"}}, "it accepts no messages, because it is sealed or a mirror"),
        ({"deny_delete": True}, "messages cannot be removed from it"),
        ({"max_msgs_per_subject": 5}, "it keeps 5 messages of a subject and drops others"),
    ],
)
async def test_a_stream_that_cannot_serve_is_refused_with_the_difference(
    changes: dict[str, Any], difference: str
) -> None:
    with pytest.raises(InvalidTopologyError, match=difference):
        await ensure_stream(api(Server(STREAM_INFO=[stream(**changes)])), STREAM)


@pytest.mark.parametrize("subjects", [["orders.>"], [">"], ["*.>"], ["others", "orders.>"]])
async def test_a_stream_whose_subjects_cover_ours_serves(subjects: list[str]) -> None:
    await ensure_stream(api(Server(STREAM_INFO=[stream(subjects=subjects)])), STREAM)


async def test_a_stream_that_somebody_else_made_first_is_looked_at() -> None:
    in_use = ApiError(400, 10058, "stream name already in use")
    server = Server(STREAM_INFO=[MISSING, stream()], STREAM_CREATE=[in_use])
    await ensure_stream(api(server), STREAM)
    assert [path for path, _ in server.asked] == [
        "STREAM.INFO.orders", "STREAM.CREATE.orders", "STREAM.INFO.orders",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"STREAM_INFO": [ApiError(400, 10052, "max replicas")]}, "max replicas"),
        (
            {"STREAM_INFO": [MISSING], "STREAM_CREATE": [ApiError(400, 10065, "overlap")]},
            "another stream has these subjects: rename it to this name, or remove it",
        ),
    ],
)
async def test_what_the_server_refuses_is_reported(answers: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidTopologyError, match=reason):
        await ensure_stream(api(Server(**answers)), STREAM)


QUORUM = ApiError(503, 10008, "JetStream system temporarily unavailable")


@pytest.mark.parametrize(
    ("answers", "full"),
    [
        ({"STREAM_INFO": [QUORUM]}, False),
        ({"STREAM_INFO": [ApiError(503, 10039, "not enabled for account")]}, False),
        ({"STREAM_INFO": [MISSING], "STREAM_CREATE": [ApiError(400, 10005, "no peers")]}, False),
        ({"STREAM_INFO": [MISSING], "STREAM_CREATE": [ApiError(400, 10027, "max")]}, True),
        ({"STREAM_INFO": [MISSING], "STREAM_CREATE": [ApiError(500, 10047, "storage")]}, True),
    ],
)
async def test_a_lost_quorum_and_full_storage_are_no_error_of_the_topology(
    answers: dict[str, Any], full: bool
) -> None:
    with pytest.raises(BusUnavailableError, match="the server refuses: ") as raised:
        await ensure_stream(api(Server(**answers)), STREAM)
    assert isinstance(raised.value, NotTakenError) is full


@pytest.mark.parametrize(
    "answers",
    [{"CONSUMER_INFO": [QUORUM]}, {"CONSUMER_INFO": [MISSING], "CONSUMER_DURABLE": [QUORUM]}],
)
async def test_a_consumer_without_a_quorum_is_unavailable(
    answers: dict[str, list[dict[str, Any] | ApiError]],
) -> None:
    with pytest.raises(BusUnavailableError, match="temporarily unavailable"):
        await ensure_consumer(api(Server(**answers)), CONSUMER)


async def test_the_server_s_limit_for_duplicates_is_kept_to(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limit = ApiError(500, 10052, "duplicates window can not be larger then server limit of 1m0s")
    server = Server(STREAM_INFO=[MISSING], STREAM_CREATE=[limit, stream()])
    await ensure_stream(api(server), STREAM)
    _, request = server.asked[-1]
    assert request["duplicate_window"] == 60 * 10**9
    assert "recognises duplicates for 60 s, not 120 s" in caplog.text


@pytest.mark.parametrize(
    ("text", "number"),
    [("1m0s", 60.0), ("1h30m", 5400.0), ("500ms", 0.5), ("1.5s", 1.5), ("soon", None), ("", None)],
)
def test_durations_are_read_as_the_server_writes_them(text: str, number: float | None) -> None:
    assert seconds(text) == number


def test_the_limits_of_pulls_are_read_and_learned() -> None:
    limits = PullLimits()
    limits.read({"max_batch": 50, "max_expires": 5 * 10**9, "max_bytes": 10, "max_waiting": 512})
    assert (limits.batch, limits.expires, limits.bytes, limits.waiting) == (50, 5.0, 10, 512)
    limits.read({})
    assert (limits.batch, limits.expires, limits.bytes, limits.waiting) == (None,) * 4
    assert limits.learn("Exceeded MaxRequestBatch of 100")
    assert not limits.learn("Exceeded MaxRequestBatch of 100")
    assert limits.learn("Exceeded MaxRequestExpires of 1m0s")
    assert limits.learn("Exceeded MaxRequestMaxBytes of 9")
    assert (limits.batch, limits.expires, limits.bytes) == (100, 60.0, 9)
    for other in ("Exceeded MaxWaiting", "Exceeded MaxRequestBatch of many", "Consumer Deleted"):
        assert not limits.learn(other)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"deliver_subject": "push"}, "it exists as a push consumer; remove it"),
        ({"ack_policy": "none"}, "it exists with ack_policy 'none', not 'explicit'; remove it"),
    ],
)
async def test_a_consumer_that_cannot_serve_is_refused(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidTopologyError, match=reason):
        await ensure_consumer(api(Server(CONSUMER_INFO=[{"config": config}])), CONSUMER)


async def test_a_consumer_with_other_settings_is_brought_up_to_date_where_it_began() -> None:
    there = CONSUMER.config() | {"deliver_policy": "new", "ack_wait": 1, "filter_subject": "x"}
    server = Server(CONSUMER_INFO=[{"config": there}], CONSUMER_DURABLE=[{"config": {}}])
    assert not (await ensure_consumer(api(server), CONSUMER)).made
    (_, request) = server.asked[-1]
    assert request["config"] == CONSUMER.config() | {"deliver_policy": "new"}


async def test_a_consumer_that_is_as_it_should_be_is_left_alone() -> None:
    server = Server(CONSUMER_INFO=[{"config": CONSUMER.config()}])
    found = await ensure_consumer(api(server), CONSUMER)
    assert not found.made
    assert found.config == CONSUMER.config()
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "answers",
    [
        {"CONSUMER_INFO": [ApiError(500, 1, "no permission")]},
        {"CONSUMER_INFO": [MISSING], "CONSUMER_DURABLE": [ApiError(500, 1, "no permission")]},
    ],
)
async def test_a_consumer_that_the_server_refuses_is_named(answers: dict[str, Any]) -> None:
    with pytest.raises(InvalidTopologyError, match="'billing' on stream 'orders'.*no permission"):
        await ensure_consumer(api(Server(**answers)), CONSUMER)


async def test_whether_a_consumer_is_there() -> None:
    assert await consumer_exists(api(Server(CONSUMER_INFO=[{}])), CONSUMER)
    assert not await consumer_exists(api(Server(CONSUMER_INFO=[MISSING])), CONSUMER)


class Lost:
    """A link whose connection is lost, at the subscription or at the end of it."""

    name = "NATS"
    client = SimpleNamespace(new_inbox=lambda: "inbox")

    def __init__(self, error: Exception, *, at: str) -> None:
        self.on_denied: list[Any] = []
        self._error = error
        self._at = at

    def add_listener(self, _: Any) -> None:
        pass

    async def listen(self, _: str, hear: Callable[[Incoming], None]) -> None:
        if self._at == "listen":
            raise self._error
        hear(Incoming("inbox", "", b"", {"Status": "404"}))

    async def leave(self, _: Any) -> None:
        raise self._error


@pytest.mark.parametrize("at", ["listen", "leave"])
@pytest.mark.parametrize("error", [ConnectionClosedError(), TimeoutError()])
async def test_a_pull_whose_connection_is_lost_says_that_the_broker_is_away(
    error: Exception, at: str
) -> None:
    link: Any = Lost(error, at=at)
    writer: Any = SimpleNamespace(put=lambda _: None)
    with pytest.raises(BusUnavailableError, match="messages from billing"):
        await Api(link, writer, 1.0).pull("orders", "billing", 10)
