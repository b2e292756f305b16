"""How Sphinx builds these pages: `make docs`. Nothing is fetched, neither here nor by a reader."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

project = "events"
author = "The integration-events contributors"
project_copyright = author
release = version = version_of("integration-events")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docs._ext.api",
    "docs._ext.docstrings",
    "docs._ext.llms",
    "docs._ext.tables",
]
exclude_patterns = ["_ext", "style.md"]  # that is for contributors

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
default_role = "backticks"  # of docstrings: see _ext/docstrings.py

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {
    "undoc-members": True,
    "show-inheritance": True,
    "exclude-members": "inherit_cache",  # of SQLAlchemy, whose text is for itself
}
python_use_unqualified_type_names = True
maximum_signature_line_length = 80
napoleon_numpy_docstring = False
add_module_names = False
toc_object_entries_show_parents = "hide"  # the contents column is narrow

html_theme = "furo"
html_title = f"events {release}"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["events.css"]
html_copy_source = False
html_show_sourcelink = False
html_use_index = False  # reference/api/names.md is one that can be read
html_domain_indices = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
