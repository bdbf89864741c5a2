"""Correlations of the codes of two views, on rows that need not be those of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae.data import Batch
from gvae.errors import DataError
from gvae.evaluation.registry import line, measure
from gvae.evaluation.subject import Subject
from gvae.ops.correlation import Whitened, paired

__all__ = ["ViewCorrelations", "view_correlations"]


@dataclass(frozen=True)
class ViewCorrelations:
    """Correlations of the codes of two views.

    Parameters
    ----------
    correlations : array (n,)
        The correlation of each variable of one code with the same variable of the other.
    canonical : array (n,)
        Canonical correlations of the codes on these rows, in decreasing order: the largest of any linear maps of the codes.
        Their sum is at least that of `correlations`, and is biased upwards where rows are few.
    rows : int

    Examples
    --------
    >>> found = gvae.evaluation.ViewCorrelations(np.array([0.9, 0.5]), np.array([0.91, 0.51]), 1000)
    >>> round(found.summary()["total"], 2)
    1.4
    """

    correlations: np.ndarray
    canonical: np.ndarray
    rows: int

    def summary(self) -> dict[str, Any]:
        """The correlations and their sums.

        Returns
        -------
        dict
            "rows", "correlations" and their sum "total", "canonical" and its sum "canonical_total".

        Examples
        --------
        >>> gvae.evaluation.ViewCorrelations(np.array([0.5]), np.array([0.5]), 10).summary()
        {'rows': 10, 'correlations': [0.5], 'total': 0.5, 'canonical': [0.5], 'canonical_total': 0.5}
        """
        return {
            "rows": self.rows,
            "correlations": self.correlations.tolist(),
            "total": float(self.correlations.sum()),
            "canonical": self.canonical.tolist(),
            "canonical_total": float(self.canonical.sum()),
        }


def _correlation_lines(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"correlations of the codes of two views, {s['rows']} rows"
    yield "  of each pair: " + " ".join(f"{x:.3f}" for x in s["correlations"])
    yield line("their sum", s["total"], f"of at most {len(s['correlations'])}")
    yield line("sum of the canonical ones here", s["canonical_total"], "the largest by any linear maps of the codes")


@measure(
    "correlation",
    "correlations of the codes of two views",
    "one pass over the rows",
    lines=_correlation_lines,
    needs="view_codes",
    of="views",
)
def view_correlations(subject: Subject) -> ViewCorrelations:
    """Correlations of the codes of two views.

    Parameters
    ----------
    subject : Subject
        Its model has `view_codes`, the code of each of two views.

    Returns
    -------
    ViewCorrelations

    Raises
    ------
    ConfigError
        The model has no code of its own for each of two views.
    DataError
        The table has one row.

    Examples
    --------
    >>> x = gvae.random.normal(gvae.random.key(0), (200, 3), np.float64)
    >>> model, table = gvae.models.CCA({"x": 3, "y": 2}, latent=1, dtype="float64"), gvae.data.Table(x, y=x[:, :2])
    >>> params, _ = model.prepare(model.init(gvae.random.key(0)), {}, table, gvae.random.key(1))
    >>> gvae.evaluation.view_correlations(gvae.evaluation.Subject(model, params, table)).correlations.round(3)
    array([1.])
    """
    pairs: Any = subject.optional("view_codes", "correlation")
    if len(subject.table) < 2:
        raise DataError("correlation: the table has one row, expected two or more")

    def compute(i: int, batch: Batch) -> dict[str, np.ndarray]:
        found = subject.model.code(subject.parameters | subject.own(batch), subject.state, batch)
        return {view: np.asarray(found[name].shown) for view, name in pairs.items()}

    z, w = subject.each("correlation", compute, settings={}).values()
    return ViewCorrelations(paired(z, w), np.clip(Whitened.of(z, w, 0.0).rho, 0, 1), len(z))
