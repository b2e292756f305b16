"""Every Python snippet of README.md and docs/ is run.

The snippets of one document share one namespace, from top to bottom, as a reader reads them. An
async snippet says `asyncio.run(main())` itself, as a reader would have to. A snippet that must
not run is fenced as `python no-run`, and a comment says why. The tutorial makes files of its
snippets: `tests/acceptance/test_tutorial.py` does what it says.
"""

from __future__ import annotations

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

pytest_collect_file = Sybil(
    parsers=[SkipParser(), PythonCodeBlockParser()],
    patterns=["README.md", "docs/*.md", "docs/**/*.md"],
    excludes=["docs/tutorial.md"],
    # Snippets are independent of the test suite's event loops and fixtures.
    fixtures=[],
).pytest()
