"""Costs of codes: objectives maximise E log p(x|z) minus a cost of the codes' KL, where the bound subtracts the KL itself.

D is the distortion -E log p(x|z) and R the rate, the KL of all layers that are drawn, in mean nats per row. A cost is any
callable with the signature of `Cost`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from gvae.autodiff import stop_gradient, value_of
from gvae.errors import ConfigError
from gvae.ops import arrays, elementwise
from gvae.runtime import device

__all__ = ["Anchor", "Beta", "Cost", "FreeBits", "Target"]

Mean = Callable[..., Any]


class Cost(Protocol):
    """Protocol of costs.

    A cost with separable = False is not a mean over rows: batches with it cannot be cut into shards.

    Examples
    --------
    >>> gvae.objectives.parse("elbo:beta=0.5").cost
    Beta(beta=0.5)
    """

    def __call__(self, layers: Sequence[Any], penalty: Any, mean: Mean) -> tuple[Any, Callable[[], Any]]:
        """The cost of codes.

        Parameters
        ----------
        layers : sequence of Layer
            The layers that are drawn.
        penalty : array (B,) or (K, B)
            R of each row.
        mean : callable
            The mean of such values over rows (and draws), weighted as the objective weighs rows; mean(values, by_unit=True)
            is that of (B, n) or (K, B, n) for each of n variables.

        Returns
        -------
        paid : Var
            A scalar: the mean cost of a row.
        rows : callable
            rows() returns the cost of each row, up to a constant, (B,) or (K, B): the signal for draws without a derivative.
        """


@dataclass(frozen=True)
class Beta:
    """The cost beta R.

    Parameters
    ----------
    beta : float, default 1.0

    Notes
    -----
    Source: Higgins et al. (2017), eq. 4; as a curve of rate and distortion, Alemi et al. (2018).

    Examples
    --------
    >>> paid, rows = gvae.costs.Beta(0.5)([], np.array([2.0, 4.0]), np.mean)
    >>> paid, rows()
    (np.float64(1.5), array([1., 2.]))
    """

    beta: float = 1.0

    def __call__(self, layers: Sequence[Any], penalty: Any, mean: Mean) -> tuple[Any, Callable[[], Any]]:
        paid = elementwise.multiply(penalty, self.beta)
        return mean(paid), lambda: paid


@dataclass(frozen=True)
class Target:
    """The cost weight |R - rate|, with R the batch's mean; by Jensen its expectation is at least that of the data's R.

    Parameters
    ----------
    rate : float
        The target of R, in nats.
    weight : float, default 1.0

    Notes
    -----
    With weight 1 the kink can only raise R above the rate R* at which the bound itself ends: for R > rate the objective is
    D + R up to a constant. A lower target needs a weight above -dD/dR there. Source: Alemi et al. (2018), section 4.

    Examples
    --------
    >>> gvae.costs.Target(rate=5.0, weight=2.0)([], np.array([2.0, 4.0]), np.mean)[0]  # 2 |3 - 5|
    np.float64(4.0)
    """

    separable: ClassVar[bool] = False
    rate: float
    weight: float = 1.0

    def __call__(self, layers: Sequence[Any], penalty: Any, mean: Mean) -> tuple[Any, Callable[[], Any]]:
        off = elementwise.subtract(mean(penalty), self.rate)
        paid = elementwise.multiply(elementwise.abs(off), self.weight)

        def rows() -> Any:
            sign = elementwise.divide(off, elementwise.maximum(elementwise.abs(off), 1e-30))
            return elementwise.multiply(penalty, elementwise.multiply(stop_gradient(sign), self.weight))

        return paid, rows

    def remark(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """Event for the log, if the rate in the row of an epoch differs from the target by more than a tenth.

        Parameters
        ----------
        row : dict
            A row of the log, with "train_kl".

        Returns
        -------
        dict or None

        Examples
        --------
        >>> gvae.costs.Target(rate=5.0).remark({"train_kl": 7.0})["event"]
        'off target'
        """
        rate = row["train_kl"]
        if abs(rate - self.rate) <= 0.1 * max(self.rate, 1e-2):
            return None
        return {"event": "off target", "rate": rate, "target": self.rate, "weight": self.weight}


@dataclass(frozen=True)
class FreeBits:
    """The sum over variables of max(KL of the variable in the batch's mean, free).

    A KL below `free` costs as much as `free`. For independent posteriors.

    Parameters
    ----------
    free : float
        Nats.

    Notes
    -----
    Source: Kingma et al. (2016), appendix C.8.

    Examples
    --------
    >>> q = gvae.distributions.DiagonalGaussian(np.array([[1.0, 0.0]]), np.zeros((1, 2)))  # KL 0.5 and 0
    >>> layer = gvae.objectives.Layer(q, None, np.zeros((1, 1, 2)), np.zeros((1, 1, 2)))
    >>> mean = lambda values, by_unit=False: values.mean(axis=tuple(range(values.ndim - by_unit)))
    >>> gvae.costs.FreeBits(0.1)([layer], q.kl(), mean)[0].round(4)  # 0.5 + 0.1
    np.float64(0.6)
    """

    separable: ClassVar[bool] = False
    free: float

    def __call__(self, layers: Sequence[Any], penalty: Any, mean: Mean) -> tuple[Any, Callable[[], Any]]:
        paid: Any = 0.0
        units = [by_unit(layer, "free") for layer in layers]
        means = [mean(each, by_unit=True) for each in units]
        for each in means:
            paid = elementwise.add(paid, arrays.sum(elementwise.maximum(each, self.free)))

        def rows() -> Any:  # units below `free` cost a constant, whatever is drawn
            total: Any = 0.0
            for each, average in zip(units, means, strict=True):
                charged = elementwise.where(value_of(average) > self.free, each, 0.0)
                total = elementwise.add(total, arrays.sum(charged, axis=-1))
            return total

        return paid, rows


@dataclass(frozen=True)
class Anchor:
    """R, with the KL of some variables of the layer next to the data weighted by 1 - weight.

    The maximised quantity is E log p(x|z) - KL + weight sum_k KL_k, whose last term bounds weight sum_k I(z_k; x) from
    above. For independent posteriors.

    Parameters
    ----------
    codes : tuple of int
        Indices of these variables, from 0.
    weight : float

    Raises
    ------
    ConfigError
        On a call: the layer has no variable of such an index, or no KL of each variable.

    Notes
    -----
    Source: Gao et al. (2019), eq. 14.

    Examples
    --------
    >>> q = gvae.distributions.DiagonalGaussian(np.array([[1.0, 0.0]]), np.zeros((1, 2)))  # KL 0.5 and 0
    >>> layer = gvae.objectives.Layer(q, None, np.zeros((1, 1, 2)), np.zeros((1, 1, 2)))
    >>> mean = lambda values, by_unit=False: values.mean(axis=tuple(range(values.ndim - by_unit)))
    >>> gvae.costs.Anchor((0,), 0.9)([layer], q.kl(), mean)[0].round(4)  # a tenth of 0.5
    np.float64(0.05)
    """

    codes: tuple[int, ...]
    weight: float

    def __call__(self, layers: Sequence[Any], penalty: Any, mean: Mean) -> tuple[Any, Callable[[], Any]]:
        units = by_unit(layers[0], "anchor")
        n = units.shape[-1]
        if max(self.codes) >= n:
            raise ConfigError(f"elbo: anchor names the code {max(self.codes)}, expected one from 0 to {n - 1}")
        share = device.beside(_share(self.codes, self.weight, n, np.dtype(units.dtype)), value_of(units))
        given = arrays.sum(elementwise.multiply(units, share), axis=-1)
        paid = elementwise.subtract(penalty, given)
        return mean(paid), lambda: paid


@functools.lru_cache(maxsize=16)  # one array, which a device copies once
def _share(codes: tuple[int, ...], weight: float, n: int, dtype: np.dtype) -> np.ndarray:
    """The share of the KL of each of n codes that is given back. Read-only: see `device.beside`."""
    share = np.zeros(n, dtype)
    share[list(codes)] = weight
    share.flags.writeable = False
    return share


def by_unit(layer: Any, key: str) -> Any:
    """The KL of each variable of a layer, (B, n) or (K, B, n). ConfigError for dependent variables."""
    units = None if layer.coupled else layer.q.kl_by_unit(layer.p)
    if units is None:
        why = "is coupled to another layer's draw" if layer.coupled else "is of variables that are not independent"
        raise ConfigError(f"elbo: {key} needs the KL of each variable; {type(layer.q).__name__} {why}: take diagonal")
    return units
