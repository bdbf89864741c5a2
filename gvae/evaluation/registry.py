"""Measures by name: each is declared where it is defined, by `measure`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

__all__ = ["MEASURES", "Measure", "largest", "line", "measure", "spread", "users"]

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Measure:
    """What `evaluate`, the table of results, the command line and the documentation need of a measure.

    Parameters
    ----------
    run : callable
        run(subject, **settings) -> a result with a method `summary`.
    what, cost : str
        The description and the cost, for the help.
    lines : callable
        lines(summary) -> lines of the table of results; the first is the heading.
    settings : tuple of str, default ()
        The settings of `evaluate` that it takes.
    needs : str, optional
        An optional method or attribute of models.
    of : str, optional
        "x": for models that explain x only, "labels": for models that explain labels given x; "views": for models of the
        codes of two views, and the only kind that a model without a bound has. By default for all.
    coded : bool, default True
        Only for models with codes.
    inferred : bool, default True
        Only where codes have a posterior.
    asked : bool, default False
        It is not among "all".

    Examples
    --------
    >>> bits = gvae.evaluation.MEASURES["bits"]
    >>> bits.of, bits.coded, bits.asked
    ('x', False, True)
    """

    run: Callable[..., Any]
    what: str
    cost: str
    lines: Callable[[Mapping[str, Any]], Iterable[str]]
    settings: tuple[str, ...] = ()
    needs: str | None = None
    of: str | None = None
    coded: bool = True
    inferred: bool = True
    asked: bool = False


MEASURES: dict[str, Measure] = {}


def measure(name: str, what: str, cost: str, **about: Any) -> Callable[[Function], Function]:
    """Register a function as a measure.

    Parameters
    ----------
    name : str
        The name in `evaluate` and `--with`.
    what, cost : str
    **about : Any
        The other fields of `Measure`.

    Returns
    -------
    callable
        A decorator that returns the function as it is.

    Examples
    --------
    >>> gvae.evaluation.MEASURES["units"].run is gvae.evaluation.active_units
    True
    """

    def register(run: Function) -> Function:
        MEASURES[name] = Measure(run, what, cost, **about)
        return run

    return register


def users(setting: str) -> str:
    """The measures that take a setting, in words.

    Parameters
    ----------
    setting : str

    Returns
    -------
    str

    Examples
    --------
    >>> from gvae.evaluation import registry
    >>> registry.users("chains")
    'ais, bdmc and curve'
    """
    *first, last = [name for name, about in MEASURES.items() if setting in about.settings]
    return f"{', '.join(first)} and {last}" if first else last


def line(label: str, value: float | None, after: str = "") -> str:
    """A line of the table of results.

    Parameters
    ----------
    label : str
    value : float, optional
        "-" without it, and for NaN.
    after : str, default ""

    Returns
    -------
    str

    Examples
    --------
    >>> from gvae.evaluation import registry
    >>> registry.line("rate", 1.5, "nats")
    '  rate                                     1.500  nats'
    """
    shown = "-" if value is None or math.isnan(value) else f"{value:.3f}"
    return f"  {label:<34}{shown:>12}{'  ' + after if after else ''}"


def spread(summary: Mapping[str, Any], name: str) -> str:
    """The standard error of a value of a summary, as it is written after it.

    Parameters
    ----------
    summary : mapping
        It has NAME_standard_error.
    name : str

    Returns
    -------
    str
        "" for a single row, which has none.

    Examples
    --------
    >>> from gvae.evaluation import registry
    >>> registry.spread({"rate_standard_error": 0.25}, "rate")
    '+- 0.250 (standard error over rows)'
    """
    error = summary[f"{name}_standard_error"]
    return f"+- {error:.3f} (standard error over rows)" if math.isfinite(error) else ""


def largest(values: Iterable[float], most: int = 20) -> str:
    """Values in descending order as they are written in a line; if there are many, the largest, and the smallest after two
    dots.

    Parameters
    ----------
    values : iterable of float
    most : int, default 20

    Returns
    -------
    str

    Examples
    --------
    >>> from gvae.evaluation import registry
    >>> registry.largest([0.1, 0.3, 0.0, 0.2], most=2)
    '0.30 0.20 .. 0.00'
    """
    ordered = [f"{x:.2f}" for x in sorted(values, reverse=True)]
    return " ".join(ordered if len(ordered) <= most else [*ordered[:most], "..", ordered[-1]])
