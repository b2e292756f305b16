"""Where the boxes of the map stand: senders, topics and readers in three columns.

Events flow one way, so three columns are enough, and no general layout is needed: what a box is
joined to decides its place within its column, which keeps lines short and crossings few.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

WIDTH, HEIGHT, GAP, ACROSS, MARGIN = 220, 44, 14, 120, 10
_ROUNDS = 12


@dataclass(frozen=True)
class Box:
    """A box of the map, with a link."""

    id: str
    kind: str
    text: str
    below: str
    link: str
    x: int
    y: int


@dataclass(frozen=True)
class Line:
    """A line between two boxes, as the path of an SVG."""

    source: str
    target: str
    path: str


@dataclass(frozen=True)
class Map:
    """The map, and how large it is."""

    boxes: Sequence[Box]
    lines: Sequence[Line]
    width: int
    height: int
    box_width: int = WIDTH
    box_height: int = HEIGHT


def laid_out(
    columns: Sequence[Mapping[str, tuple[str, str, str, str]]], edges: Iterable[tuple[str, str]]
) -> Map:
    """Place boxes and draw the lines.

    Columns give boxes by their id: their kind, text, the text below it, and link.
    """
    joined: dict[str, set[str]] = defaultdict(set)
    pairs = sorted(set(edges))
    for source, target in pairs:
        joined[source].add(target)
        joined[target].add(source)
    orders = [sorted(column, key=column.__getitem__) for column in columns]
    _order(orders, joined)
    tallest = max((len(each) for each in orders), default=0)
    height = MARGIN * 2 + tallest * (HEIGHT + GAP) - (GAP if tallest else 0)
    boxes: dict[str, Box] = {}
    for index, (column, order) in enumerate(zip(columns, orders, strict=True)):
        # Spread over the whole height, as the others are: lines of long columns stay short.
        step = (height - 2 * MARGIN + GAP) / max(1, len(order))
        for place, each in enumerate(order):
            x = MARGIN + index * (WIDTH + ACROSS)
            y = MARGIN + round(step * (place + 0.5) - (HEIGHT + GAP) / 2)
            boxes[each] = Box(each, *column[each], x, y)
    lines = [Line(a, b, _path(boxes[a], boxes[b])) for a, b in pairs]
    width = MARGIN * 2 + len(columns) * WIDTH + (len(columns) - 1) * ACROSS
    return Map(list(boxes.values()), lines, width, height)


def _order(orders: Sequence[list[str]], joined: Mapping[str, set[str]]) -> None:
    """Sort each column by the mean place of what its boxes are joined to, back and forth."""
    for turn in range(_ROUNDS):
        steps = (
            list(pairwise(orders)) if turn % 2 == 0 else [(b, a) for a, b in pairwise(orders)][::-1]
        )
        for fixed, moved in steps:
            places = {each: place / max(1, len(fixed)) for place, each in enumerate(fixed)}
            now = {each: place / max(1, len(moved)) for place, each in enumerate(moved)}

            def mean(
                of: str, places: Mapping[str, float] = places, now: Mapping[str, float] = now
            ) -> float:
                found = [places[each] for each in joined.get(of, ()) if each in places]
                return sum(found) / len(found) if found else now[of]

            moved.sort(key=mean)


def _path(source: Box, target: Box) -> str:
    x1, y1 = source.x + WIDTH, source.y + HEIGHT // 2
    x2, y2 = target.x, target.y + HEIGHT // 2
    middle = (x1 + x2) // 2
    return f"M{x1},{y1} C{middle},{y1} {middle},{y2} {x2},{y2}"
