"""The verdicts as text, as JSON, as annotations of GitHub's and as SARIF 2.1.0."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from events.contracts.findings import RULES, Finding, Verdict


def _text(verdicts: Sequence[Verdict], findings: Sequence[Finding]) -> str:
    lines: list[str] = []
    for verdict in verdicts:
        where = f" on {verdict.topic}" if verdict.topic else ""
        order = {
            (True, True): "either side first",
            (True, False): "consumers first",
            (False, True): "producers first",
            (False, False): "in no order",
        }[verdict.consumers_first, verdict.producers_first]
        name = f"{verdict.event} v{verdict.version}"
        lines.append(f"{verdict.consumer}{where}: {name}: deploy {order}")
        lines += [f"  {line}" for each in verdict.findings for line in _lines(each)]
    shown = {id(each) for verdict in verdicts for each in verdict.findings}
    lines += [line for each in findings if id(each) not in shown for line in _lines(each)]
    errors = sum(each.level == "error" for each in findings)
    warnings = sum(each.level == "warning" for each in findings)
    lines.append(f"{_count(errors, 'error')}, {_count(warnings, 'warning')}")
    return "\n".join(lines)


def _lines(finding: Finding) -> list[str]:
    lines = [f"{finding.level}: {finding.message} [{finding.rule}]"]
    if finding.example is not None:
        lines.append(f"  example: {json.dumps(finding.example, ensure_ascii=False)}")
    if finding.cure:
        lines.append(f"  cure: {finding.cure}")
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _json(verdicts: Sequence[Verdict], findings: Sequence[Finding]) -> str:
    report = {
        "verdicts": [asdict(each) for each in verdicts],
        "findings": [asdict(each) for each in findings],
    }
    return json.dumps(report, indent=2, ensure_ascii=False)


def _github(verdicts: Sequence[Verdict], findings: Sequence[Finding]) -> str:
    """Write workflow commands, which GitHub shows beside the changed lines."""
    del verdicts
    kinds = {"error": "error", "warning": "warning", "note": "notice"}
    lines: list[str] = []
    for each in findings:
        options = {"file": each.file, "line": each.line, "title": each.rule}
        given = ",".join(
            f"{name}={_escaped(str(value)).replace(':', '%3A').replace(',', '%2C')}"
            for name, value in options.items()
            if value is not None
        )
        lines.append(f"::{kinds[each.level]} {given}::{_escaped(_sentence(each))}")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _sentence(finding: Finding) -> str:
    event = f"{finding.event} v{finding.version}: " if finding.event else ""
    who = f"{finding.consumer}: " if finding.consumer else ""
    lines = _lines(finding)
    lines[0] = f"{event}{who}{finding.message}"
    return "\n".join(lines)


def _sarif(verdicts: Sequence[Verdict], findings: Sequence[Finding]) -> str:
    del verdicts
    used = sorted({each.rule for each in findings})
    results: list[dict[str, Any]] = []
    for each in findings:
        result: dict[str, Any] = {
            "ruleId": each.rule,
            "ruleIndex": used.index(each.rule),
            "level": each.level,
            "message": {"text": _sentence(each)},
        }
        if each.file is not None and not each.file.startswith("/"):
            place: dict[str, Any] = {"artifactLocation": {"uri": each.file}}
            if each.line is not None:
                place["region"] = {"startLine": each.line}
            result["locations"] = [{"physicalLocation": place}]
        results.append(result)
    driver = {
        "name": "events schema check",
        "informationUri": "https://github.com/ACherryJam/events",
        "rules": [{"id": rule, "shortDescription": {"text": RULES[rule]}} for rule in used],
    }
    report = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    return json.dumps(report, indent=2, ensure_ascii=False)


FORMATS: Mapping[str, Callable[[Sequence[Verdict], Sequence[Finding]], str]] = {
    "text": _text,
    "json": _json,
    "github": _github,
    "sarif": _sarif,
}
