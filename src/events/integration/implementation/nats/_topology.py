"""Streams and consumers at the server: looked for, made if missing, refused if they do not fit.

What is there already belongs to whoever made it. A stream is used as it is, or refused with the
difference; of a consumer, what can be changed is changed, as deploying other options asks for.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

from msgspec import Struct, field

from events.errors import InvalidTopologyError
from events.integration.implementation.nats._api import Api, ApiError, Nothing

__all__ = [
    "NANO",
    "ConsumerSpec",
    "StreamSpec",
    "consumer_exists",
    "ensure_consumer",
    "ensure_stream",
]

logger = logging.getLogger("events.integration")

_NAME_IN_USE, _SUBJECTS_OVERLAP = 10058, 10065
NANO = 10**9


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


async def ensure_stream(api: Api, spec: StreamSpec) -> None:
    """Make the stream if it is missing; raise `InvalidTopologyError` if it cannot serve."""
    try:
        info = await api.request(f"STREAM.INFO.{spec.name}", None, _StreamInfo)
    except ApiError as error:
        if not error.not_found:
            raise _refused(f"NATS stream {spec.name!r}", error) from error
        info = await _make_stream(api, spec)
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
        if error.number == _NAME_IN_USE:  # somebody else was faster
            return await api.request(f"STREAM.INFO.{spec.name}", None, _StreamInfo)
        raise _refused(
            f"NATS stream {spec.name!r} with subjects {spec.subject!r}", error
        ) from error
    kept = "for ever" if spec.max_age is None else f"for {spec.max_age:g} s"
    logger.info("made NATS stream %r with subjects %r, kept %s", spec.name, spec.subject, kept)
    return made


def _differences(spec: StreamSpec, config: _StreamConfig) -> list[str]:
    found: list[str] = []
    if not any(_covers(pattern, spec.subject) for pattern in config.subjects):
        found.append(f"its subjects are {config.subjects}, {spec.subject!r} is needed")
    if config.storage != "file":
        found.append(f"its storage is {config.storage!r}, 'file' is needed to survive a restart")
    if config.retention == "workqueue":
        found.append("its retention is 'workqueue', which allows for one consumer only")
    if config.no_ack:
        found.append("it acknowledges nothing (no_ack)")
    if config.sealed or config.mirror is not None:
        found.append("it takes no messages, being sealed or a mirror")
    if spec.deletes and (config.deny_delete or config.deny_purge):
        found.append("messages cannot be removed from it (deny_delete, deny_purge)")
    if not spec.one_per_subject and config.max_msgs_per_subject > 0:
        found.append(
            f"it keeps {config.max_msgs_per_subject} messages of a subject and drops others"
        )
    return found


def _covers(pattern: str, subject: str) -> bool:
    """Tell whether all that matches `subject`, which ends with `>`, matches the pattern too."""
    theirs, ours = pattern.split("."), subject.split(".")
    for index, part in enumerate(theirs):
        if part == ">":
            return True
        if index >= len(ours) or ours[index] == ">" or part not in ("*", ours[index]):
            return False
    return False


async def ensure_consumer(api: Api, spec: ConsumerSpec) -> Literal["made", "found"]:
    """Make the durable consumer if it is missing, or have it be as it should."""
    subject = f"NATS consumer {spec.name!r} on stream {spec.stream!r}"
    path = f"{spec.stream}.{spec.name}"
    wanted = spec.config()
    try:
        there = (await api.request(f"CONSUMER.INFO.{path}", None, _ConsumerInfo)).config
    except ApiError as error:
        if not error.not_found:
            raise _refused(subject, error) from error
        await _make_consumer(api, subject, path, spec.stream, wanted)
        return "made"
    if there.get("deliver_subject"):
        raise InvalidTopologyError(subject, "it exists as a push consumer; remove it")
    if there.get("ack_policy") != "explicit":
        raise InvalidTopologyError(
            subject,
            f"it exists with ack_policy {there.get('ack_policy')!r}, not 'explicit'; remove it",
        )
    wanted["deliver_policy"] = there.get("deliver_policy")  # where it began is history
    if any(there.get(name) != value for name, value in wanted.items()) or _filtered(there, spec):
        kept = {n: v for n, v in there.items() if n not in ("filter_subject", "filter_subjects")}
        await _make_consumer(api, subject, path, spec.stream, kept | wanted)
    return "found"


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


async def _make_consumer(
    api: Api, subject: str, path: str, stream: str, config: dict[str, Any]
) -> None:
    request = {"stream_name": stream, "config": config}
    try:
        await api.request(f"CONSUMER.DURABLE.CREATE.{path}", request, Nothing)
    except ApiError as error:
        raise _refused(subject, error) from error


def _refused(subject: str, error: ApiError) -> Exception:
    reason = f"the server refuses: {error}"
    if error.number == _SUBJECTS_OVERLAP:
        reason += "; another stream has these subjects: give that one this name, or remove it"
    return InvalidTopologyError(subject, reason)
