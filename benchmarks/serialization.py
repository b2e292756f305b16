"""An event of five fields (int, UUID, datetime, Decimal, a nested dataclass) to bytes and back.

Ours checks besides that JSON changes nothing silently, and its bytes begin with type and version.
`message` is what a bus does: the headers too, and an id. Nothing waits here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import msgspec
import orjson
from pydantic import TypeAdapter

from benchmarks.measuring import Case, Measured, Stopwatch
from benchmarks.workload import Customer, Order, OrderPlaced, make
from events.integration.codec import codec_of
from events.integration.message import Delivery
from events.integration.serialization import EventDecoder, Serializer
from events.integration.uuid7 import uuid7

EVENTS = 50_000

_ours = OrderPlaced(*vars(next(make(1))).values())
_order = next(make(1))
_codec = codec_of(OrderPlaced)
_serializer = Serializer("/bench")
_decoder = EventDecoder([OrderPlaced])
_message = _serializer.encode("orders", _ours)
_delivery = Delivery("orders", "bench", _message.id, _message.body, _message.headers)
_adapter = TypeAdapter(Order)
_plain = msgspec.json.encode(_order)
_decode = msgspec.json.Decoder(Order).decode
_encode = msgspec.json.Encoder().encode


class _Look(msgspec.Struct):
    type: str
    version: int


_look = msgspec.json.Decoder(_Look).decode


def _look_and_decode(body: bytes) -> Order:
    _look(body)
    return _decode(body)


def _built(made: dict[str, Any]) -> Order:
    return Order(
        made["number"],
        UUID(made["order"]),
        datetime.fromisoformat(made["placed_at"]),
        Decimal(made["total"]),
        Customer(**made["customer"]),
    )


def _dump(order: Order) -> bytes:
    return json.dumps(asdict(order), default=str).encode()


def _orjson_dump(order: Order) -> bytes:
    dumped: bytes = orjson.dumps(order, default=str)
    return dumped


WORK: dict[str, dict[str, Callable[[], object]]] = {
    "encode": {
        "ours": partial(_codec.encode, _ours),
        "msgspec": partial(_encode, _order),
        "orjson": partial(_orjson_dump, _order),
        "pydantic TypeAdapter": partial(_adapter.dump_json, _order),
        "stdlib json, dataclasses.asdict": partial(_dump, _order),
    },
    "decode": {
        "ours": partial(_codec.decode, _message.body),
        "msgspec": partial(_decode, _plain),
        "msgspec, with a first look at the type": partial(_look_and_decode, _message.body),
        "orjson, made by hand": lambda: _built(orjson.loads(_plain)),
        "pydantic TypeAdapter": partial(_adapter.validate_json, _plain),
        "stdlib json, made by hand": lambda: _built(json.loads(_plain)),
    },
    "there and back": {
        "ours": lambda: _codec.decode(_codec.encode(_ours)),
        "msgspec": lambda: _decode(_encode(_order)),
        "pydantic TypeAdapter": lambda: _adapter.validate_json(_adapter.dump_json(_order)),
    },
    "message, there and back": {
        "ours": lambda: _decoder.decode(_delivery) and _serializer.encode("orders", _ours),
        "msgspec, the body alone": lambda: _decode(_encode(_order)),
    },
    "id": {"ours, uuid7": uuid7, "str(uuid4())": lambda: str(uuid4())},
}


async def measure(work: Callable[[], object], events: int) -> Measured:
    with Stopwatch() as watch:
        for _ in range(events):
            work()
    return {"CPU µs": watch.of(events)["CPU µs"]}


def cases() -> Iterator[Case]:
    for group, contestants in WORK.items():
        for name, work in contestants.items():
            events = EVENTS // 10 if "stdlib" in name else EVENTS
            yield Case(group, name, partial(measure, work), events)
