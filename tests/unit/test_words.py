"""The words of docs, docstrings, comments, messages and examples: see docs/style.md."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each with what to write instead.
BANNED = {
    r"\btold\b": "is logged, raises, is notified, is distinguished",
    r"\bby and by\b": "later, gradually",
    r"\bthe dead's\b": "of processes that died",
    r"\b(has|have|had) it done\b": "does it",
    r"\bgraveyard|\bexhume|\broster\b": "dead letters, registry",
    r"\bfor want of\b": "because there is no",
    r"\bwithout a word\b": "silently, without an outcome",
    r"\bof late\b": "recently, recent",
    r"\btries on\b": "retries",
    r"\b(comes?|came) again\b": "is redelivered, is repeated",
    r"\bwhat became of\b": "the outcome of, what happened to",
    r"\banew\b": "again, from the start",
    r"\b(at|in) hand\b": "buffered, held, in flight",
    r"\bone's own\b|\bof theirs\b": "your own",
    r"\bbears? (a|the|its|this|that|no|message|one)\b": "has",
    r"\bwhither\b|\bthereof\b|\bnought\b|\bherein\b": "plain words",
    r"\bwhoever\b": "the caller, the sender, an operator",
    r"\bin vain\b": "cannot help, has no effect",
    r"\bas nearly always\b": "as usual, the usual case",
    r"\blets? go of\b": "releases",
    r"\bat work\b": "running, live",
    r"\bto oneself\b|\bas it likes\b": "exclusive, without a limit",
    r"\bcome to (their|its|an) end\b": "finish, end",
    r"died again|dies? again(?! and again)": "failed again",
    r"take it for handled|taken for handled": "counts as handled",
    r"\bis no (classmethod|URL|number|driver|verb|lock file|event|string)\b": "is not a",
    r"where an? [a-z, -]+ is needed": "must be a ..., not ...",
    r"of another layout": "has another layout",
}

# They name the banned phrases.
_EXEMPT = {"docs/style.md", "tests/unit/test_words.py"}


def _files() -> list[str]:
    listed = subprocess.run(
        [
            "git",
            "ls-files",
            "src",
            "docs",
            "examples",
            "tests",
            "typing_tests",
            "benchmarks",
            "README.md",
            "CHANGELOG.md",
            "CONTRIBUTING.md",
            "SECURITY.md",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    return [
        name for name in listed if name.endswith((".py", ".md", ".html")) and name not in _EXEMPT
    ]


def _found(text: str) -> list[str]:
    """Find phrases on one line or over the end of one, where a comment may begin again."""
    return [
        f"{text.count(chr(10), 0, found.start()) + 1}: {found[0]!r} (write: {cure})"
        for phrase, cure in BANNED.items()
        for found in re.finditer(phrase.replace(" ", r"[\s#]+"), text, re.IGNORECASE)
    ]


def test_there_are_files_to_look_at() -> None:
    assert {"README.md", "docs/index.md", "src/events/errors.py"} <= set(_files())


@pytest.mark.parametrize(
    "phrase",
    ["It is told as an error", "comes by and\nby", "the dead's", "# it comes\n    # again"],
)
def test_a_banned_phrase_is_found(phrase: str) -> None:
    assert _found(f"fine\n{phrase}\n")


def test_no_banned_phrase_is_left() -> None:
    found = [
        f"{name}:{line}"
        for name in _files()
        for line in _found((ROOT / name).read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)
