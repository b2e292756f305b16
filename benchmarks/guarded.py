"""What ours and plain msgspec do to one event: for the guard, which has no peers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from benchmarks.workload import Order, OrderPlaced, make
from events.integration.codec import codec_of
from events.integration.message import Delivery
from events.integration.serialization import EventDecoder, Serializer

ours = OrderPlaced(*vars(next(make(1))).values())
plain = next(make(1))
codec = codec_of(OrderPlaced)
serializer = Serializer("/bench")
decoder = EventDecoder([OrderPlaced])
message = serializer.encode("orders", ours)
delivery = Delivery("orders", "bench", message.id, message.body, message.headers)
encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Order).decode
body = encode(plain)

SERIALIZATION: dict[str, Callable[[], object]] = {
    "encode": partial(codec.encode, ours),
    "encode-floor": partial(encode, plain),
    "decode": partial(codec.decode, message.body),
    "decode-floor": partial(decode, body),
    "message": partial(serializer.encode, "orders", ours),
    "delivery": partial(decoder.decode, delivery),
}
