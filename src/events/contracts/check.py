"""Can what is running read what will be sent, and the reverse? A verdict for each consumer.

Old is what the lock describes, new is what the code has. Three questions are asked:

- new reads old: the code's classes and upcasters read payloads that the old schemas allow. It is
  what happens to all that waits in queues, and while consumers are deployed before producers;
- old reads new: what the code's classes write is read by types made of the old schemas, as while
  producers are deployed first, or beside old consumers;
- new reads new: each consumer of the code reads what the code sends to its topic.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from events.contracts.findings import Finding, Level, Verdict
from events.contracts.lock import (
    Lock,
    classes_of,
    lock_of,
    reader_class,
    sent_payloads,
    versions_in,
)
from events.contracts.readers import reader_of
from events.contracts.reading import first_fault, old_payloads, place_of
from events.contracts.schemas import payload_schema
from events.contracts.service import Service
from events.errors import UnknownEventError
from events.integration import IntegrationEvent, IntegrationEventBusRegistration

_NEW_VERSION = (
    "restore this version, and put the change into a new version with an `upcast` from this one"
)


def check(service: Service, old: Lock, *, accept: Collection[str] = ()) -> list[Verdict]:
    """Compare the code with a lock; `accept` makes warnings of an event's errors (`TYPE.vN`)."""
    verdicts = list(_Check(service, old).verdicts())
    for verdict in verdicts:
        if f"{verdict.event}.v{verdict.version}" in accept:
            verdict.findings = [
                replace(each, level="warning") if each.level == "error" else each
                for each in verdict.findings
            ]
    return verdicts


