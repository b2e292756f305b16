"""The trace of one registration, as a tree: what was caused directly, and what a link leads to."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import set_tracer_provider
from rich.text import Text
from rich.tree import Tree

from events.opentelemetry import instrument, uninstrument

REQUEST = "POST /users"


class Trace:
    """Keeps the spans of this process."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def tree(self) -> Tree | None:
        """Return the tree of the first registration, or None if there was none."""
        spans = sorted(self._exporter.get_finished_spans(), key=lambda s: s.start_time or 0)
        first = next((s for s in spans if s.name == REQUEST and s.parent is None), None)
        return None if first is None else _tree(first, spans)


@contextmanager
def tracing() -> Generator[Trace]:
    """Trace this process within the block, its HTTP requests too: FastAPI looks for a provider."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    set_tracer_provider(provider)
    instrument(tracer_provider=provider)
    try:
        yield Trace(exporter)
    finally:
        uninstrument()
        provider.shutdown()


def _tree(root: ReadableSpan, spans: Sequence[ReadableSpan]) -> Tree:
    began = root.start_time or 0
    tree = Tree(_label(root, began))
    shown = {_id(root)}

    def grow(branch: Tree, span: ReadableSpan) -> None:
        for other in spans:
            parent = None if other.parent is None else (other.parent.trace_id, other.parent.span_id)
            links = {(link.context.trace_id, link.context.span_id) for link in other.links}
            if _id(other) in shown or _id(span) not in {parent, *links}:
                continue
            shown.add(_id(other))
            linked = "" if parent == _id(span) else "linked: "
            grow(branch.add(_label(other, began, linked)), other)

    grow(tree, root)
    return tree


def _label(span: ReadableSpan, began: int, before: str = "") -> Text:
    start, end = span.start_time or 0, span.end_time or 0
    text = Text.assemble((before, "dim"), span.name, (f"  {span.kind.name}", "dim"))
    return text.append(f"  +{(start - began) / 1e6:.1f} ms, {(end - start) / 1e6:.1f} ms", "dim")


def _id(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    return (0, 0) if context is None else (context.trace_id, context.span_id)
