"""The panels of a part as one picture, by matplotlib."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np

from gvae import plots
from gvae.panels import Bars, Histogram, Images, Lines, Matrix, Panel, Points, Sentences, Table, Text
from gvae.report.exhibit import Exhibit
from gvae.report.parts import PARTS

__all__ = ["draw"]

SMALL = "small"  # the size of the titles of panels
SIZES: dict[type, tuple[float, float]] = {Matrix: (2.6, 2.6)}  # inches; of all others:
USUAL = (3.2, 2.4)
LETTERS = 110  # in a line of a sentence
WIDE = (Images, Table, Sentences)  # each in a row of its own
ALONE = 1.9  # by how much a panel grows that is the only one
INK = {"fontsize": 7, "color": "0.4"}


def draw(exhibit: Exhibit, name: str, path: str | os.PathLike) -> bool:
    """Draw a part of a run, or note in `exhibit.reasons` why it cannot be drawn.

    Parameters
    ----------
    exhibit : Exhibit
    name : str
        A key of `PARTS`.
    path : path
        The picture; its extension is the format, such as .png, .svg or .pdf.

    Returns
    -------
    bool
        Whether it was drawn.

    Raises
    ------
    DependencyError
        matplotlib is not installed.
    RunError
        The file cannot be written.
    """
    part = PARTS[name]
    if panels := exhibit.panels(name, part):
        picture(Path(path), panels, min(part.columns, len(panels)), f"{exhibit.name}: {part.title}")
    return bool(panels)


def picture(path: Path, panels: Sequence[Panel], columns: int, title: str) -> None:
    """Write panels in rows of `columns`."""
    rows: list[list[Panel]] = [[]]
    for panel in panels:
        if len(rows[-1]) == columns or any(isinstance(p, WIDE) for p in (panel, *rows[-1])):
            rows.append([])
        rows[-1].append(panel)
    rows = [row for row in rows if row]
    sizes = [[_size(panel, len(panels) == 1) for panel in row] for row in rows]
    widths, heights = [sum(w for w, _ in row) for row in sizes], [max(h for _, h in row) for row in sizes]
    figure = plots.new_figure(max(widths) + 0.2, sum(heights) + 0.35)
    figure.suptitle(_short(title, 90), fontsize="medium")
    grid = figure.add_gridspec(len(rows), 1, height_ratios=heights)
    for place, row, own in zip(grid, rows, sizes, strict=True):
        blank = max(widths) - sum(w for w, _ in own)  # a last row that is not full leaves the rest empty
        ratios = [w for w, _ in own] + ([blank] if blank > 0.1 and not isinstance(row[0], WIDE) else [])
        for panel, cell in zip(row, place.subgridspec(1, len(ratios), width_ratios=ratios), strict=False):
            axis = figure.add_subplot(cell)
            axis.tick_params(labelsize=7)
            axis.set_title("\n".join(textwrap.wrap(_short(panel.title, 200), 60)), fontsize=SMALL)
            _panel(panel, axis)
    plots.write_figure(figure, path)


def _size(panel: Panel, alone: bool) -> tuple[float, float]:
    """Width and height in inches."""
    match panel:
        case Images():
            n = panel.columns or max(len(row) for row in panel.rows.values())
            rows = len(panel.rows) if panel.columns is None else -(-len(next(iter(panel.rows.values()))) // panel.columns)
            width = min(0.62, 9 / n) * n
            return width + 0.085 * max(map(len, panel.rows)), width / n * rows * panel.shape[0] / panel.shape[1] + 0.2
        case Text():
            lines = panel.text.splitlines()
            return 0.066 * max(map(len, lines)), 0.13 * len(lines) + 0.3
        case Sentences():
            return 6.0, 0.14 * len(_wrapped(panel)) + 0.3
        case Table():
            return 1.9 * len(panel.heading), 0.19 * (len(panel.rows) + 2)
    width, height = SIZES.get(type(panel), USUAL)
    return (ALONE * width, ALONE * height) if alone else (width, height)


def _short(text: str, length: int) -> str:
    """For the canvas, where $ would begin a formula."""
    return text.replace("$", r"\$")[:length]


@singledispatch
def _panel(panel: Any, axis: Any) -> None:
    raise NotImplementedError(type(panel).__name__)


@_panel.register
def _(panel: Lines, axis: Any) -> None:
    for line in panel.lines:
        style = {"linewidth": 0.8, "alpha": 0.6} if line.thin else {"linewidth": 1.4 if line.name else 0.9}
        marker = "o" if len(line.x) == 1 else ""
        axis.plot(line.x, line.y, color=f"C{line.colour % 10}", marker=marker, label=line.name or None, **style)
    axis.set(xlabel=panel.x, ylabel=panel.y)
    if panel.span:
        axis.set_ylim(*panel.span)
    if panel.x in ("epoch", "variable"):
        axis.xaxis.get_major_locator().set_params(integer=True)
    axis.spines[["top", "right"]].set_visible(False)
    for kind in dict.fromkeys(text for _, text in panel.marks):
        places = [place for place, text in panel.marks if text == kind]
        axis.vlines(places, 0, 1, transform=axis.get_xaxis_transform(), color="0.6", linewidth=0.6, linestyle=":")
        axis.annotate(kind, (places[0], 0.02), xycoords=axis.get_xaxis_transform(), rotation=90, **INK)
    _legend(axis)


@_panel.register
def _(panel: Histogram, axis: Any) -> None:
    for i, (name, heights) in enumerate(panel.heights.items()):
        axis.stairs(heights, panel.edges, fill=i == 0, alpha=0.6 if i == 0 else 1, color=f"C{i}", label=_short(name, 30))
    axis.set(xlabel=panel.x, ylabel=panel.y)
    _legend(axis)


@_panel.register
def _(panel: Points, axis: Any) -> None:
    groups = np.zeros(len(panel.x), int) if panel.groups is None else np.asarray(panel.groups)
    names = np.unique(groups)
    for i, name in enumerate(names):
        own = groups == name
        colour = f"C{i}" if len(names) <= 10 else None
        axis.plot(panel.x[own], panel.y[own], ".", markersize=3, alpha=0.7, color=colour, label=_short(str(name), 20))
    if panel.diagonal:
        ends = [min(panel.x.min(), panel.y.min()), max(panel.x.max(), panel.y.max())]
        axis.plot(ends, ends, color="0.6", linewidth=0.7)
    axis.set(xlabel=panel.across, ylabel=panel.up)
    if panel.groups is not None:
        axis.legend(frameon=False, fontsize=7, markerscale=2, loc="center left", bbox_to_anchor=(1, 0.5))


@_panel.register
def _(panel: Bars, axis: Any) -> None:
    places = np.arange(len(panel.heights))
    faint = np.zeros(len(places), bool) if panel.faint is None else panel.faint
    axis.bar(places, panel.heights, color=np.where(faint, "0.75", "C0"))
    axis.set_xticks(places if len(places) <= 64 else [], panel.names if len(places) <= 64 else [], fontsize=6)
    axis.set_ylabel(panel.y)


@_panel.register
def _(panel: Matrix, axis: Any) -> None:
    limit = np.abs(panel.values).max() if panel.limit is None else panel.limit
    if panel.counts:
        axis.imshow(np.log1p(panel.values), cmap="Blues")
        for (i, j), n in np.ndenumerate(panel.values) if len(panel.values) <= 20 else ():
            if n:
                colour = "white" if n > limit / 4 else "black"
                axis.text(j, i, f"{n:g}", ha="center", va="center", fontsize=7, color=colour)
    else:
        axis.imshow(panel.values, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest", aspect="auto")
    for side, names in ((axis.xaxis, panel.columns), (axis.yaxis, panel.rows)):
        shown = [_short(name, 12) for name in names] if len(names) <= 20 else []
        side.set_ticks(range(len(shown)), shown)
    if max(map(len, panel.columns), default=0) > 3:
        axis.tick_params(axis="x", rotation=90)


@_panel.register
def _(panel: Images, axis: Any) -> None:
    n = panel.columns or max(len(row) for row in panel.rows.values())
    stacked = np.concatenate([np.asarray(row) for row in panel.rows.values()])
    plots.show_images(axis, plots.image_grid(stacked, panel.shape, n))
    if panel.columns is None:
        places = [(i + 0.5) * (panel.shape[0] + 1) - 1 for i in range(len(panel.rows))]
        axis.set_yticks(places, [_short(name, 30) for name in panel.rows])
        axis.tick_params(axis="y", length=0)


@_panel.register
def _(panel: Table, axis: Any) -> None:
    axis.set_axis_off()
    cells = [[_short(cell, 40) for cell in row] for row in panel.rows]
    table = axis.table(cells, colLabels=[_short(name, 40) for name in panel.heading], bbox=(0, 0, 1, 1), cellLoc="left")
    table.auto_set_font_size(False)
    table.set_fontsize(6.5)


@_panel.register
def _(panel: Text, axis: Any) -> None:
    axis.set_axis_off()
    axis.text(0, 1, _short(panel.text, 10_000), family="monospace", fontsize=6.5, va="top").set_in_layout(False)


@_panel.register
def _(panel: Sentences, axis: Any) -> None:
    axis.set_axis_off()
    axis.text(0, 1, _short("\n".join(_wrapped(panel)), 10_000), fontsize=7, va="top").set_in_layout(False)


def _wrapped(panel: Sentences) -> list[str]:
    return [line for text in panel.texts for line in textwrap.wrap(text, LETTERS)]


def _legend(axis: Any) -> None:
    if axis.get_legend_handles_labels()[1]:
        axis.legend(frameon=False, fontsize=7)
