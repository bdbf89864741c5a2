"""Lower bounds on log p(x) as functions of the log-weights l_k = log p(x, z_k) - log q(z_k | x) of K draws.

A bound maps log-weights (K, B), Vars or arrays, to (B,). Besides its value it has two derivatives, which are all that the
gradient estimators of `gvae.objectives` need:

    weights(l)    B_k  = d bound / d l_k, which sum to one
    curvature(l)  B_kk = d² bound / d l_k²

each (K, B), or one number if it is the same everywhere.

E bound(l) is at most log p(x) for all of these except Renyi with alpha < 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gvae.errors import ConfigError
from gvae.ops import arrays, elementwise
from gvae.ops import weights as importance
from gvae.typing import Array

__all__ = ["IWAE", "Bound", "Grouped", "Mean", "Mixture", "Renyi", "leave_one_out"]


class Bound(Protocol):
    """Protocol of bounds: a call maps log-weights (K, B) to (B,), in nats.

    Examples
    --------
    >>> gvae.bounds.IWAE(np.log(np.array([[0.1], [0.3]]))).round(4)  # log 0.2
    array([-1.6094])
    """

    def __call__(self, log_weights: Array) -> Array: ...

    def weights(self, log_weights: Array) -> Array:
        """First derivative of the bound with respect to each log-weight.

        Parameters
        ----------
        log_weights : array (K, B)

        Returns
        -------
        array (K, B), or float
            They sum to one over K.

        Examples
        --------
        >>> gvae.bounds.IWAE.weights(np.log(np.array([[0.1], [0.3]]))).round(4).ravel()
        array([0.25, 0.75])
        """

    def curvature(self, log_weights: Array) -> Array:
        """Second derivative of the bound with respect to each log-weight.

        Parameters
        ----------
        log_weights : array (K, B)

        Returns
        -------
        array (K, B), or float

        Examples
        --------
        >>> gvae.bounds.IWAE.curvature(np.log(np.array([[0.1], [0.3]]))).round(4).ravel()
        array([0.1875, 0.1875])
        """


@dataclass(frozen=True)
class Mean(Bound):
    """Evidence lower bound 1/K sum_k l_k, for any K.

    Examples
    --------
    >>> l = np.log(np.array([[0.1], [0.3]]))  # two draws for one row
    >>> gvae.bounds.Mean()(l).round(4)
    array([-1.7533])
    """

    def __call__(self, log_weights: Array) -> Array:
        return arrays.mean(log_weights, axis=0)

    def weights(self, log_weights: Array) -> Array:
        return 1 / log_weights.shape[0]

    def curvature(self, log_weights: Array) -> Array:
        return 0.0


@dataclass(frozen=True)
class Renyi(Bound):
    """Rényi bound 1/(1-a) log 1/K sum_k e^((1-a) l_k), with a = alpha.

    It is IWAE's at alpha = 0, tends to Mean for alpha to 1, and exceeds log p(x) for large K and alpha below 0.

    Parameters
    ----------
    alpha : float, default 0.0

    Raises
    ------
    ConfigError
        alpha is 1, whose limit is Mean, or not finite.

    Notes
    -----
    Sources: Burda, Grosse and Salakhutdinov (2016), eq. 8 (a = 0); Li and Turner (2016), eq. 6; as the VR-IWAE bound,
    0 <= a < 1, Daudel, Benton, Shi and Doucet (2023).

    Examples
    --------
    >>> l = np.log(np.array([[0.1], [0.3]]))  # two draws for one row
    >>> gvae.bounds.Renyi(0.5)(l).round(4)
    array([-1.6788])
    """

    alpha: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.alpha) or self.alpha == 1:
            raise ConfigError(f"Renyi: alpha is {self.alpha!r}, expected a finite number other than 1 (the limit 1 is Mean)")

    def __call__(self, log_weights: Array) -> Array:
        if self.alpha == 0:
            return importance.log_mean_exp(log_weights, axis=0)
        power = 1 - self.alpha
        return importance.log_mean_exp(power * log_weights, axis=0) / power

    def weights(self, log_weights: Array) -> Array:
        return importance.normalized_weights((1 - self.alpha) * log_weights, axis=0)

    def curvature(self, log_weights: Array) -> Array:
        w = self.weights(log_weights)
        return (1 - self.alpha) * (w - elementwise.square(w))


IWAE = Renyi(0.0)


@dataclass(frozen=True)
class Mixture(Bound):
    """Weighted sum of bounds, sum_i share_i bound_i; CIWAE is share b of Mean and 1 - b of IWAE.

    Parameters
    ----------
    shares : tuple of float
    bounds : tuple of Bound

    Notes
    -----
    Source: Rainforth et al. (2018), eq. 13.

    Examples
    --------
    >>> l = np.log(np.array([[0.1], [0.3]]))  # two draws for one row
    >>> gvae.bounds.Mixture((0.5, 0.5), (gvae.bounds.Mean(), gvae.bounds.IWAE))(l).round(4)
    array([-1.6814])
    """

    shares: tuple[float, ...]
    bounds: tuple[Bound, ...]

    def __call__(self, log_weights: Array) -> Array:
        return self._sum([bound(log_weights) for bound in self.bounds])

    def weights(self, log_weights: Array) -> Array:
        return self._sum([bound.weights(log_weights) for bound in self.bounds])

    def curvature(self, log_weights: Array) -> Array:
        return self._sum([bound.curvature(log_weights) for bound in self.bounds])

    def _sum(self, parts: Sequence[Array]) -> Array:
        total = self.shares[0] * parts[0]
        for share, part in zip(self.shares[1:], parts[1:], strict=True):
            total = total + share * part
        return total


@dataclass(frozen=True)
class Grouped(Bound):
    """Mean over groups of a bound on K / groups log-weights each: MIWAE.

    Parameters
    ----------
    groups : int
    bound : Bound, default IWAE

    Raises
    ------
    ConfigError
        On a call: `groups` does not divide K.

    Notes
    -----
    Source: Rainforth et al. (2018), eq. 12.

    Examples
    --------
    >>> gvae.bounds.Grouped(2)(np.log(np.array([[0.1], [0.3], [0.1], [0.3]]))).round(4)
    array([-1.7533])
    """

    groups: int
    bound: Bound = IWAE

    def __call__(self, log_weights: Array) -> Array:
        by_group = arrays.reshape(self.bound(self._split(log_weights)), shape=(self.groups, log_weights.shape[1]))
        return arrays.mean(by_group, axis=0)

    def weights(self, log_weights: Array) -> Array:
        return self._join(self.bound.weights(self._split(log_weights)), log_weights.shape)

    def curvature(self, log_weights: Array) -> Array:
        return self._join(self.bound.curvature(self._split(log_weights)), log_weights.shape)

    def _split(self, log_weights: Array) -> Array:
        """(K, B) -> (K / groups, groups * B): a group is every groups-th draw, which costs no copy."""
        K, B = log_weights.shape
        if K % self.groups:
            raise ConfigError(f"a bound of {self.groups} groups needs samples divisible by {self.groups}, got {K}")
        return arrays.reshape(log_weights, shape=(K // self.groups, self.groups * B))

    def _join(self, derivative: Array, shape: tuple[int, ...]) -> Array:
        return (arrays.reshape(derivative, shape=shape) if hasattr(derivative, "shape") else derivative) / self.groups


def leave_one_out(bound: Bound, log_weights: Array) -> Array:
    """Bound without draw k, for every k: l_k is replaced by the mean of the other log-weights.

    Parameters
    ----------
    bound : Bound
    log_weights : array (K, B)
        K >= 2.

    Returns
    -------
    array (K, B)
        Nats.

    Raises
    ------
    ConfigError
        Fewer than two draws.

    Notes
    -----
    Source: Mnih and Rezende (2016), eq. 9, the geometric mean. Time and memory are proportional to K² B.

    Examples
    --------
    >>> l = np.log(np.array([[0.1], [0.3]]))  # two draws for one row
    >>> gvae.bounds.leave_one_out(gvae.bounds.IWAE, l).round(4).ravel()
    array([-1.204 , -2.3026])
    """
    K, B = log_weights.shape
    if K < 2:
        raise ConfigError(f"a leave-one-out baseline needs at least two samples, got {K}")
    each = elementwise.where(_left_out(K), 0.0, log_weights[:, None, :])
    others = arrays.sum(each, axis=0) / (K - 1)  # not the sum minus its own: a weight of 0 has log -inf
    each = elementwise.where(_left_out(K), others[None, :, :], each)
    return arrays.reshape(bound(arrays.reshape(each, shape=(K, K * B))), shape=(K, B))


@functools.cache  # one array per K, which a device copies once
def _left_out(K: int) -> np.ndarray:
    """[j, k]: draw j of the bound without draw k. Read-only: see `device.beside`."""
    mask = np.eye(K, dtype=bool)[:, :, None]
    mask.flags.writeable = False
    return mask
