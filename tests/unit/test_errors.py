"""One tree, drawn in the module's docstring; errors that survive pickling."""

import inspect
import pickle
import re

import pytest

from events import errors
from events.errors import (
    BatchSendError,
    BusUnavailableError,
    EventChainTooLongError,
    EventsError,
    MessageTooLargeError,
    MissingExtraError,
    OutboxError,
    SendOutcomeUnknownError,
)


def classes() -> dict[str, type[EventsError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, EventsError)
    }


def test_the_drawing_is_the_tree() -> None:
    drawn: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"^( {4}[ │├└─]*)([A-Z]\w+Error)\b", line):
            depth = (len(found[1]) - 4) // 4
            path[depth:] = [found[2]]
            drawn[found[2]] = path[depth - 1] if depth else None
    parents = {
        name: next((b.__name__ for b in cls.__bases__ if issubclass(b, EventsError)), None)
        for name, cls in classes().items()
    }
    assert drawn == parents
    assert sorted(errors.__all__) == sorted(parents)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OutboxError("the relay has stopped"), "the relay has stopped"),
        (
            MissingExtraError("events.integration.implementation.redis", "redis"),
            "needs the extra 'redis': pip install \"integration-events[redis]\"",
        ),
        (
            EventChainTooLongError(["a"] + ["b"] * 30, 30),
            "a -> b -> b -> b -> b -> b -> b -> b -> b -> b -> ... 11 more ... -> b",
        ),
        (
            MessageTooLargeError("users", "user.registered", 2_000, 1_000),
            "raise the limit, which is `max_body_size` or the broker's own",
        ),
        (
            SendOutcomeUnknownError("Bus()", "id-1", "no answer within 10 s"),
            "may or may not have taken message id-1: no answer within 10 s; send it again with id=",
        ),
        (
            BusUnavailableError("Bus()", "refused", "read the dead letters of 'mails'"),
            "cannot read the dead letters of 'mails': Bus() is not available: refused",
        ),
        (
            BatchSendError("Bus()", 9, {4: BusUnavailableError("Bus()", "refused")}),
            "Bus() did not take 1 of 9 events; the first, number 4: Bus() is not available",
        ),
    ],
)
def test_errors_say_what_to_do_and_survive_pickling(error: EventsError, text: str) -> None:
    assert text in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
