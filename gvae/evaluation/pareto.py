"""Pareto's k̂: how heavy the tail of importance weights is, and so whether their mean can be trusted.

Above 0.7 the error of the estimate falls so slowly with the number of samples that no practical number is enough.
Sources: Vehtari, Simpson, Gelman, Yao and Gabry (2024), section 2; Zhang and Stephens (2009), for the fit.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["UNRELIABLE", "Tail", "pareto_k"]

UNRELIABLE = 0.7
LEAST = 5  # a fit to fewer weights says nothing
EQUAL = 1e-5  # nats: log-weights that differ by less are equal but for rounding in float32


class Tail:
    """The M largest log-weights of each row, and the next below them, of K log-weights that are added in parts.

    samples : the total K; M = ceil(min(K / 5, 3 sqrt K))          n : rows
    """

    def __init__(self, samples: int, n: int):
        self.size, self.n = self.size_of(samples), n
        self.parts: list[np.ndarray] = []
        self.held = 0

    @staticmethod
    def size_of(samples: int) -> int:
        return math.ceil(min(samples / 5, 3 * math.sqrt(samples)))

    @classmethod
    def memory(cls, samples: int, n: int) -> int:
        """Bytes that n rows may take."""
        return 4 * cls.size_of(min(samples, 10**30)) * n * 8

    def add(self, log_weights: np.ndarray) -> None:
        """log_weights (k, n)."""
        if self.size < LEAST:
            return
        self.parts.append(log_weights)
        self.held += len(log_weights)
        if self.held > 4 * (self.size + 1):
            self._select()

    def k(self) -> np.ndarray:
        """k̂ (n,); NaN where the tail is too small to tell."""
        if self.size < LEAST or self.held <= self.size:
            return np.full(self.n, np.nan)
        self._select()
        return pareto_k(self.parts[0])

    def _select(self) -> None:
        every, keep = np.concatenate(self.parts), self.size + 1
        if len(every) > keep:
            every = np.partition(every, len(every) - keep, axis=0)[-keep:].copy()  # not a view of all
        self.parts, self.held = [every], len(every)


def pareto_k(log_weights: np.ndarray) -> np.ndarray:
    """Pareto's k̂ of the tail of importance weights, from the M + 1 largest log-weights of each row.

    Parameters
    ----------
    log_weights : array (M + 1, n)
        Each row's log-weights are a column, in any order. The smallest is where the tail begins.

    Returns
    -------
    array (n,)
        The shape of the generalised Pareto distribution fitted to the M excesses, shrunk a little towards 1/2. Weights equal
        to the smallest have no excess; inf where fewer than 5 remain. -inf where all M + 1 are equal, to 1e-5 nats: there is
        no tail.

    Notes
    -----
    Above 0.7 the error of the mean of the weights falls so slowly with the number of samples that no practical number is
    enough. Sources: Vehtari, Simpson, Gelman, Yao and Gabry (2024), section 2; Zhang and Stephens (2009), for the fit.

    Examples
    --------
    >>> u = (np.arange(200) + 0.5) / 200
    >>> log_weights = -np.array([0.2, 0.9]) * np.log(u)[:, None]  # Pareto's quantiles, with k = 0.2 and k = 0.9
    >>> gvae.evaluation.pareto_k(log_weights).round(1)
    array([0.2, 0.9])
    """
    top = np.sort(log_weights, axis=0)
    with np.errstate(under="ignore", divide="ignore", invalid="ignore", over="ignore"):
        w = np.exp(top - top[-1])
        x = w[1:] - w[0]
        fitted = _shrunk(x)
        for i in np.flatnonzero(x[_quartile(x)] == 0):  # ties, or weights that underflow beside the largest
            excesses = x[x[:, i] > 0, i : i + 1]
            fitted[i] = _shrunk(excesses)[0] if len(excesses) >= LEAST else np.inf
        return np.where(top[-1] - top[0] <= EQUAL, -np.inf, fitted)


def _shrunk(x: np.ndarray) -> np.ndarray:
    M = len(x)
    return (M * _shape(x) + 10 * 0.5) / (M + 10)


def _quartile(x: np.ndarray) -> int:
    """The row of the first quartile of x (M, n), ascending."""
    return int(len(x) / 4 + 0.5) - 1


def _shape(x: np.ndarray) -> np.ndarray:
    """k of each column of x (M, n), ascending: the posterior mean of theta = -k / sigma over a grid of profile likelihoods.

    With F(x) = 1 - (1 + k x / sigma)^(-1/k). Zhang and Stephens (2009), equations 3 to 7, where k has the other sign.
    """
    M, n = x.shape
    points = 30 + math.isqrt(M)
    quartile = x[_quartile(x)]
    theta = 1 / x[-1] + (1 - np.sqrt(points / (np.arange(1, points + 1) - 0.5)))[:, None] / (3 * quartile)
    profile = np.empty((points, n))
    for j in range(points):  # one at a time: all of them would be M x points x n
        k = np.log1p(-theta[j] * x).mean(axis=0)
        ratio = np.where(theta[j] == 0, 1 / x.mean(axis=0), -theta[j] / k)  # 0: an exponential
        profile[j] = M * (np.log(ratio) - k - 1)
    weights = np.exp(profile - profile.max(axis=0))
    mean = (weights * theta).sum(axis=0) / weights.sum(axis=0)
    return np.log1p(-mean * x).mean(axis=0)
