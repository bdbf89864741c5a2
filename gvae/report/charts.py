"""Panels as Bokeh's figures: for the page, where they can be panned, and tell values on hover."""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import numpy as np

from gvae.panels import Bars, Histogram, Lines, Matrix, Points
from gvae.report.embed import image_uri

__all__ = ["chart"]

COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
DIVERGING = ("#2166ac", "#67a9cf", "#d1e5f0", "#f7f7f7", "#fddbc7", "#ef8a62", "#b2182b")
GREY = "#8a8a8a"
HEIGHT, LARGE = 260, 420  # pixels
MOST_NAMES = 40  # along an axis
WIDEST = 560  # pixels of a matrix


@singledispatch
def chart(panel: Any) -> Any:
    """The figure of a panel that is one. TypeError for others, which are images, tables and texts."""
    raise TypeError(f"{type(panel).__name__} is not a chart")


def _new(x: str, y: str, height: int = HEIGHT, **given: Any) -> Any:
    from bokeh.models import PlainText
    from bokeh.plotting import figure

    fig = figure(
        height=height,
        sizing_mode="stretch_width",
        x_axis_label=PlainText(text=x),  # a plain text: no formula is looked for in it
        y_axis_label=PlainText(text=y),
        tools="pan,box_zoom,wheel_zoom,reset,save",
        toolbar_location="above",
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        **given,
    )
    fig.toolbar.logo, fig.toolbar.autohide = None, True
    return fig


def _hover(fig: Any, renderers: Any, tooltips: Any) -> None:
    from bokeh.models import HoverTool

    fig.add_tools(HoverTool(renderers=list(renderers), tooltips=tooltips))


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _finish(fig: Any) -> Any:
    if fig.legend:
        legend = fig.legend[0]
        if legend in fig.center:  # not placed yet: above, where it hides nothing
            short = sum(len(item.label.value) for item in legend.items) < 36
            fig.add_layout(legend, "above")
            legend.orientation = "horizontal" if short else "vertical"
            fig.height += 22 * (1 if short else len(legend.items))
        fig.legend.background_fill_alpha, fig.legend.border_line_alpha = 0.0, 0.0
        fig.legend.label_text_font_size, fig.legend.spacing, fig.legend.padding = "11px", 0, 2
        fig.legend.click_policy = "hide"
    return fig


@chart.register
def _(panel: Lines) -> Any:
    from bokeh.models import ColumnDataSource

    given: dict[str, Any] = {} if panel.span is None else {"y_range": panel.span}
    fig = _new(panel.x, panel.y, **given)
    drawn = []
    for line in panel.lines:
        named = {"legend_label": line.name} if line.name else {}
        style = {"color": _colour(line.colour), "alpha": 0.6 if line.thin else 1.0, **named}
        data = ColumnDataSource({"x": np.asarray(line.x, float), "y": np.asarray(line.y, float)})
        draw = fig.scatter if len(line.x) == 1 else fig.line
        drawn.append(draw("x", "y", source=data, **style, **({"size": 8} if len(line.x) == 1 else {"width": 1.5})))
    if panel.marks:
        fig.vspan(x=[x for x, _ in panel.marks], line_color=GREY, line_dash="dotted")
        places = ColumnDataSource({"x": [x for x, _ in panel.marks], "text": [text for _, text in panel.marks]})
        low = panel.span[0] if panel.span else min(float(np.min(line.y)) for line in panel.lines)
        marks = fig.scatter("x", low, source=places, marker="triangle", size=9, color=GREY)
        _hover(fig, [marks], [(panel.x, "@x"), ("event", "@text")])
    _hover(fig, drawn, [(panel.x or "x", "@x{0,0.[000]}"), (panel.y or "y", "@y{0,0.[000]}")])
    return _finish(fig)


@chart.register
def _(panel: Histogram) -> Any:
    from bokeh.models import ColumnDataSource

    fig, drawn = _new(panel.x, panel.y), []
    left, right = panel.edges[:-1], panel.edges[1:]
    for i, (name, heights) in enumerate(panel.heights.items()):
        data = ColumnDataSource({"left": left, "right": right, "top": np.asarray(heights, float)})
        filled = {"fill_alpha": 0.5 if i == 0 else 0.0, "line_alpha": 0.0 if i == 0 else 1.0, "line_width": 1.5}
        box = {"left": "left", "right": "right", "top": "top", "bottom": 0, "color": _colour(i)}
        drawn.append(fig.quad(**box, source=data, legend_label=name, **filled))
    _hover(fig, drawn, [("from", "@left{0.[000]}"), ("to", "@right{0.[000]}"), (panel.y, "@top{0,0.[000]}")])
    return _finish(fig)


