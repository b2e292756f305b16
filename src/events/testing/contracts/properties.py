"""What every bus must show, by number. The suites name these numbers; so do failures and skips."""

from __future__ import annotations

from typing import Final

__all__ = ["PROPERTIES"]

PROPERTIES: Final = {
    # Delivery
    1: "a batch of 100 arrives whole, bodies and headers byte for byte",
    2: "50 concurrent senders and 5 competing consumers: exactly the sent set, none twice",
    3: "20 topics in parallel: no loss, no leakage between topics",
    4: "two consumer names on one topic: each gets everything",
    5: "one consumer name on two topics gets both, each with its own registration",
    6: "events of types not registered are skipped and do not come back",
    7: "what was sent before the consumer first started waits or is gone, as declared",
    8: "in order with concurrency 1; with order_by, in order within each key, keys overlapping",
    9: "the concurrency ceiling holds, under load and after a reconnect",
    # Failure
    10: "a handler that fails twice succeeds on the third attempt, id and headers unchanged",
    11: "a handler that always fails: bounded attempts, growing delays, then a dead letter",
    12: "undecodable bytes, unknown version, body over the limit: dead letters at once",
    13: "redrive to that consumer alone, attempts at 0; discard removes; listing pages",
    14: "200 failures spread over 5 consumers lose nothing",
    15: "a dead-letter target that refuses: the event stays with the broker, no loss, no spin",
    # Lifecycle
    16: "startup and shutdown twice are harmless; use before startup is a clear error",
    17: "shutdown lets handlers end; past the grace it cancels them and the event comes back",
    18: "stop, send, start: what was sent meanwhile arrives",
    19: "register and unregister while running leak no task, connection or queue",
    20: "send concurrent with shutdown: each call returns accepted or raises",
    21: "a cancelled send leaves the bus usable",
    # Faults
    22: "SIGKILL of the consumer process: all is handled, duplicates at most what was in flight",
    23: "broker restarted in mid-stream: all that was accepted arrives, nothing stays pending",
    24: "broker frozen: send raises within its deadline, and works again afterwards",
    25: "broker down at startup: a clear error within the deadline, or waiting if asked to",
    26: "SIGTERM with a backlog: running handlers end, the rest is handled after the next start",
    27: "a message that kills its process ends as a dead letter, its neighbours are handled",
    28: "connection lost while a handler runs: it is not cancelled, its effect happens once",
    29: "a long handler that is alive keeps its event; a dead process's is given to another",
    # Outbox and inbox
    30: "rolled back: no event; committed: the event, exactly the one, id kept",
    31: "rows committed out of insertion order all leave",
    32: "SIGKILL of the relay at each step: nothing lost, duplicates carry the same id",
    33: "several relays: no row sent by two while both live; a dead one's rows are taken over",
    34: "a row that cannot be sent is parked with its error and does not stop the rest",
    35: "broker down for a while: the relay waits, then empties the backlog",
    36: "the order that the outbox promises per key holds with several relays",
    37: "the same delivery twice: the handler's effect once; one that raises leaves no row",
    # Interoperation
    38: "a CloudEvent keeps its id in every mode, whatever ids a foreign client adds",
    40: "memory is bounded in bytes: large bodies that wait leave the relay flat",
    # Sessions
    41: "a handler that closes, resets or re-enters its session loses nothing: error and retry",
    42: "rows are written on the unit of work's connection: routed, shared info, translated",
}
