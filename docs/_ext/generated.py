"""Tables that the code fills, so that they cannot go stale.

`{options} path.of.Class` lists what its constructor takes, with defaults from the signature. What
an option means is taken from the body (`name: meaning`), else from the class's `Args:` or bullets,
or those of the class that `:meanings:` names; an option without a meaning is a warning, and so is a
meaning without an option.

`{log-lines} package ...` lists what the modules of these packages log, from their source.

`{api} module ...` describes what these modules export. Where several modules export one thing, it is
described once: by the first of `PLACES`, else by the module that defines it. `{api-rest}` describes
what is exported by none of `PLACES`.

`{public-names}` lists what every public module exports, and where it is described. A name that is
described nowhere is a warning.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, cast

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)

SRC = Path(__file__).parents[2] / "src"
ENTRY = re.compile(r"(?:- `(\w+)`|(\w+):)\s*(.*)")


def resolve(path: str) -> Any:
    """Import the longest module that the path begins with, and follow the rest."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(path)


def meanings(text: str) -> dict[str, str]:
    """Read `Args:` of a docstring, or bullets that begin with a name in backticks."""
    after = re.split(r"^Args:\n", text, flags=re.MULTILINE)
    lines = (after[1] if len(after) > 1 else text).splitlines()
    found: dict[str, str] = {}
    name = ""
    for line in lines:
        if len(after) > 1 and line and not line.startswith(" "):
            break
        entry = ENTRY.match(line.strip().lstrip("*"))
        indent = len(line) - len(line.lstrip())
        if entry and indent <= 4 and (len(after) > 1 or line.startswith("- ")):
            name = entry[1] or entry[2]
            found[name] = entry[3]
        elif name and line.strip():
            found[name] += " " + line.strip()
        elif not line.strip():
            name = ""
    if len(after) == 1:  # `name` is ...; its default.
        found = {name: re.sub(r";[^;]*\.$", ".", text) for name, text in found.items()}
        found = {name: re.sub(r"^(: |is |are )", "", text) for name, text in found.items()}
    return {name: text[:1].upper() + text[1:] for name, text in found.items()}


