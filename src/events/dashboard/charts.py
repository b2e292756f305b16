"""Small charts as the path of an SVG: the last minutes of a figure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

WIDTH, HEIGHT = 120, 32
_INSET = 2


class Chart(Struct, frozen=True, kw_only=True):
    """A line, the area below it, and what it says in words."""

    line: str
    area: str
    words: str


def chart(values: Sequence[float | None], words: str) -> Chart | None:
    """Draw values, the newest at the right; None where there are fewer than two."""
    known = [(index, each) for index, each in enumerate(values) if each is not None]
    if len(known) < 2:  # noqa: PLR2004 - a point is no line
        return None
    highest = max(each for _, each in known) or 1
    step = WIDTH / max(1, len(values) - 1)
    low, height = HEIGHT - _INSET, HEIGHT - 2 * _INSET
    points = [
        f"{round(index * step, 1):g},{round(low - height * each / highest, 1):g}"
        for index, each in known
    ]
    line = "M" + " L".join(points)
    start, end = points[0].partition(",")[0], points[-1].partition(",")[0]
    return Chart(line=line, area=f"{line} L{end},{HEIGHT} L{start},{HEIGHT} Z", words=words)
