"""Streams and consumers at the server: looked for, made if missing, refused if they do not fit.

Existing objects belong to their creator. A stream is used unchanged, or refused with the
difference; of a consumer, what can be changed is changed, as deploying other options asks for.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from msgspec import Struct, field, structs

from events.errors import BusError, BusUnavailableError, InvalidTopologyError
from events.integration.implementation.nats._api import Api, ApiError, Nothing

logger = logging.getLogger("events.integration")

_NAME_IN_USE, _SUBJECTS_OVERLAP = 10058, 10065
_UNAVAILABLE = 503
# Numbers of errors that end without a change of ours: what has no leader, or not enough servers;
_NO_QUORUM = frozenset({10004, 10005, 10008, 10009, 10010, 10118, 10119})
# what is full: storage, memory, the account's streams and consumers.
_FULL = frozenset({10002, 10023, 10026, 10027, 10028, 10047, 10077})
NANO = 10**9

_window_limit = re.compile(r"duplicates? window .*limit of ([0-9a-zµ.]+)").search


class NotTakenError(BusUnavailableError):
    """Raised when the server has no room, and says so: there is no use in waiting for a moment."""


class StreamSpec(Struct, frozen=True, kw_only=True):
    """A stream that is needed. What is None is the operator's choice where it exists already."""

    name: str
    subject: str
    replicas: int = 1
    max_age: float | None = None
    one_per_subject: bool = False
    deletes: bool = False
    duplicate_window: float = 120.0

    def config(self) -> dict[str, Any]:
        """Return what makes it."""
        return {
            "name": self.name,
            "subjects": [self.subject],
            "storage": "file",
            "retention": "limits",
            "num_replicas": self.replicas,
            "max_age": int((self.max_age or 0) * NANO),
            "discard": "old",
            "max_msgs_per_subject": 1 if self.one_per_subject else -1,
            "duplicate_window": int(min(self.duplicate_window, self.max_age or 1e9) * NANO),
        }


class ConsumerSpec(Struct, frozen=True, kw_only=True):
    """A consumer that is needed. `filters` is empty where the server takes no list of them."""

    stream: str
    name: str
    ack_wait: float
    filters: tuple[str, ...]

    def config(self) -> dict[str, Any]:
        """Return what makes it. Our own count of deliveries ends those that kill their process."""
        config: dict[str, Any] = {
            "durable_name": self.name,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": int(self.ack_wait * NANO),
            "max_deliver": -1,
            "max_ack_pending": -1,
        }
        if self.filters:
            config["filter_subjects"] = list(self.filters)
        return config


class _StreamConfig(Struct):
    subjects: list[str] = field(default_factory=list[str])
    storage: str = "file"
    retention: str = "limits"
    no_ack: bool = False
    sealed: bool = False
    deny_delete: bool = False
    deny_purge: bool = False
    max_msgs_per_subject: int = -1
    mirror: dict[str, Any] | None = None


class _StreamInfo(Struct):
    config: _StreamConfig


class _ConsumerInfo(Struct):
    config: dict[str, Any]


class Consumer(Struct, frozen=True):
    """A consumer that is there now: with which settings, and whether it had to be made."""

    config: dict[str, Any]
    made: bool = False


async def ensure_stream(api: Api, spec: StreamSpec) -> None:
    """Make the stream if it is missing; raise `InvalidTopologyError` if it cannot serve."""
    if not await check_stream(api, spec):
        _require_fit(spec, await _make_stream(api, spec))


async def check_stream(api: Api, spec: StreamSpec) -> bool:
    """Return whether the stream is there; raise `InvalidTopologyError` if it cannot serve."""
    try:
        info = await api.request(f"STREAM.INFO.{spec.name}", None, _StreamInfo)
    except ApiError as error:
        if not error.not_found:
            raise _refused(f"NATS stream {spec.name!r}", error) from error
        return False
    _require_fit(spec, info)
    return True


def _require_fit(spec: StreamSpec, info: _StreamInfo) -> None:
    differences = _differences(spec, info.config)
    if differences:
        raise InvalidTopologyError(
            f"NATS stream {spec.name!r}",
            f"it exists and cannot be used: {'; '.join(differences)}. Change or remove it, or use "
            f"another name",
        )


async def _make_stream(api: Api, spec: StreamSpec) -> _StreamInfo:
    try:
        made = await api.request(f"STREAM.CREATE.{spec.name}", spec.config(), _StreamInfo)
    except ApiError as error:
        if error.number == _NAME_IN_USE:  # another process was faster
            return await api.request(f"STREAM.INFO.{spec.name}", None, _StreamInfo)
        limit = _window_limit(error.description)
        allowed = seconds(limit[1]) if limit else None
        if allowed is not None and 0 < allowed < spec.duplicate_window:
            logger.warning(
                "NATS stream %r recognises duplicates for %g s, not %g s: the server's limit",
                spec.name,
                allowed,
                spec.duplicate_window,
            )
            return await _make_stream(api, structs.replace(spec, duplicate_window=allowed))
        raise _refused(
            f"NATS stream {spec.name!r} with subjects {spec.subject!r}", error
        ) from error
    kept = "without limit" if spec.max_age is None else f"for {spec.max_age:g} s"
    logger.info("created NATS stream %r with subjects %r, kept %s", spec.name, spec.subject, kept)
    return made


