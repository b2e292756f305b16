"""Tables that the code fills, so that they cannot go stale.

- `{options} path.of.Class` lists what its constructor takes, with the defaults of the signature.
  What an option means is taken from the body (`name: meaning`), else from the `Args:` or the
  bullets of the class's docstring, or of the one that `:meanings:` names.
- `{columns} path.of.function table` lists the columns of a table that the function adds to a
  `MetaData`, each with its meaning from the body.
- `{telemetry} spans`, `attributes` or `metrics` lists what `events.opentelemetry` makes.
- `{log-lines} package ...` lists what the modules of these packages log, from their source.

Something without a meaning is a warning, and so is a meaning of something that is not there.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sqlalchemy import MetaData

from docs._ext.source import SRC, resolve
from events.integration.implementation.opentelemetry import conventions

log = logging.getLogger(__name__)

LEVELS = ("critical", "error", "warning", "info", "debug")
PLACEHOLDER = re.compile(r"%[-+0-9.,]*[a-z]")
ARGUMENT = re.compile(r" {4}\*{0,2}(\w+): (.*)")
BULLET = re.compile(r"- `(\w+)`(?::| is| are)? ?(.*)")
ITS_DEFAULT = re.compile(r" Default [^,]*\.$")  # which the signature shows


class FilledTable(SphinxDirective):
    """Base of the tables: rows of Markdown."""

    has_content = True

    def table(self, head: str, rows: list[tuple[str, ...]]) -> list[nodes.Node]:
        """Make the table."""
        if not rows:
            self.warn("the table is empty")
        lines = [head, "|---" * (head.count("|") - 1) + "|"]
        lines += [
            "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows
        ]
        return self.parse_text_to_nodes("\n".join(lines))

    def meanings(self) -> dict[str, str]:
        """Read the body."""
        return dict(line.split(": ", 1) for line in self.content if ": " in line)

    def warn(self, text: str) -> None:
        """Warn, which is an error where warnings are."""
        log.warning("%s: %s", " ".join(self.arguments), text, location=self.get_location())


class Options(FilledTable):
    """`{options} path.of.Class`: see the module."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Callable[[str], Any]] | None] = {
        "meanings": directives.unchanged,
        "leave-out": directives.unchanged,
    }

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        (path,) = self.arguments
        left_out = self.options.get("leave-out", "").split()
        text = inspect.getdoc(resolve(self.options.get("meanings", path))) or ""
        said = meanings_in(text) | self.meanings()
        parameters = inspect.signature(resolve(path)).parameters
        for name in {*self.meanings(), *left_out} - set(parameters):
            self.warn(f"there is no option {name!r}")
        rows: list[tuple[str, ...]] = []
        for name, parameter in parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD or name in left_out:
                continue
            if name not in said:
                self.warn(f"nothing says what {name!r} means")
            rows.append((f"`{name}`", default_of(parameter), said.get(name, "")))
        return self.table("| option | default | is |", rows)


def meanings_in(docstring: str) -> dict[str, str]:
    """Read `Args:`, or bullets that begin with a name in backticks."""
    _, has_args, section = docstring.partition("\nArgs:\n")
    entry = ARGUMENT if has_args else BULLET
    found: dict[str, str] = {}
    name = ""
    for line in (section or docstring).splitlines():
        begins = entry.match(line)
        if begins:
            name, found[begins[1]] = begins[1], begins[2]
        elif name and line.startswith(" "):
            found[name] += f" {line.strip()}"
        elif line.strip() and has_args:
            break
        else:
            name = ""
    if not has_args:
        found = {name: ITS_DEFAULT.sub("", text) for name, text in found.items()}
    return {name: text[:1].upper() + text[1:] for name, text in found.items()}


def default_of(parameter: inspect.Parameter) -> str:
    """Show the default as one would write it."""
    if parameter.default is inspect.Parameter.empty:
        return "required"
    if parameter.default == 1 << 20:
        return "`1 << 20`"
    return f"`{parameter.default!r}`"


class Columns(FilledTable):
    """`{columns} path.of.function table`: see the module."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        function, name = self.arguments
        metadata = MetaData()
        resolve(function)(metadata)
        columns = metadata.tables[name].columns
        said = self.meanings()
        for odd in set(said) ^ set(columns.keys()):
            self.warn(f"the column {odd!r} is not there, or nothing says what it holds")
        rows: list[tuple[str, ...]] = []
        for column in columns:
            kind = str(column.type).lower().replace("varchar", "text").replace("blob", "bytes")
            null = ", or NULL" if column.nullable else ""
            rows.append((f"`{column.name}`", kind + null, said.get(column.name, "")))
        return self.table("| column | type | holds |", rows)


class LogLines(FilledTable):
    """`{log-lines} package ...`: see the module."""

    required_arguments = 1
    optional_arguments = 20

    def run(self) -> list[nodes.Node]:
        """Make the table, gravest lines first."""
        found = {line for package in self.arguments for line in logged(package)}
        rows = sorted(found, key=lambda line: (LEVELS.index(line[0]), line[1]))
        return self.table(
            "| level | line |", [(level.upper(), f"`{text}`") for level, text in rows]
        )


class Telemetry(FilledTable):
    """`{telemetry} spans|attributes|metrics`: see the module."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        (what,) = self.arguments
        if what == "spans":
            spans = [(f"`{s.name}`", s.kind, s.when, s.links) for s in conventions.SPANS]
            return self.table("| span | kind | when | links to |", [*spans])
        if what == "attributes":
            rows = [(f"`{name}`", holds) for name, holds in conventions.ATTRIBUTES.items()]
            return self.table("| attribute | holds |", [*rows])
        metrics = [
            (
                f"`{metric.name}`",
                metric.instrument,
                f"`{metric.unit}`",
                metric.description,
                ", ".join(f"`{name}`" for name in metric.attributes),
            )
            for metric in conventions.METRICS
        ]
        return self.table("| metric | instrument | unit | is | attributes |", [*metrics])


def logged(package: str) -> Iterator[tuple[str, str]]:
    """Give level and text of each call of a logger in a package, or a module."""
    path = SRC.joinpath(*package.split("."))
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="logger"), attr=level)) if (
                    level in {*LEVELS, "exception", "log"}
                ):
                    texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                    text = next((text for text in texts if isinstance(text, str)), "")
                    if level == "log":  # at a level that varies: at most this
                        level = "info" if "INFO" in ast.unparse(node.args[0]) else "warning"
                    yield "error" if level == "exception" else level, PLACEHOLDER.sub("…", text)
                case _:
                    pass


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("options", Options)
    app.add_directive("columns", Columns)
    app.add_directive("log-lines", LogLines)
    app.add_directive("telemetry", Telemetry)
    return {"parallel_read_safe": True}
