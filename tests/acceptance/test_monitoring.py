"""Metrics as a Prometheus server gets them, the alerts, and the dashboard's queries."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import yaml

from events.integration.implementation.opentelemetry.conventions import METRICS, Metric
from tests.servers import PrivateServer, ServerMissingError, end, free_port

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "examples" / "monitoring"
TIMEOUT = 120.0  # seconds, on a busy machine


class Prometheus(PrivateServer):
    name = "prometheus"
    binary = "prometheus"
    package = "prometheus"

    def __init__(self, folder: Path, target: int) -> None:
        super().__init__(folder)
        self._target = target

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self, binary: str) -> list[str]:
        shutil.copy(MONITORING / "alerts.yml", self.folder)
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["alerts.yml"],
            "scrape_configs": [
                {
                    "job_name": "events",
                    "static_configs": [{"targets": [f"127.0.0.1:{self._target}"]}],
                }
            ],
        }
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        return [
            *(binary, "--config.file=prometheus.yml", f"--storage.tsdb.path={self.folder}/data"),
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def answers(self) -> bool:
        """It listens a while before it can be asked."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.url}/-/ready", timeout=30):
                return True
        except OSError:
            return False

    def ask(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.url}/api/v1/{path}?{query}", timeout=60) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[Any]:
        found: list[Any] = self.ask("query", query=expression)["result"]
        return found

    def until(self, expression: str) -> list[Any]:
        """Ask until there is an answer: a rate needs two scrapes."""
        deadline = time.monotonic() + TIMEOUT
        while not (found := self.query(expression)):
            assert time.monotonic() < deadline, f"nothing answers {expression}"
            time.sleep(0.2)
        return found


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Generator[int]:
    folder, port = tmp_path_factory.mktemp("monitored"), free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.acceptance.monitored", str(folder), str(port)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield port
        finally:
            end(process)


@pytest.fixture(scope="module")
def prometheus(target: int, tmp_path_factory: pytest.TempPathFactory) -> Generator[Prometheus]:
    with Prometheus(tmp_path_factory.mktemp("prometheus"), target) as server:
        yield server


def promtool(*arguments: str, given: bytes | None = None) -> str:
    binary = shutil.which("promtool")
    if binary is None:
        raise ServerMissingError("promtool", "promtool", "prometheus")
    done = subprocess.run(
        [binary, *arguments], cwd=MONITORING, input=given, capture_output=True, check=False
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def in_prometheus(metric: Metric) -> str:
    """Name a metric as the exporter does."""
    name = metric.name.replace(".", "_")
    if metric.unit == "s":
        name += "_seconds"
    return {"counter": f"{name}_total", "histogram": f"{name}_count"}.get(metric.instrument, name)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_each_documented_metric_is_there(prometheus: Prometheus, metric: Metric) -> None:
    labels = {name.replace(".", "_") for name in metric.attributes}
    theirs = {"__name__", "instance", "job", "otel_scope_name", "otel_scope_version"}
    for series in prometheus.until(in_prometheus(metric)):
        found = {name for name in series["metric"] if not name.startswith("otel_scope")}
        assert found - theirs <= labels


def test_the_figures_are_what_happened(prometheus: Prometheus) -> None:
    for query, figure in {
        "sum(messaging_client_sent_messages_total)": 7,
        "events_dead_letters_total": 1,
        "events_retries_total": 1,
        "events_duplicates_total": 1,
        'messaging_process_duration_seconds_count{error_type="ValueError"}': 2,
        "events_outbox_pending": 0,  # which is measured once a second
        "events_consumer_alive": 1,
    }.items():
        assert len(prometheus.until(f"{query} == {figure}")) == 1, query


def ours(target: int) -> str:
    """Return the metrics of ours as they are scraped."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{target}/metrics", timeout=60) as answer:
        exposed = answer.read().decode()
    return "".join(
        line
        for line in exposed.splitlines(keepends=True)
        if re.match(r"(# (HELP|TYPE) )?(messaging|events)_", line)
    )


def test_promtool_finds_nothing_wrong_with_our_metrics(target: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while "events_outbox_pending" not in (exposed := ours(target)):  # measured once a second
        assert time.monotonic() < deadline, exposed
        time.sleep(0.2)
    promtool("check", "metrics", given=exposed.encode())


def test_the_alerts_are_raised_when_they_should_be_and_not_else() -> None:
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts_test.yml")


def test_prometheus_evaluates_the_alerts(prometheus: Prometheus) -> None:
    deadline = time.monotonic() + TIMEOUT
    while True:
        [group] = prometheus.ask("rules")["groups"]
        if all(rule["health"] == "ok" for rule in group["rules"]):
            break
        assert time.monotonic() < deadline, group
        time.sleep(0.2)
    named = {rule["name"] for rule in group["rules"]}
    assert named == {
        "EventsConsumerDead",
        "EventsConsumerForgotten",
        "EventsDeadLetters",
        "EventsDeliveriesLag",
        "EventsOutboxLags",
        "EventsParked",
        "EventsRelaySilent",
        "EventsRelayUnhealthy",
    }


SELECTOR = re.compile(
    r"(events_(?:consumer|outbox|relay|dead|delivery)_\w+)(?:\{(\w+)=\"(\w+)\"\})?"
)
GROUPED = re.compile(r"by \(([^)]*)\)\s*\(?(?:rate|increase)?\(?(events_\w+)")


def test_each_series_of_an_alert_is_scraped(prometheus: Prometheus) -> None:
    """An alert on a name or a label that nobody has would never be raised."""
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    selected = [found[0] for each in expressions for found in SELECTOR.finditer(each)]
    assert len(selected) >= len(expressions)
    for selector in selected:
        assert prometheus.until(selector), selector
    grouped = [found for each in expressions for found in GROUPED.findall(each)]
    assert len(grouped) >= 4
    for labels, name in grouped:
        for label in (label.strip() for label in labels.split(",")):
            assert prometheus.until(f'{name}{{{label}!=""}}'), (name, label)


def queries() -> list[str]:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("query", queries())
def test_each_query_of_the_dashboard_has_an_answer(prometheus: Prometheus, query: str) -> None:
    assert prometheus.until(query)
