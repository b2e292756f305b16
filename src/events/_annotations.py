"""A class's own annotations, and a function's; some are taken out before `@dataclass` looks.

Until Python 3.13, and with `from __future__ import annotations` ever after, a class body leaves a
dict. Since 3.14 (PEP 649) it leaves a function, called when someone asks.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

if sys.version_info >= (3, 14):
    from annotationlib import Format, call_annotate_function, get_annotations

    _annotations = partial(get_annotations, format=Format.FORWARDREF)
    _signature = partial(inspect.signature, follow_wrapped=False, annotation_format=Format.STRING)
else:
    _annotations = inspect.get_annotations
    _signature = partial(inspect.signature, follow_wrapped=False)


def annotations_of(cls: type) -> Mapping[str, Any]:
    """Return a class's own annotations, as far as they can be evaluated now."""
    return _annotations(cls)


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature without evaluating its annotations, whose names may be undefined.

    A decorator takes what it takes, whatever the function inside of it needs.
    """
    return _signature(function)


def drop_annotations(cls: type, *names: str) -> None:
    """Take annotations out of a class."""
    # The dict itself: `get_annotations` gives a copy.
    written = cls.__dict__.get("__annotations__")  # noqa: RUF063
    if written is not None:
        for name in names:
            written.pop(name, None)
    elif sys.version_info >= (3, 14):
        evaluate: Callable[..., dict[str, Any]] | None = cls.__annotate__
        if evaluate is None:
            return

        def annotate(format: int, /) -> dict[str, Any]:
            if format == Format.VALUE_WITH_FAKE_GLOBALS:
                raise NotImplementedError(format)
            found = call_annotate_function(evaluate, Format(format), owner=cls)
            return {name: hint for name, hint in found.items() if name not in names}

        cls.__annotate__ = annotate
