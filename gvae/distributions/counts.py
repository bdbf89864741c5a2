"""Independent counts whose rates are sums over the units of a code: rate_d = z . w_d."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import special

from gvae.autodiff import value_of
from gvae.distributions.base import Distribution, host
from gvae.distributions.discrete import COUNTS, Independent, PoissonDistribution
from gvae.errors import ConfigError
from gvae.ops import arrays, dense, draws, elementwise
from gvae.ops.counts import poisson_counts_log_prob
from gvae.ops.sparse import is_csr
from gvae.typing import Array, Key

__all__ = ["PoissonProduct"]


class PoissonProduct(Independent):
    """Independent counts with rates z . w_d, of few units and many columns d.

    Log-probabilities of counts in CSR take time proportional to the counts that are not 0; everything else is computed from
    the dense rates.

    Parameters
    ----------
    z : array (B, n) or (K, B, n)
        Values of the units, at least 0.
    w : array (D, n) or (K, D, n)
        Weights of the columns, at least 0.

    Examples
    --------
    >>> from scipy import sparse
    >>> p = gvae.distributions.PoissonProduct(np.array([[1.0, 2.0]]), np.array([[0.5, 0.25], [3.0, 1.0]]))
    >>> p.mean
    array([[1., 5.]])
    >>> x = np.array([[0.0, 4.0]])
    >>> p.log_prob(x).round(4), p.log_prob(sparse.csr_array(x)).round(4)
    (array([-2.7403]), array([-2.7403]))
    """

    support = COUNTS

    def __init__(self, z: Array, w: Array):
        self.z, self.w = z, w

    @property
    def mean(self) -> Array:
        """The rates, (..., B, D): a dense array.

        Examples
        --------
        >>> gvae.distributions.PoissonProduct(np.ones((1, 2)), np.ones((3, 2))).mean
        array([[2., 2., 2.]])
        """
        return dense.matmul(self.z, arrays.swapaxes(self.w, axis1=-1, axis2=-2))

    @property
    def n(self) -> int:
        return self.w.shape[-2]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return np.broadcast_shapes(self.z.shape[:-2], self.w.shape[:-2]) + self.z.shape[-2:-1]

    def noise(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        return self.draw_noise(key, (*sample_shape, *self.batch_shape, self.n), self.z.dtype, value_of(self.z))

    def log_prob(self, x: Array, reduce: bool = True) -> Array:
        if is_csr(x):
            if not reduce:
                raise ConfigError("PoissonProduct: the terms of counts in CSR would be a dense array; sum them: reduce=True")
            return poisson_counts_log_prob(x, self.z, self.w)
        return super().log_prob(x, reduce)

    def _log_terms(self, x: Array) -> Array:
        rate, none = self.mean, value_of(x) == 0  # the rate may be 0, too
        log_p = elementwise.log_poisson(x, elementwise.log(elementwise.where(none, 1.0, rate)))
        return elementwise.where(none, -rate, log_p)

    def sample(self, noise: Array) -> Array:
        return draws.poisson_draw(np.log(value_of(self.mean)).astype(noise.dtype, copy=False), noise)

    def _cdf(self) -> Callable[[int, np.ndarray], np.ndarray]:
        rate = host(self.mean)
        return lambda j, v: special.pdtr(v, rate[..., j])

    def variance(self) -> Array:
        return self.mean

    @property
    def standard(self) -> Distribution:
        return PoissonDistribution(np.zeros(self.n, self.w.dtype))

    def kl(self, p: Distribution | None = None) -> Array:
        return PoissonDistribution(elementwise.log(self.mean)).kl(p)

    def kl_by_unit(self, p: Distribution | None = None) -> Array:
        return PoissonDistribution(elementwise.log(self.mean)).kl_by_unit(p)