def _differences(spec: StreamSpec, config: _StreamConfig) -> list[str]:
    found: list[str] = []
    if not any(_covers(pattern, spec.subject) for pattern in config.subjects):
        found.append(f"its subjects are {config.subjects}, and do not include {spec.subject!r}")
    if config.storage != "file":
        found.append(f"its storage is {config.storage!r}: only 'file' survives a restart")
    if config.retention == "workqueue":
        found.append("its retention is 'workqueue', which allows only one consumer")
    if config.no_ack:
        found.append("it acknowledges nothing (no_ack)")
    if config.sealed or config.mirror is not None:
        found.append("it accepts no messages, because it is sealed or a mirror")
    if spec.deletes and (config.deny_delete or config.deny_purge):
        found.append("messages cannot be removed from it (deny_delete, deny_purge)")
    if not spec.one_per_subject and config.max_msgs_per_subject > 0:
        found.append(
            f"it keeps {config.max_msgs_per_subject} messages of a subject and drops others"
        )
    return found


def _covers(pattern: str, subject: str) -> bool:
    """Return whether all that matches `subject`, which ends with `>`, matches the pattern too."""
    theirs, ours = pattern.split("."), subject.split(".")
    for index, part in enumerate(theirs):
        if part == ">":
            return True
        if index >= len(ours) or ours[index] == ">" or part not in ("*", ours[index]):
            return False
    return False


async def ensure_consumer(api: Api, spec: ConsumerSpec) -> Consumer:
    """Make the durable consumer if it is missing, or have it be as it should."""
    wanted = spec.config()
    there = await check_consumer(api, spec)
    if there is None:
        return Consumer(await _make_consumer(api, spec, wanted), made=True)
    wanted["deliver_policy"] = there.get("deliver_policy")  # where it began is history
    if any(there.get(name) != value for name, value in wanted.items()) or _filtered(there, spec):
        kept = {n: v for n, v in there.items() if n not in ("filter_subject", "filter_subjects")}
        there = await _make_consumer(api, spec, kept | wanted)
    return Consumer(there)


async def check_consumer(api: Api, spec: ConsumerSpec) -> dict[str, Any] | None:
    """Return how the consumer is, if it is there; raise `InvalidTopologyError` if it is no use."""
    subject = _named(spec)
    try:
        path = f"{spec.stream}.{spec.name}"
        there = (await api.request(f"CONSUMER.INFO.{path}", None, _ConsumerInfo)).config
    except ApiError as error:
        if not error.not_found:
            raise _refused(subject, error) from error
        return None
    if there.get("deliver_subject"):
        raise InvalidTopologyError(subject, "it exists as a push consumer; remove it")
    if there.get("ack_policy") != "explicit":
        raise InvalidTopologyError(
            subject,
            f"it exists with ack_policy {there.get('ack_policy')!r}, not 'explicit'; remove it",
        )
    return there


def _named(spec: ConsumerSpec) -> str:
    return f"NATS consumer {spec.name!r} on stream {spec.stream!r}"


async def consumer_exists(api: Api, spec: ConsumerSpec) -> bool:
    """Look whether it is there."""
    try:
        await api.request(f"CONSUMER.INFO.{spec.stream}.{spec.name}", None, Nothing)
    except ApiError:
        return False
    return True


def _filtered(config: dict[str, Any], spec: ConsumerSpec) -> bool:
    return bool(
        config.get("filter_subject") or (config.get("filter_subjects") and not spec.filters)
    )


async def _make_consumer(api: Api, spec: ConsumerSpec, config: dict[str, Any]) -> dict[str, Any]:
    request = {"stream_name": spec.stream, "config": config}
    try:
        path = f"{spec.stream}.{spec.name}"
        made = await api.request(f"CONSUMER.DURABLE.CREATE.{path}", request, _ConsumerInfo)
    except ApiError as error:
        raise _refused(_named(spec), error) from error
    return made.config


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def seconds(duration: str) -> float | None:
    """Read a duration as the server writes it, such as `1m30s`; None if it is none."""
    parts = _DURATION.findall(duration)
    if not parts or "".join(map("".join, parts)) != duration:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _refused(subject: str, error: ApiError) -> BusError:
    """Return the error of a refusal: temporary, which is retried, or permanent."""
    reason = f"the server refuses: {error}"
    if error.number in _FULL:
        return NotTakenError(subject, reason)
    if error.code == _UNAVAILABLE or error.number in _NO_QUORUM:
        return BusUnavailableError(subject, reason)
    if error.number == _SUBJECTS_OVERLAP:
        reason += "; another stream has these subjects: rename it to this name, or remove it"
    return InvalidTopologyError(subject, reason)
