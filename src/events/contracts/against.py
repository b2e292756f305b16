"""The code beside another team's contracts: what they send us, and what they read of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from events.contracts.findings import Finding, Verdict
from events.contracts.lock import Lock, classes_of, reader_class, sent_payloads
from events.contracts.readers import reader_of
from events.contracts.reading import first_fault, old_payloads, place_of
from events.contracts.service import Service
from events.errors import UnknownEventError


def check_against(service: Service, theirs: Lock) -> list[Verdict]:
    """Compare the code with their lock, or with what was read of their document."""
    verdicts: list[Verdict] = []
    classes = classes_of(service)
    team = theirs["service"].get("name", "the other team")
    for registration in service.consumes:
        topic = registration.topic.name
        for type_, versions in _carried(theirs["sends"], topic):
            for version in versions:
                verdict = Verdict(registration.consumer.name, topic, type_, version)
                described = theirs["events"].get(type_, {}).get(str(version))
                fault: tuple[Mapping[str, Any] | None, str] | None
                try:
                    reader = reader_class(registration, type_, version)
                except UnknownEventError as error:
                    fault = (described and described.get("example"), str(error))
                else:
                    if reader is None or described is None:
                        continue
                    fault = first_fault(old_payloads(described), reader.from_dict, own_checks=True)
                verdicts.append(verdict)
                if fault is not None:
                    verdict.consumers_first = verdict.producers_first = False
                    file, line = place_of(classes, type_, version)
                    message = f"{fault[1]} (sent by {team})"
                    verdict.findings.append(
                        Finding(
                            "error",
                            "cannot-read-theirs",
                            message,
                            type_,
                            version,
                            verdict.consumer,
                            topic,
                            fault[0],
                            "ask them for what you need, or read what they send",
                            file,
                            line,
                        )
                    )
    verdicts += _they_read_ours(service, theirs, classes, team)
    return verdicts


def _carried(by_address: Mapping[str, Any], topic: str) -> Iterator[tuple[str, Any]]:
    """Return what is sent to a topic; its address may have parameters, as in `lights/{id}`."""
    for address, types in by_address.items():
        if _is(address, topic):
            yield from types.items()


def _is(address: str, topic: str) -> bool:
    pattern = re.sub(r"\\\{[^{}/]*\\\}", "[^/]+", re.escape(address))
    return address == topic or re.fullmatch(pattern, topic) is not None


def _they_read_ours(
    service: Service, theirs: Lock, classes: Mapping[Any, Any], team: str
) -> Iterator[Verdict]:
    sends = {topic.name: sent for topic, sent in service.sends.items()}
    for name, topics in theirs["consumers"].items():
        for topic, types in topics.items():
            for event_class in (e for ours, of in sends.items() if _is(topic, ours) for e in of):
                if (reads := types.get(event_class.type)) is None:
                    continue
                verdict = Verdict(f"{team}: {name}", topic, event_class.type, event_class.version)
                yield verdict
                version = str(event_class.version)
                described = theirs["events"].get(event_class.type, {}).get(version)
                fault: tuple[Mapping[str, Any] | None, str] | None = None
                if version not in reads:
                    fault = (None, f"it does not read version {version}, only {', '.join(reads)}")
                elif described is not None:
                    sent = sent_payloads(event_class, service)
                    fault = first_fault(sent, reader_of(described["schema"]))
                if fault is not None:
                    verdict.consumers_first = verdict.producers_first = False
                    file, line = place_of(classes, event_class.type, event_class.version)
                    verdict.findings.append(
                        Finding(
                            "error",
                            "they-cannot-read-ours",
                            fault[1],
                            event_class.type,
                            event_class.version,
                            verdict.consumer,
                            topic,
                            fault[0],
                            "also send the version that they read, until they read the new one",
                            file,
                            line,
                        )
                    )
