"""Draw how cost grows, one small picture for each question.

python -m benchmarks.plots      draws what benchmarks/results/scaling.json has
"""

from __future__ import annotations

from itertools import groupby

import matplotlib as mpl
from matplotlib import pyplot as plt

from benchmarks import results
from benchmarks.measuring import Figure

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "events"  # the same picture is the same file
mpl.rcParams["svg.fonttype"] = "none"


def draw(figures: list[Figure]) -> None:
    """Draw a picture for each question, with a line for each bus that it was asked of."""
    for question, members in groupby(figures, key=lambda figure: figure.group.partition(", ")[0]):
        rows = list(members)
        metric = (
            "CPU µs" if "CPU µs" in rows[0].rounds and "at once" not in question else "per second"
        )
        picture, axes = plt.subplots(figsize=(4.5, 3))
        for where, points in groupby(rows, key=lambda figure: figure.group.partition(", ")[2]):
            line = list(points)
            sizes = [float(point.contestant.replace(",", "")) for point in line]
            axes.plot(sizes, [point.median(metric) for point in line], marker="o", label=where)
        axes.set_xscale("log")
        axes.set_xlabel(question)
        axes.set_ylabel(f"{metric} per event" if metric == "CPU µs" else f"events {metric}")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize="small")
        axes.grid(visible=True, alpha=0.3)
        picture.tight_layout()
        path = results.FOLDER / f"scaling-{question.replace(' ', '-')}.svg"
        picture.savefig(path, metadata={"Date": None})
        plt.close(picture)
        print(f"drawn: {path.name}")


def main() -> None:
    draw(results.load("scaling"))


if __name__ == "__main__":
    main()
