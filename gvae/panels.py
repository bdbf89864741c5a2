"""Panels: figures, tables and texts as data, which `gvae plot` draws with matplotlib and `gvae report` in a page.

An estimator contributes panels of its own to both by `Estimator.report_sections`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Bars", "Histogram", "Images", "Line", "Lines", "Matrix", "Panel", "Points", "Sentences", "Table", "Text"]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Base of all panels.

    Parameters
    ----------
    title : str, optional

    Examples
    --------
    >>> isinstance(gvae.panels.Text("rate   3.1 nats", title="evaluation"), gvae.panels.Panel)
    True
    """

    title: str = ""


@dataclass(frozen=True)
class Line:
    """A line of `Lines`.

    Parameters
    ----------
    x, y : array (N,)
    name : str, optional
        For the legend; "" for none.
    colour : int, default 0
        Lines of the same number have the same colour.
    thin : bool, default False

    Examples
    --------
    >>> gvae.panels.Line([1, 2], [-9.0, -4.0], "training rows", thin=True).name
    'training rows'
    """

    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    name: str = ""
    colour: int = 0
    thin: bool = False


@dataclass(frozen=True)
class Lines(Panel):
    """Lines over a common axis.

    Parameters
    ----------
    lines : sequence of Line
    x, y : str
        What is on the axes, with its unit.
    marks : sequence of (float, str), optional
        Places on the x axis, and what happened there.
    span : (float, float), optional
        The range of the y axis; by default that of the lines.
    title : str, optional

    Examples
    --------
    >>> bound = gvae.panels.Line([1, 2, 3], [-9.0, -4.0, -3.0], "bound")
    >>> gvae.panels.Lines([bound], "epoch", "nats per row", title="bounds").lines[0].name
    'bound'
    """

    lines: Sequence[Line]
    x: str = ""
    y: str = ""
    marks: Sequence[tuple[float, str]] = ()
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Histogram(Panel):
    """Distributions over the same bins.

    Parameters
    ----------
    edges : array (bins + 1,)
    heights : mapping of str to array (bins,)
        By name.
    x, y : str
        What is on the axes, with its unit.
    title : str, optional

    Examples
    --------
    >>> heights, edges = np.histogram([0.0, 0.1, 0.9], 2)
    >>> gvae.panels.Histogram(edges, {"data": heights}, "value", "rows").heights["data"]
    array([2, 1])
    """

    edges: np.ndarray
    heights: Mapping[str, np.ndarray]
    x: str = ""
    y: str = ""


@dataclass(frozen=True)
class Points(Panel):
    """Points in a plane.

    Parameters
    ----------
    x, y : array (N,)
    across, up : str
        What is on the axes.
    groups : sequence of str, optional
        The group of each point, which gives its colour.
    about : mapping of str to sequence of str, optional
        Further texts on each point, by name, shown on hover.
    images : array (N, D), optional
        A picture for each point, shown on hover, of this `shape`.
    shape : (int, int), optional
    diagonal : bool, default False
        Whether to draw the line y = x.
    title : str, optional

    Examples
    --------
    >>> z = gvae.random.normal(gvae.random.key(0), (50, 2))
    >>> gvae.panels.Points(*z.T, "z_1", "z_2", groups=["a"] * 50).across
    'z_1'
    """

    x: np.ndarray
    y: np.ndarray
    across: str = ""
    up: str = ""
    groups: Sequence[str] | None = None
    about: Mapping[str, Sequence[str]] = field(default_factory=dict)
    images: np.ndarray | None = None
    shape: tuple[int, int] | None = None
    diagonal: bool = False


@dataclass(frozen=True)
class Bars(Panel):
    """Bars side by side.

    Parameters
    ----------
    names : sequence of str
    heights : array (N,)
    y : str
        What is on the axis, with its unit.
    faint : bool array (N,), optional
        Bars that are drawn in grey.
    title : str, optional

    Examples
    --------
    >>> gvae.panels.Bars(["z_1", "z_2"], np.array([3.1, 0.0]), "KL, nats", np.array([False, True])).names
    ['z_1', 'z_2']
    """

    names: Sequence[str]
    heights: np.ndarray
    y: str = ""
    faint: np.ndarray | None = None


@dataclass(frozen=True)
class Matrix(Panel):
    """A matrix in colours.

    Parameters
    ----------
    values : array (rows, columns)
    limit : float, optional
        The colour scale goes from -limit to limit; by default the largest absolute value.
    rows, columns : sequence of str, optional
        Names of the rows and columns.
    counts : bool, default False
        Whether the values are counts, which are written into the cells.
    title : str, optional

    Examples
    --------
    >>> gvae.panels.Matrix(np.eye(3), 1.0, title="correlations").values.shape
    (3, 3)
    """

    values: np.ndarray
    limit: float | None = None
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    counts: bool = False


@dataclass(frozen=True)
class Images(Panel):
    """Rows of images.

    Parameters
    ----------
    rows : mapping of str to array (N, D)
        By name, all with the same N.
    shape : (int, int)
        Rows and columns of an image.
    columns : int, optional
        Images side by side, for a sheet with a single name; by default N.
    title : str, optional

    Examples
    --------
    >>> gvae.panels.Images({"originals": np.eye(4)}, (2, 2)).shape
    (2, 2)
    """

    rows: Mapping[str, np.ndarray]
    shape: tuple[int, int]
    columns: int | None = None


@dataclass(frozen=True)
class Table(Panel):
    """Rows of texts and numbers under a heading.

    Parameters
    ----------
    heading : sequence of str
    rows : sequence of sequence of str
    title : str, optional

    Examples
    --------
    >>> gvae.panels.Table(["column", "mean"], [["a", "0.31"]]).heading
    ['column', 'mean']
    """

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Text(Panel):
    """Lines of text, aligned by blanks.

    Parameters
    ----------
    text : str
    title : str, optional

    Examples
    --------
    >>> gvae.panels.Text("rate   3.1 nats").text
    'rate   3.1 nats'
    """

    text: str


@dataclass(frozen=True)
class Sentences(Panel):
    """Warnings, or other sentences.

    Parameters
    ----------
    texts : sequence of str
    title : str, optional

    Examples
    --------
    >>> gvae.panels.Sentences(["For 20% of rows a few weights decide."]).texts[0]
    'For 20% of rows a few weights decide.'
    """

    texts: Sequence[str]