class Options(SphinxDirective):
    """`{options} path.of.Class`: see the module."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {
        "meanings": directives.unchanged,
        "leave-out": directives.unchanged,
    }

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        owner = resolve(self.arguments[0])
        left_out = self.options.get("leave-out", "").split()
        said = meanings(inspect.getdoc(resolve(self.options.get("meanings", self.arguments[0]))) or "")
        own = {}
        for line in self.content:
            name, colon, meaning = line.partition(":")
            if colon:
                own[name.strip()] = meaning.strip()
        parameters = {
            name: parameter
            for name, parameter in inspect.signature(owner).parameters.items()
            if parameter.kind is not parameter.VAR_KEYWORD and name not in left_out
        }
        for name in {*own, *left_out} - set(inspect.signature(owner).parameters):
            logger.warning("%s has no option %r", self.arguments[0], name, location=self.get_location())
        rows = ["| option | default | is |", "|---|---|---|"]
        for name, parameter in parameters.items():
            meaning = own.get(name) or said.get(name)
            if not meaning:
                logger.warning(
                    "%s: nothing says what %r means", self.arguments[0], name,
                    location=self.get_location(),
                )
            rows.append(f"| `{name}` | {shown(parameter)} | {(meaning or '').replace('|', chr(92) + '|')} |")
        return self.parse_text_to_nodes("\n".join(rows))


def shown(parameter: inspect.Parameter) -> str:
    """Show the default as one would write it."""
    default = parameter.default
    if default is inspect.Parameter.empty:
        return "required"
    if default == 1 << 20:
        return "`1 << 20`"
    return f"`{default!r}`"


class LogLines(SphinxDirective):
    """`{log-lines} package ...`: see the module."""

    required_arguments = 1
    optional_arguments = 20

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        rows = ["| level | line |", "|---|---|"]
        found = [line for package in self.arguments for line in logged(package)]
        if not found:
            logger.warning("%s log nothing", self.arguments, location=self.get_location())
        rows += [f"| {level} | `{text}` |" for level, text in found]
        return self.parse_text_to_nodes("\n".join(rows))


LEVELS = ("critical", "error", "warning", "info", "debug")
PLACEHOLDER = re.compile(r"%[-+0-9.,]*[a-z]")


def logged(package: str) -> list[tuple[str, str]]:
    """Give level and text of each call of a logger, gravest first."""
    path = SRC.joinpath(*package.split("."))
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="logger"), attr=level), args=args):
                    texts = [a.value for a in args if isinstance(a, ast.Constant)]
                    text = next((t for t in texts if isinstance(t, str)), None)
                    if text is None:
                        continue
                    if level == "log":  # a level that varies: at most this
                        level = "info" if "INFO" in ast.unparse(args[0]) else "warning"
                    level = "error" if level == "exception" else level
                    found.add((level, PLACEHOLDER.sub("…", text).replace("|", "/")))
                case _:
                    pass
    return sorted(
        ((level.upper(), text) for level, text in found),
        key=lambda line: (LEVELS.index(line[0].lower()), line[1]),
    )


PLACES = (
    "events.errors",
    "events.domain",
    "events.domain.implementation.dishka",
    "events.integration",
    "events.integration.health",
    "events.integration.implementation.base",
    "events.integration.implementation.memory",
    "events.integration.implementation.rabbitmq",
    "events.integration.implementation.redis",
    "events.integration.implementation.nats",
    "events.integration.implementation.sqlalchemy",
    "events.integration.implementation.dishka",
    "events.integration.outbox",
    "events.relay",
    "events.testing",
    "events.testing.faults",
    "events.testing.contracts",
    "events.testing.contracts.harness",
    "events.testing.contracts.outbox",
    "events.testing.contracts.probe",
    "events.testing.contracts.properties",
    "events.integration.transport",
    "events.integration.message",
)


@cache
def placed() -> dict[str, list[str]]:
    """Give each module the names that are described there, everything exactly once."""
    exported = dict(public_names())
    others = sorted(set(exported) - set(PLACES), key=lambda module: (-module.count("."), module))
    result: dict[str, list[str]] = {}
    seen: set[tuple[str, int]] = set()
    for module in (*PLACES, *others):
        for name in exported.get(module, ()):
            value = resolve(f"{module}.{name}")
            if (name, id(value)) not in seen:
                seen.add((name, id(value)))
                result.setdefault(module, []).append(name)
    return result


class Api(SphinxDirective):
    """`{api} module ...`: see the module."""

    required_arguments = 1
    optional_arguments = 40

    def modules(self) -> list[str]:
        """Give the modules to describe."""
        for module in set(self.arguments) - set(PLACES):
            logger.warning("%s is none of PLACES", module, location=self.get_location())
        return self.arguments

    def run(self) -> list[nodes.Node]:
        """Have autodoc describe them."""
        parts = [description(module, placed().get(module, [])) for module in self.modules()]
        return self.parse_text_to_nodes("```{eval-rst}\n" + "\n".join(parts) + "\n```\n")


class ApiRest(Api):
    """`{api-rest}`: see the module."""

    required_arguments = 0

    def modules(self) -> list[str]:
        """Give all modules that no page names."""
        return sorted(set(placed()) - set(PLACES))


def description(module: str, names: list[str]) -> str:
    """Write what describes these names: classes and functions by autodoc, the rest by hand."""
    values = {name: resolve(f"{module}.{name}") for name in names}
    made = [name for name, value in values.items() if inspect.isclass(value) or callable(value)]
    made = [name for name in made if not is_alias(values[name])]
    lines = [f".. automodule:: {module}", f"   :members: {', '.join(made)}", ""]
    if not made:
        lines[1] = "   :no-members:"
    for name in names:
        if name not in made:
            value = values[name]
            lines += ["", f".. py:data:: {name}", f"   :module: {module}"]
            if isinstance(value, str | int | float):
                lines.append(f"   :value: {' '.join(repr(value).split())}")
            lines += ["", *(f"   {line}" for line in comment_of(module, name)), ""]
    return "\n".join(lines)


def is_alias(value: object) -> bool:
    """Tell whether this is a type that was given another name, which autodoc would not describe."""
    return not (inspect.isclass(value) or inspect.isroutine(value))


def comment_of(module: str, name: str) -> list[str]:
    """Give the string that stands below the definition, in whatever module that is."""
    value = resolve(f"{module}.{name}")
    for other, names in public_names():
        if name in names and resolve(f"{other}.{name}") is value:
            found = ModuleAnalyzer.for_module(other).find_attr_docs().get(("", name))
            if found:
                return found
    return []


class PublicNames(SphinxDirective):
    """`{public-names}`: see the module."""

    def run(self) -> list[nodes.Node]:
        """Make a section's worth of tables; the links are made when all pages are read."""
        result: list[nodes.Node] = []
        for module, names in public_names():
            result.append(nodes.rubric("", "", nodes.literal("", module)))
            items = nodes.paragraph(classes=["names"])
            for position, name in enumerate(names):
                full = f"{module}.{name}"
                link = pending_xref(
                    "",
                    nodes.literal("", name),
                    refdomain="py",
                    reftype="public-name",
                    reftarget=full,
                    refdoc=self.env.docname,
                    refwarn=True,
                    refexplicit=True,
                )
                items += [nodes.Text(", " if position else ""), link]
                self.env.__dict__.setdefault("events_exported", {})[full] = self.env.docname
            result.append(items)
        return result


