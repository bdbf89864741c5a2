"""The squared maximum mean discrepancy of the codes' marginal q(z) from the prior p(z)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae import random
from gvae.data import Batch
from gvae.distributions import GammaDistribution
from gvae.errors import ConfigError, DataError
from gvae.evaluation import subject as streams
from gvae.evaluation.mixtures import blocks
from gvae.evaluation.registry import measure
from gvae.evaluation.subject import Subject, whole
from gvae.objectives import MMD, Layer
from gvae.objectives.marginal import constant_under_standard, gram, is_standard, mean_under_standard

__all__ = ["Discrepancy", "mmd"]


@dataclass(frozen=True)
class Discrepancy:
    """MMD² of q(z) from p(z), from one draw of each row.

    Parameters
    ----------
    means : array (N,)
        For each row i, the mean over other rows j of h_ij = k(z_i, z_j) - E k(z_i, y) - E k(z_j, y) + E k(y, y'), y ~ p(z).
    square : float
        The mean of h_ij² over pairs of rows.
    variables : int
        The number of variables of the joined codes.
    kernel : str
    bandwidth : float
    closed : bool
        Whether the terms with p are in closed form; otherwise they use one draw of p for each row.

    Examples
    --------
    >>> found = gvae.evaluation.Discrepancy(np.array([0.2, 0.0, 0.1]), 0.02, 2, "rbf", 2.0, True)
    >>> round(found.summary()["mmd_squared"], 3)
    0.1
    """

    means: np.ndarray
    square: float
    variables: int
    kernel: str
    bandwidth: float
    closed: bool

    def summary(self) -> dict[str, Any]:
        """MMD² and its standard error over rows.

        Returns
        -------
        dict
            "rows", "variables", "kernel", "bandwidth", "closed", "mmd_squared" and "mmd_squared_standard_error".

        Notes
        -----
        The variance of the U-statistic is 4 (N - 2) v_1 / (N (N - 1)) + 2 v_2 / (N (N - 1)) with the variance v_2 of h_ij
        and v_1 of its mean given i, which is 0 where q(z) is p(z). Source: Hoeffding (1948), section 5.

        Examples
        --------
        >>> found = gvae.evaluation.Discrepancy(np.array([0.2, 0.0, 0.1]), 0.02, 2, "rbf", 2.0, True)
        >>> sorted(found.summary())[-2:]
        ['rows', 'variables']
        """
        n, value = len(self.means), float(self.means.mean())
        pairs = max(self.square - value**2, 0.0)  # v_2
        # the variance of a row's mean is v_1 + (v_2 - v_1) / (N - 1)
        own = max((float(self.means.var(ddof=1)) - pairs / (n - 1)) * (n - 1) / max(n - 2, 1), 0.0)
        variance = (4 * (n - 2) * own + 2 * pairs) / (n * (n - 1))
        return {
            "rows": n,
            "variables": self.variables,
            "kernel": self.kernel,
            "bandwidth": self.bandwidth,
            "closed": self.closed,
            "mmd_squared": value,
            "mmd_squared_standard_error": math.sqrt(variance),
        }


def _mmd_lines(s: Mapping[str, Any]) -> Iterator[str]:
    how = "terms with p in closed form" if s["closed"] else "one draw of p for each row"
    kernel = f"kernel {s['kernel']}, bandwidth {s['bandwidth']:g}"
    yield f"mmd of q(z) from p(z), {s['rows']} rows, {s['variables']} variables, {kernel}, {how}"
    error = s["mmd_squared_standard_error"]
    yield f"  {'MMD squared':<34}{s['mmd_squared']:>12.5f}  +- {error:.5f} (standard error over rows)"


@measure(
    "mmd",
    "squared maximum mean discrepancy of the codes' marginal from the prior, by a Gaussian kernel",
    "one draw a row, and rows^2 values of the kernel",
    lines=_mmd_lines,
    asked=True,
)
def mmd(
    subject: Subject, *, kernel: str = "rbf", bandwidth: float | None = None, closed: bool = True, rows: int | None = None
) -> Discrepancy:
    """MMD² of the codes' marginal q(z) = E q(z|x) from p(z).

    Parameters
    ----------
    subject : Subject
    kernel : {"rbf", "imq"}, default "rbf"
    bandwidth : float, optional
        As for `gvae.objectives.MMD`; None: the number of variables of z.
    closed : bool, default True
        Whether the terms with p are in closed form where there is one: rbf and p(z) = N(0, I).
    rows : int, optional
        How many of the first rows; None: all.

    Returns
    -------
    Discrepancy

    Raises
    ------
    ConfigError
        An unknown kernel, a bandwidth or rows that are not positive; the model has no codes that can be drawn from p(z).
    DataError
        There are fewer than two rows.

    Notes
    -----
    One draw of each row and, where needed, one of p(z): O(rows^2) values of the kernel. Several codes are joined. For a
    hierarchy, z is the layer next to the data. The weights of rows are ignored.

    Examples
    --------
    >>> fa = gvae.models.FactorAnalysis(np.array([[2.0], [1.0], [0.0]]), np.zeros(3), np.ones(3))
    >>> subject = gvae.evaluation.Subject(*fa.as_vae(), gvae.data.Table(fa.sample(gvae.random.key(0), 200)))
    >>> summary = gvae.evaluation.mmd(subject).summary()  # the posterior is exact, hence q(z) is p(z)
    >>> abs(summary["mmd_squared"]) < 3 * summary["mmd_squared_standard_error"]
    True
    """
    MMD(kernel, bandwidth)  # checks both
    n = len(subject.table) if rows is None else min(whole("rows", rows), len(subject.table))
    if n < 2:
        raise DataError(f"mmd: there is {n} row, and MMD² is a mean over pairs of rows; expected two or more")
    sample_prior = subject.optional("sample_prior", "mmd")
    key = random.fold_in(subject.key, streams.MMD)
    standard = True
    names: list[str] = []

    def draw(i: int, batch: Batch) -> dict[str, np.ndarray]:
        nonlocal standard
        noise = subject.model.noise(random.fold_in(key, 0, i), batch, 1)
        drawn = {layer.name or "z": layer for layer in subject.terms(batch, noise).layers if layer.z is not None}
        own = [layer for name, layer in drawn.items() if name in subject.model.codes and layer.z.ndim == 3]
        if not own:
            raise ConfigError(f"mmd: {type(subject.model).__name__} draws no codes of rows; expected q(z|x) and p(z)")
        names[:] = [name for name in drawn if drawn[name] in own]
        standard = standard and is_standard(own) and not any(layer.coupled for layer in own)
        known = subject.parameters | subject.own(batch)
        coded = subject.model.code(known, subject.state, batch) if any(map(_has_logs, own)) else {}
        z = [np.asarray(layer.z, np.float64)[0] for layer in own]
        for i, layer in enumerate(own):  # in the units of sample_prior
            if _has_logs(layer) and not getattr(coded.get(layer.name or "z"), "log", True):
                z[i] = np.exp(z[i])
        return {"z": np.concatenate(z, axis=-1)}

    z = subject.each("mmd: draws", draw, settings={}, rows=n, kept=False)["z"]
    variables = z.shape[1]
    b = float(variables) if bandwidth is None else float(bandwidth)
    closed = closed and standard and kernel == "rbf"
    y = z[:0]
    if not closed:
        from_p = sample_prior(subject.parameters, random.fold_in(key, 1), n)
        if missing := [name for name in names if name not in from_p]:
            name = type(subject.model).__name__
            raise ConfigError(f"mmd: {name}.sample_prior draws no {', '.join(missing)}, of which there are draws from q")
        y = np.concatenate([np.asarray(from_p[name], np.float64) for name in names], axis=-1)
    sums, square = np.empty(n), 0.0
    to_p = mean_under_standard(z, b)
    for block in blocks(n, n):
        if closed:
            h = gram(z[block], z, kernel, b) - to_p[block, None] - to_p + constant_under_standard(variables, b)
        else:
            h = gram(z[block], z, kernel, b) + gram(y[block], y, kernel, b)
            h -= gram(z[block], y, kernel, b) + gram(y[block], z, kernel, b)
        rows_here = np.arange(n)[block]
        h[np.arange(len(rows_here)), rows_here] = 0
        sums[block], square = h.sum(axis=1), square + float((h**2).sum())
    return Discrepancy(sums / (n - 1), square / (n * (n - 1)), variables, kernel, b, closed)


def _has_logs(layer: Layer) -> bool:
    """Whether a layer draws the logarithms of gamma variables."""
    return isinstance(layer.q, GammaDistribution) and layer.q.log
