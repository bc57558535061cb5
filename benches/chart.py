"""The picture of a run: every case's speed on every entrant, relative to asyncio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import loops
from lines import Line

COLOURS = {
    loops.CONTROL: "#7f7f7f",
    "uvloop": "#1f77b4",
    "rloop": "#9467bd",
    "zuvloop": "#2ca02c",
    "rsloop": "#8c564b",
    loops.SUBJECT: "#d62728",
    loops.SUBJECT_LOOP: "#ff9896",
    loops.FASTNET: "#17becf",
}
# What does not compete: limits and what one may know.
ASIDE = "#999999"
LINE_INCHES = 0.23
HEAD_INCHES = 1.4
WIDTH_INCHES = 10.0
FORMATS = ("svg", "png")
# Labelled in each power of ten.
TICKS = (1, 2, 5)


def relative(line: Line, entrant: str) -> float | None:
    """Return how many times better than asyncio an entrant is; where it failed, than us."""
    base = line.median(loops.CONTROL) or line.median(loops.SUBJECT)
    middle = line.median(entrant)
    return line.better(middle, base) if middle and base and line.metric.contested else None


def spread(line: Line, entrant: str) -> tuple[float, float]:
    """Return the least and the greatest round, relative as `relative` is."""
    middle, value = line.median(entrant), relative(line, entrant)
    assert middle
    assert value
    ratios = [each / middle for each in line.samples[entrant]]
    if not line.metric.higher_is_better:
        ratios = [1 / ratio for ratio in ratios]
    return value * min(ratios), value * max(ratios)


def draw_line(axes: Any, line: Line, height: int, seen: set[str]) -> None:
    """Draw one case: a mark for each entrant, a cross at the left for each that failed."""
    for entrant in (*line.samples, *line.failures):
        aside = entrant in line.beside
        colour = ASIDE if aside else COLOURS.get(entrant, "black")
        # Ours last, so that it is on top.
        order = 3 if entrant == loops.SUBJECT else 2
        label = None if entrant in seen else entrant
        value = relative(line, entrant)
        if value is not None:
            marker = "o" if not aside else "|" if entrant == line.limit() else "D"
            axes.hlines(height, *spread(line, entrant), color=colour, linewidth=1, alpha=0.6)
            size = 10 if marker == "|" else 5
            axes.plot(
                value, height, marker, color=colour, label=label, zorder=order, markersize=size
            )
        elif entrant in line.failures:
            where = axes.get_yaxis_transform()
            axes.plot(0.004, height, "x", color=colour, label=label, transform=where, clip_on=False)
        else:
            continue
        seen.add(entrant)


def draw(lines: Sequence[Line], title: str, path: Path) -> list[Path]:
    """Write the picture in every format; returns the files, none where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    # The same picture of the same run is the same file.
    matplotlib.rcParams["svg.hashsalt"] = "aioxide"
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullLocator

    figure, axes = pyplot.subplots(
        figsize=(WIDTH_INCHES, HEAD_INCHES + LINE_INCHES * len(lines)), layout="constrained"
    )
    axes.set_xscale("log")
    axes.axvline(1.0, color=COLOURS[loops.CONTROL], linewidth=0.8, zorder=1)
    seen: set[str] = set()
    for number, line in enumerate(lines):
        draw_line(axes, line, -number, seen)
    titles = [line.title.replace("`", "") for line in lines]
    axes.set_yticks([-number for number in range(len(lines))], titles)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_ylim(-len(lines) + 0.5, 0.5)
    # Few enough to be read where a late entrant stretches the axis.
    axes.xaxis.set_major_locator(LogLocator(subs=TICKS, numticks=100))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", which="both", labelsize=7)
    axes.grid(axis="x", which="both", linewidth=0.3)
    axes.set_xlabel("times as good as asyncio: right is better; crosses at the left failed")
    axes.set_title(title, fontsize=9)
    marks, names = axes.get_legend_handles_labels()
    by_name = dict(zip(names, marks, strict=True))
    ordered = [name for name in (*COLOURS, *sorted(set(names) - set(COLOURS))) if name in by_name]
    handles = [by_name[name] for name in ordered]
    figure.legend(handles, ordered, loc="outside upper center", ncols=6, fontsize=7, frameon=False)
    written = []
    for kind in FORMATS:
        target = Path(f"{path}.{kind}")
        figure.savefig(target, dpi=130, metadata={"Date": None} if kind == "svg" else None)
        written.append(target)
    pyplot.close(figure)
    return written