def public_names() -> Iterator[tuple[str, list[str]]]:
    """Give every public module with what its `__all__` lists."""
    for path in sorted(SRC.rglob("*.py")):
        module = ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")
        if "._" not in module:
            names: list[str] = getattr(import_module(module), "__all__", [])
            if names:
                yield module, sorted(names)


def described(env: BuildEnvironment) -> dict[str, str]:
    """Map each exported name to the full name under which the same object is described."""
    domain = cast("PythonDomain", env.get_domain("py"))
    by_name: dict[str, list[str]] = {}
    for full, entry in domain.objects.items():
        if not entry.aliased and entry.objtype != "module":
            by_name.setdefault(full.rpartition(".")[2], []).append(full)
    found: dict[str, str] = {}
    for module, names in public_names():
        for name in names:
            full = f"{module}.{name}"
            candidates = by_name.get(name, [])
            value = resolve(full)
            same = [each for each in candidates if resolve(each) is value]
            if same:
                found[full] = full if full in same else same[0]
    return found


def note_names(_app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Give every exported name an entry of the inventory, and warn of those that have no text."""
    exported: dict[str, str] = env.__dict__.get("events_exported", {})
    if not exported:
        return []
    domain = cast("PythonDomain", env.get_domain("py"))
    found = env.__dict__["events_described"] = described(env)
    for full, docname in exported.items():
        if full not in found:
            logger.warning("%s is exported, and no page describes it", full, location=docname)
            continue
        entry = domain.objects[found[full]]
        domain.objects.setdefault(full, entry._replace(aliased=True))
    return []


def resolve_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, child: nodes.Element
) -> nodes.reference | None:
    """Link a name of the list to its description."""
    if node["reftype"] != "public-name":
        return None
    target = env.__dict__.get("events_described", {}).get(node["reftarget"])
    if target is None:
        return None
    entry = cast("PythonDomain", env.get_domain("py")).objects[target]
    uri = app.builder.get_relative_uri(node["refdoc"], entry.docname)
    return nodes.reference("", "", child, refuri=f"{uri}#{entry.node_id}", internal=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("options", Options)
    app.add_directive("log-lines", LogLines)
    app.add_directive("api", Api)
    app.add_directive("api-rest", ApiRest)
    app.add_directive("public-names", PublicNames)
    app.connect("env-updated", note_names)
    app.connect("missing-reference", resolve_name)
    return {"parallel_read_safe": False}
