"""Docstrings here are written as Markdown is; autodoc takes reStructuredText. This is between them.

- a block that is indented, or that draws with arrows, is shown as it stands;
- a table of pipes becomes a table;
- `name` links to what is documented under it, and is code where nothing is; in the pages' prose so
  do the names of classes and functions.

Sections such as `Args:` are napoleon's, which runs after this.
"""

from __future__ import annotations

import builtins
import re
from typing import Any, cast

from docutils import nodes
from docutils.parsers.rst.states import Inliner
from docutils.utils import unescape
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import ObjectEntry, PythonDomain
from sphinx.environment import BuildEnvironment

SECTION = re.compile(r"(Args|Raises|Returns|Yields):$")
DRAWN = re.compile(r"-->|──|---\^|^\s*[|^]\s*$", re.MULTILINE)
BUILTINS = frozenset(dir(builtins))
NAME = re.compile(r"[A-Za-z_][\w.]*")


def to_rst(lines: list[str]) -> list[str]:
    """Convert a docstring, given as lines without common indentation."""
    result: list[str] = []
    in_section = in_list = False
    for block in blocks(lines):
        first = block[0]
        indented = first.startswith(" ")
        if not indented:
            in_section = SECTION.match(first) is not None
            in_list = first.startswith("- ")
        if first.startswith("|"):
            result += table(block)
        elif indented and not in_section and not in_list:
            result += literal(block, first)
        elif not in_section and DRAWN.search("\n".join(block)):
            result += literal(["    " + line for line in block], "")
        else:
            result += block
        result.append("")
    return result


def blocks(lines: list[str]) -> list[list[str]]:
    """Split at blank lines; what is indented alike stays together over them."""
    found: list[list[str]] = []
    gap = True
    for line in lines:
        if not line.strip():
            gap = True
            continue
        joins = found and line.startswith("    ") and found[-1][0].startswith("    ")
        if gap and not joins:
            found.append([])
        elif gap:
            found[-1].append("")
        found[-1].append(line)
        gap = False
    return found


def literal(block: list[str], first: str) -> list[str]:
    """Show a block as it stands."""
    if DRAWN.search("\n".join(block)) or "├" in "\n".join(block):
        language = "text"
    else:
        language = "pycon" if first.lstrip().startswith(">>>") else "python"
    return [f".. code-block:: {language}", "", *block]


def table(block: list[str]) -> list[str]:
    """Convert a table of pipes, whose cells hold no pipe."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block]
    result = [".. list-table::", "   :header-rows: 1", ""]
    for first, *others in (rows[0], *rows[2:]):
        result += [f"   * - {first}", *(f"     - {cell}" for cell in others)]
    return result


def process(_app: Sphinx, *args: Any) -> None:
    """Convert in place, as autodoc asks."""
    lines: list[str] = args[-1]
    lines[:] = to_rst(lines)


def backticks(
    _role: str,
    rawtext: str,
    text: str,
    _lineno: int,
    inliner: Inliner,
    _options: dict[str, Any] | None = None,
    _content: list[str] | None = None,
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """Make `text` code, and a link if something of ours has that name."""
    shown = unescape(text)
    code = nodes.literal(rawtext, shown, classes=["py"])
    if not NAME.fullmatch(shown):
        return [code], []
    env = inliner.document.settings.env
    module, owner = (env.ref_context.get(f"py:{kind}") or "" for kind in ("module", "class"))
    return [link_to(shown, code, env, module=module, owner=owner)], []


def link_to(
    name: str, code: nodes.Element, env: BuildEnvironment, *, module: str = "", owner: str = ""
) -> pending_xref:
    """Make a link that `resolve` completes, when all pages are read."""
    link = pending_xref("", code, reftype="backticks", reftarget=name, refdoc=env.docname)
    link["refwarn"] = False
    link["module"], link["class"] = module, owner
    return link


def link_prose(app: Sphinx, doctree: nodes.document) -> None:
    """Link names in the prose of the pages, as those in docstrings are."""
    for code in list(doctree.findall(nodes.literal)):
        name = code.astext()
        inside = code.parent
        if NAME.fullmatch(name) and not isinstance(
            inside, nodes.reference | nodes.title | nodes.rubric | pending_xref
        ):
            code.replace_self(link_to(name, code.deepcopy(), app.env))


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, child: nodes.Element
) -> nodes.Element | None:
    """Link what one name alone can mean: a member of this class, or what has it here."""
    if node["reftype"] != "backticks":
        return None
    objects = cast("PythonDomain", env.get_domain("py")).objects
    name, module, owner = node["reftarget"], node["module"], node["class"]
    entry = objects.get(f"{module}.{owner}.{name}") or objects.get(f"{module}.{name}")
    if entry is None and "." in name:
        entry = objects.get(name) or only(objects, name)
    elif entry is None and (name[0].isupper() or "_" in name):  # not `send`, nor `upcast`
        entry = only(objects, name)
        if entry is not None and entry.objtype not in {"class", "exception", "function"}:
            entry = None
    if entry is None or entry.objtype == "module":
        return child
    uri = app.builder.get_relative_uri(node["refdoc"], entry.docname)
    return nodes.reference("", "", child, refuri=f"{uri}#{entry.node_id}", internal=True)


def unlink_builtins(_app: Sphinx, doctree: nodes.document) -> None:
    """Leave `type[...]` in a signature alone: ours is a `type` of another kind."""
    for link in list(doctree.findall(pending_xref)):
        if link.get("refdomain") == "py" and link["reftarget"] in BUILTINS:
            link.replace_self(nodes.Text(link["reftarget"]))


def only(objects: dict[str, ObjectEntry], name: str) -> ObjectEntry | None:
    """Give the one object whose full name ends so, if there is one."""
    found = {
        (entry.docname, entry.node_id): entry
        for full, entry in objects.items()
        if full.endswith(f".{name}") and not entry.aliased
    }
    return next(iter(found.values())) if len(found) == 1 else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_role("backticks", backticks)
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("doctree-read", unlink_builtins)
    app.connect("doctree-read", link_prose)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
