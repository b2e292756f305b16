"""A receiver of spans over OTLP/HTTP, and the tree that they form."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class Received:
    service: str
    name: str
    id: tuple[bytes, bytes]
    parent: tuple[bytes, bytes] | None
    links: tuple[tuple[bytes, bytes], ...]
    happened: tuple[str, ...]


@dataclass
class Spans:
    """All received spans. A span that a killed process had not ended is missing."""

    url: str
    all: dict[tuple[bytes, bytes], Received] = field(
        default_factory=dict[tuple[bytes, bytes], Received]
    )

    def named(self, name: str, service: str | None = None) -> list[Received]:
        return [s for s in self.all.values() if s.name == name and service in (None, s.service)]

    def linked_to(self, span: Received, name: str) -> list[Received]:
        return [each for each in self.named(name) if span.id in each.links]

    def children_of(self, span: Received) -> list[Received]:
        return [each for each in self.all.values() if each.parent == span.id]

    def ancestors_of(self, span: Received) -> list[Received]:
        """Return its parent first, the root last."""
        found: list[Received] = []
        while span.parent is not None and span.parent in self.all:
            span = self.all[span.parent]
            found.append(span)
        return found

    @property
    def dangling_links(self) -> list[Received]:
        return [s for s in self.all.values() if any(link not in self.all for link in s.links)]

    @property
    def orphans(self) -> list[Received]:
        return [s for s in self.all.values() if s.parent is not None and s.parent not in self.all]

    def add(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    received = Received(
                        attributes["service.name"],
                        span.name,
                        (span.trace_id, span.span_id),
                        (span.trace_id, span.parent_span_id) if span.parent_span_id else None,
                        tuple((link.trace_id, link.span_id) for link in span.links),
                        tuple(event.name for event in span.events),
                    )
                    self.all[received.id] = received


@contextmanager
def receiving() -> Generator[Spans]:
    """Receive on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            spans.add(ExportTraceServiceRequest.FromString(body))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Ignore a connection that was cut, because its process was killed."""

    with Server(("127.0.0.1", 0), Handler) as server:
        spans = Spans(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield spans
        finally:
            server.shutdown()
            thread.join()
