"""The API reference: everything that is exported, described once, whichever page it is on.

- `{api} module ...` describes what these modules export. What several of them export is described
  by the first of `PLACES`, else by the innermost module.
- `{api-rest}` describes what none of `PLACES` exports.
- `{public-names}` lists every public module's names, with links to their descriptions.

Each name gets an entry of the inventory for every path by which it can be imported, so other
projects can link to it. A name that is exported and described nowhere is a warning.
"""

from __future__ import annotations

from functools import cache
from inspect import isclass, isroutine
from typing import Any, cast

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from docs._ext.source import public_names, resolve

log = logging.getLogger(__name__)

PLACES = (
    "events.errors",
    "events.domain",
    "events.domain.implementation.dishka",
    "events.domain.implementation.sqlalchemy",
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
    "events.recurring",
    "events.operations.schedules",
    "events.operations.tail",
    "events.contracts",
    "events.dashboard",
    "events.operations",
    "events.contracts",
    "events.testing",
    "events.testing.faults",
    "events.testing.contracts",
    "events.testing.contracts.harness",
    "events.testing.contracts.inbox",
    "events.testing.contracts.outbox",
    "events.testing.contracts.probe",
    "events.testing.contracts.properties",
    "events.testing.contracts.recurring",
    "events.testing.contracts.relays",
    "events.testing.contracts.schedules",
    "events.testing.contracts.sessions",
    "events.integration.transport",
    "events.integration.message",
    "events.integration.observation",
    "events.domain.observation",
    "events.opentelemetry",
)


@cache
def placed() -> dict[str, list[str]]:
    """Give each module the names that are described with it."""
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
            log.warning("%s is none of PLACES", module, location=self.get_location())
        return list(self.arguments)

    def title(self, module: str) -> str:  # noqa: ARG002 - for those that give one
        """Give what stands above a module."""
        return ""

    def run(self) -> list[nodes.Node]:
        """Have autodoc describe them."""
        parts = [
            self.title(module) + description(module, placed().get(module, []))
            for module in self.modules()
        ]
        return self.parse_text_to_nodes("```{eval-rst}\n" + "\n".join(parts) + "\n```\n")


class ApiRest(Api):
    """`{api-rest}`: see the module."""

    required_arguments = 0

    def modules(self) -> list[str]:
        """Give all modules that no page names."""
        return sorted(set(placed()) - set(PLACES))

    def title(self, module: str) -> str:
        """Give its name."""
        return f".. rubric:: ``{module}``\n\n"


def description(module: str, names: list[str]) -> str:
    """Write what describes these names: autodoc does classes and functions, we do the rest."""
    values = {name: resolve(f"{module}.{name}") for name in names}
    made = [name for name, value in values.items() if isclass(value) or isroutine(value)]
    members = f":members: {', '.join(made)}" if made else ":no-members:"
    lines = [f".. automodule:: {module}", f"   {members}", ""]
    package, _, last = module.rpartition(".")
    if last in dict(public_names()).get(package, ()):  # a function has the name of its module
        lines = []
        for name in made:
            kind, more = ("class", "   :members:") if isclass(values[name]) else ("function", "")
            lines += [f".. auto{kind}:: {module}::{name}", more, ""]
    for name in names:
        if name not in made:
            lines += [f".. py:data:: {name}", f"   :module: {module}"]
            if isinstance(values[name], str | int | float):
                lines.append(f"   :value: {' '.join(repr(values[name]).split())}")
            lines += ["", *(f"   {line}" for line in comment_of(name, values[name])), ""]
    return "\n".join(lines)


def comment_of(name: str, value: object) -> list[str]:
    """Give the string that stands below a definition, in whatever module that is."""
    for module, names in public_names():
        if name in names and resolve(f"{module}.{name}") is value:
            found = ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name))
            if found:
                return found
    return []


# --- every name -----------------------------------------------------------------------------------


class PublicNames(SphinxDirective):
    """`{public-names}`: see the module."""

    def run(self) -> list[nodes.Node]:
        """Make the list; its links are resolved when all pages are read."""
        result: list[nodes.Node] = []
        for module, names in public_names():
            line = nodes.paragraph(classes=["names"])
            for name in names:
                link = pending_xref(
                    "",
                    nodes.literal("", name),
                    reftype="public-name",
                    reftarget=f"{module}.{name}",
                    refdoc=self.env.docname,
                    refwarn=False,  # `note_names` warns
                )
                line += [nodes.Text(", " if len(line) else ""), link]
            result += [nodes.rubric("", "", nodes.literal("", module)), line]
        return result


def described(domain: PythonDomain) -> dict[str, str]:
    """Map each exported name to the full name under which the same object is described."""
    by_name: dict[str, list[str]] = {}
    for full, entry in domain.objects.items():
        if not entry.aliased and entry.objtype != "module":
            by_name.setdefault(full.rpartition(".")[2], []).append(full)
    found: dict[str, str] = {}
    for module, names in public_names():
        for name in names:
            full = f"{module}.{name}"
            value = resolve(full)
            same = [each for each in by_name.get(name, ()) if resolve(each) is value]
            if same:
                found[full] = full if full in same else same[0]
    return found


def note_names(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Give every exported name an entry of the inventory, and warn of those without a text."""
    domain = cast("PythonDomain", env.get_domain("py"))
    found = described(domain)
    for module, names in public_names():
        for full in (f"{module}.{name}" for name in names):
            if full in found:
                entry = domain.objects[found[full]]
                domain.objects.setdefault(full, entry._replace(aliased=True))
            else:
                log.warning("%s is exported, and no page describes it", full)
    app.connect("missing-reference", lambda *args: resolve_name(found, *args))
    return []


def resolve_name(
    found: dict[str, str],
    app: Sphinx,
    env: BuildEnvironment,
    node: pending_xref,
    child: nodes.Element,
) -> nodes.Element | None:
    """Link a name of the list to its description."""
    if node["reftype"] != "public-name" or node["reftarget"] not in found:
        return None
    entry = cast("PythonDomain", env.get_domain("py")).objects[found[node["reftarget"]]]
    uri = app.builder.get_relative_uri(node["refdoc"], entry.docname)
    return nodes.reference("", "", child, refuri=f"{uri}#{entry.node_id}", internal=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("api", Api)
    app.add_directive("api-rest", ApiRest)
    app.add_directive("public-names", PublicNames)
    app.connect("env-updated", note_names)
    return {"parallel_read_safe": False}
