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


class Tail:
    """The largest log-weights of each row, and the next below them, of as many as pass by.

    samples : how many will pass, K; the tail has M = ceil(min(K / 5, 3 sqrt K)) of them          n : rows
    """

    def __init__(self, samples: int, n: int):
        self.size, self.n = math.ceil(min(samples / 5, 3 * math.sqrt(samples))), n
        self.parts: list[np.ndarray] = []
        self.held = 0

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
    """k̂ of M + 1 log-weights (M + 1, n) of each row, the smallest of which is where the tail begins.

    The shape of the generalised Pareto distribution fitted to the M excesses, drawn a little towards 1/2. It is -inf where
    all M + 1 are the same, so that there is no tail.
    """
    top = np.sort(log_weights, axis=0)
    with np.errstate(under="ignore", divide="ignore", invalid="ignore", over="ignore"):
        w = np.exp(top - top[-1])
        x = w[1:] - w[0]
        M = len(x)
        fitted = (M * _shape(x) + 10 * 0.5) / (M + 10)
        return np.where(x[-1] > 0, fitted, -np.inf)


def _shape(x: np.ndarray) -> np.ndarray:
    """k of each column of x (M, n), ascending: the posterior mean of theta = -k / sigma over a grid of profile likelihoods.

    With F(x) = 1 - (1 + k x / sigma)^(-1/k). Zhang and Stephens (2009), equations 3 to 7, where k has the other sign.
    """
    M, n = x.shape
    points = 30 + math.isqrt(M)
    quartile = x[int(M / 4 + 0.5) - 1]
    theta = 1 / x[-1] + (1 - np.sqrt(points / (np.arange(1, points + 1) - 0.5)))[:, None] / (3 * quartile)
    profile = np.empty((points, n))
    for j in range(points):  # one at a time: all of them would be M x points x n
        k = np.log1p(-theta[j] * x).mean(axis=0)
        profile[j] = M * (np.log(-theta[j] / k) - k - 1)
    weights = np.exp(profile - profile.max(axis=0))
    mean = (weights * theta).sum(axis=0) / weights.sum(axis=0)
    return np.log1p(-mean * x).mean(axis=0)