@chart.register
def _(panel: Points) -> Any:
    from bokeh.models import ColumnDataSource

    fig = _new(panel.across, panel.up, HEIGHT if panel.diagonal else LARGE)
    groups = np.full(len(panel.x), "") if panel.groups is None else np.asarray(panel.groups)
    names, columns = np.unique(groups), {f"about{i}": np.asarray(texts) for i, texts in enumerate(panel.about.values())}
    tips = "".join(f"<div>{html.escape(name)}: @about{i}</div>" for i, name in enumerate(panel.about))
    if panel.groups is not None:
        columns["group"], tips = groups, "<div>@group</div>" + tips
    if panel.images is not None and panel.shape is not None:
        columns["image"] = np.array([image_uri(row.reshape(panel.shape)) for row in panel.images])
        tips += "<img src='@image' width='56' style='image-rendering: pixelated' alt=''>"
    drawn = []
    for i, name in enumerate(names):
        own = groups == name
        data = ColumnDataSource({"x": panel.x[own], "y": panel.y[own]} | {n: c[own].tolist() for n, c in columns.items()})
        named = {"legend_label": str(name)} if panel.groups is not None else {}
        drawn.append(fig.scatter("x", "y", source=data, size=5, alpha=0.7, color=_colour(i), line_color=None, **named))
    if panel.diagonal:
        ends = [float(min(panel.x.min(), panel.y.min())), float(max(panel.x.max(), panel.y.max()))]
        fig.line(ends, ends, color=GREY, width=1)
    _hover(fig, drawn, tips or [("value", "@x{0,0.[000]}"), ("mean", "@y{0,0.[000]}")])
    if panel.groups is not None:
        fig.add_layout(fig.legend[0], "right")
    return _finish(fig)


@chart.register
def _(panel: Bars) -> Any:
    from bokeh.models import ColumnDataSource

    places = np.arange(len(panel.names))
    faint = np.zeros(len(places), bool) if panel.faint is None else panel.faint
    fig = _new("", panel.y)
    colours = [GREY if f else COLOURS[0] for f in faint]
    data = {"x": places, "name": list(panel.names), "top": np.asarray(panel.heights, float), "colour": colours}
    drawn = fig.vbar("x", top="top", width=0.8, color="colour", source=ColumnDataSource(data))
    _name_ticks(fig.xaxis, panel.names, places)
    fig.y_range.start = min(0.0, float(np.min(panel.heights)))
    _hover(fig, [drawn], [("variable", "@name"), (panel.y, "@top{0.[000]}")])
    return _finish(fig)


@chart.register
def _(panel: Matrix) -> Any:
    from bokeh.models import ColumnDataSource, LinearColorMapper
    from bokeh.palettes import Blues256

    n, m = panel.values.shape
    limit = float(np.abs(panel.values).max() if panel.limit is None else panel.limit) or 1.0
    values = np.log1p(panel.values) if panel.counts else panel.values
    colours = LinearColorMapper(
        palette=Blues256[::-1] if panel.counts else list(_blended(DIVERGING, 255)),
        low=0.0 if panel.counts else -limit,
        high=float(values.max()) if panel.counts else limit,
    )
    fig = _new("", "", max(HEIGHT, 60 + 22 * len(panel.rows)), x_range=(0, m), y_range=(n, 0))
    row, column = np.divmod(np.arange(n * m), m)
    names = {axis: [str(name) for name in given] for axis, given in (("rows", panel.rows), ("columns", panel.columns))}
    data = {"x": column + 0.5, "y": row + 0.5, "value": panel.values.ravel(), "shade": values.ravel()}
    data |= {"row": [names["rows"][i] if names["rows"] else str(i) for i in row]}
    data |= {"column": [names["columns"][j] if names["columns"] else str(j) for j in column]}
    cell = {"width": 1, "height": 1, "line_color": None, "fill_color": {"field": "shade", "transform": colours}}
    drawn = fig.rect("x", "y", source=ColumnDataSource(data), **cell)
    if panel.counts and n <= 20:
        seen = panel.values.ravel() > 0
        dark = values.ravel()[seen] > 0.7 * values.max()
        texts = {"x": column[seen] + 0.5, "y": row[seen] + 0.5, "text": [f"{v:g}" for v in panel.values.ravel()[seen]]}
        texts["colour"] = ["white" if d else "#222222" for d in dark]
        where = {"text_align": "center", "text_baseline": "middle", "text_font_size": "11px", "text_color": "colour"}
        fig.text("x", "y", text="text", source=ColumnDataSource(texts), **where)
    _name_ticks(fig.xaxis, names["columns"], np.arange(m) + 0.5)
    _name_ticks(fig.yaxis, names["rows"], np.arange(n) + 0.5)
    if any(len(name) > 3 for name in names["columns"]):
        fig.xaxis.major_label_orientation = "vertical"
    fig.grid.visible, fig.max_width = False, WIDEST
    _hover(fig, [drawn], [("row", "@row"), ("column", "@column"), ("value", "@value{0.[0000]}")])
    return _finish(fig)


def _name_ticks(axis: Any, names: Sequence[str], places: np.ndarray) -> None:
    """A name at each place; no axis without names, or with too many to read."""
    axis.visible, axis.major_tick_line_color = 0 < len(names) <= MOST_NAMES, None
    axis.ticker = places.tolist()
    axis.major_label_overrides = {place: name[:16] for place, name in zip(places.tolist(), names, strict=False)}


def _blended(colours: tuple[str, ...], n: int) -> list[str]:
    """n colours between those given."""
    known = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours], float)
    at = np.linspace(0, len(colours) - 1, n)
    mixed = [np.interp(at, np.arange(len(colours)), known[:, k]) for k in range(3)]
    return ["#" + "".join(f"{round(float(v)):02x}" for v in rgb) for rgb in zip(*mixed, strict=True)]