class _Check:
    def __init__(self, service: Service, old: Lock) -> None:
        self._service = service
        self._old = old
        self._new = lock_of(service)
        self._classes = classes_of(service)
        self._written: dict[type[IntegrationEvent], list[dict[str, Any]]] = {}

    def verdicts(self) -> Iterator[Verdict]:
        judged: set[tuple[str, int]] = set()
        for registration in self._service.consumes:
            for each in sorted({(e.type) for e in registration.events}):
                for version in self._versions(registration.topic.name, each):
                    judged.add((each, version))
                    yield self._of_registration(registration, each, version)
        yield from self._of_registrations_gone()
        # Who else reads an event is not known here; its own class stands for them.
        for type_, version in sorted({*versions_in(self._old)} - judged):
            yield self._of_others(type_, version)

    def _versions(self, topic: str, type_: str) -> list[int]:
        """Return the versions that may be on a topic: sent before, or sent from now on."""
        found: set[int] = set()
        for lock in (self._old, self._new):
            sent = lock["sends"].get(topic, {}).get(type_)
            found.update(sent or map(int, lock["events"].get(type_, ())))
        for topics in self._old["consumers"].values():
            found.update(map(int, topics.get(topic, {}).get(type_, ())))
        return sorted(found)

    def _of_registration(
        self, registration: IntegrationEventBusRegistration, type_: str, version: int
    ) -> Verdict:
        name, topic = registration.consumer.name, registration.topic.name
        verdict = Verdict(name, topic, type_, version)
        old_reads = self._old["consumers"].get(name, {}).get(topic, {}).get(type_)
        sent_now = version in self._new["sends"].get(topic, {}).get(type_, ())
        if (fault := self._new_reads_old(registration, type_, version, old_reads)) is not None:
            verdict.consumers_first = verdict.producers_first = False
            verdict.findings.append(fault)
        elif sent_now:
            try:
                reader_class(registration, type_, version)
            except UnknownEventError as error:
                verdict.consumers_first = verdict.producers_first = False
                cure = "register the version, or add an `upcast` from it to the registered class"
                verdict.findings.append(
                    self._finding("new-cannot-read-new", verdict, str(error), cure=cure)
                )
        if old_reads is not None and (sent_now or self._changed(type_, version)):
            self._old_reads_new(verdict, old_reads)
        return verdict

    # --- new reads old ------------------------------------------------------------------------

    def _new_reads_old(
        self,
        registration: IntegrationEventBusRegistration,
        type_: str,
        version: int,
        old_reads: Mapping[str, int] | None,
    ) -> Finding | None:
        described = self._old["events"].get(type_, {}).get(str(version))
        topic = registration.topic.name
        was_sent = version in self._old["sends"].get(topic, {}).get(type_, ())
        was_read = old_reads is not None and str(version) in old_reads
        if described is None or not (was_sent or was_read):
            return None
        verdict = Verdict(registration.consumer.name, topic, type_, version)
        try:
            reader = reader_class(registration, type_, version)
        except UnknownEventError as error:
            cure = (
                "add an `upcast` to the class of the next version, or keep this version registered "
                "until none is left in any queue, outbox or dead letter"
            )
            return self._finding(
                "new-cannot-read-old", verdict, str(error), described["example"], cure=cure
            )
        if reader is None:
            return None
        fault = first_fault(old_payloads(described), reader.from_dict, own_checks=True)
        if fault is None:
            return None
        example, reason = fault
        cure = (
            _NEW_VERSION if reader.version == version else f"correct {reader.__name__}'s upcasting"
        )
        return self._finding("new-cannot-read-old", verdict, reason, example, cure=cure)

    # --- old reads new ------------------------------------------------------------------------

    def _old_reads_new(self, verdict: Verdict, old_reads: Mapping[str, int]) -> None:
        type_, version = verdict.event, verdict.version
        if str(version) not in old_reads:
            verdict.producers_first = False
            read = ", ".join(old_reads) or "none"
            message = (
                f"running code does not read version {version} (only {read}): such events become "
                f"dead letters"
            )
            cure = "deploy this consumer before the producer"
            verdict.findings.append(
                self._finding("consumers-first", verdict, message, cure=cure, level="warning")
            )
            return
        if (fault := self._old_schema_reads(type_, version)) is not None:
            example, reason = fault
            verdict.producers_first = False
            verdict.findings.append(
                self._finding("old-cannot-read-new", verdict, reason, example, cure=_NEW_VERSION)
            )

    def _old_schema_reads(self, type_: str, version: int) -> tuple[Mapping[str, Any], str] | None:
        described = self._old["events"].get(type_, {}).get(str(version))
        event_class = self._classes.get((type_, version))
        if described is None or event_class is None:
            return None
        if event_class not in self._written:
            self._written[event_class] = sent_payloads(event_class, self._service)
        return first_fault(self._written[event_class], reader_of(described["schema"]))

    # --- who is not registered here -----------------------------------------------------------

    def _of_others(self, type_: str, version: int) -> Verdict:
        verdict = Verdict("any other service", "", type_, version)
        described = self._old["events"][type_][str(version)]
        event_class = self._classes.get((type_, version))
        if event_class is None:
            was_sent = any(version in of.get(type_, ()) for of in self._old["sends"].values())
            if was_sent:
                message = "its class was removed; consumers of only this version get no more events"
                verdict.findings.append(
                    self._finding("no-longer-consumed", verdict, message, level="note")
                )
            return verdict
        if not self._changed(type_, version):
            return verdict
        fault = first_fault(old_payloads(described), event_class.from_dict, own_checks=True)
        if fault is not None:
            verdict.consumers_first = False
            verdict.findings.append(
                self._finding("new-cannot-read-old", verdict, fault[1], fault[0], cure=_NEW_VERSION)
            )
        if (fault := self._old_schema_reads(type_, version)) is not None:
            verdict.producers_first = False
            verdict.findings.append(
                self._finding("old-cannot-read-new", verdict, fault[1], fault[0], cure=_NEW_VERSION)
            )
        return verdict

    def _of_registrations_gone(self) -> Iterator[Verdict]:
        for name, topics in self._old["consumers"].items():
            for topic, types in topics.items():
                reads = self._new["consumers"].get(name, {}).get(topic, {})
                for type_, versions in types.items():
                    if type_ in reads:
                        continue
                    verdict = Verdict(name, topic, type_, max(map(int, versions), default=0))
                    message = "it is no longer registered: waiting events are skipped"
                    verdict.findings.append(
                        self._finding("no-longer-consumed", verdict, message, level="warning")
                    )
                    yield verdict

    def _changed(self, type_: str, version: int) -> bool:
        old = self._old["events"].get(type_, {}).get(str(version))
        event_class = self._classes.get((type_, version))
        return (
            old is not None
            and event_class is not None
            and old["schema"] != payload_schema(event_class)
        )

    def _finding(
        self,
        rule: str,
        verdict: Verdict,
        message: str,
        example: Mapping[str, Any] | None = None,
        *,
        cure: str = "",
        level: Level = "error",
    ) -> Finding:
        file, line = place_of(self._classes, verdict.event, verdict.version)
        return Finding(
            level,
            rule,
            message,
            verdict.event,
            verdict.version,
            verdict.consumer,
            verdict.topic,
            example,
            cure,
            file,
            line,
        )
