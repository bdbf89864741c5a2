"""Gaussians transformed by planar flows, f(x) = x + û tanh(w . x + b), in either direction.

û = u + (softplus(w . u) - 1 - w . u) w / |w|² has w . û > -1, with which f is invertible; its log-determinant is
log(1 + w . û (1 - tanh²(w . x + b))). Source: Rezende and Mohamed (2015), eqs. 10 to 12 and appendix A.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gvae import random
from gvae.distributions.base import Distribution, check_width
from gvae.distributions.gaussians import DiagonalGaussian
from gvae.errors import ConfigError
from gvae.ops import arrays, elementwise
from gvae.typing import Array, Key

__all__ = ["InversePlanarGaussian", "PlanarGaussian", "planar_flow"]

SHORT = 1e-12  # of |w|²: below it the correction of u fades out, and is 0 at w = 0
FLATTEST = 1e-6 - 1  # the least w . û (1 - tanh²), which rounds to -1 where softplus(w . u) is tiny


def planar_flow(x: Array, u: Array, w: Array, b: Array) -> tuple[Any, Any]:
    """Planar flows one after the other.

    Parameters
    ----------
    x : array (..., n)
    u, w : array (..., S, n)
        The vectors of S steps.
    b : array (..., S)

    Returns
    -------
    y : array (..., n)
    log_det : array (...)
        The log-determinant of dy/dx, in nats.

    Examples
    --------
    >>> x, w = np.array([0.5, -0.5]), np.array([[1.0, 0.0]])
    >>> y, log_det = gvae.distributions.planar_flow(x, np.log(np.expm1(3.0)) * w, w, np.zeros(1))  # û = (2, 0)
    >>> y.round(3), np.allclose(log_det, np.log(1 + 2 / np.cosh(0.5) ** 2))
    (array([ 1.424, -0.5  ]), True)
    """
    log_det: Any = 0.0
    for s in range(u.shape[-2]):
        u_s, w_s = u[..., s, :], w[..., s, :]
        wu = arrays.sum(elementwise.multiply(w_s, u_s), axis=-1)
        length = arrays.sum(elementwise.square(w_s), axis=-1)
        wanted, part = elementwise.softplus(wu) - 1, elementwise.minimum(length / SHORT, 1.0)
        along = elementwise.add(elementwise.multiply(part, wanted), elementwise.multiply(1 - part, wu))  # w . û
        by = elementwise.divide(elementwise.subtract(wanted, wu), elementwise.maximum(length, SHORT))
        moved = elementwise.add(u_s, elementwise.multiply(by[..., None], w_s))
        t = elementwise.tanh(elementwise.add(arrays.sum(elementwise.multiply(x, w_s), axis=-1), b[..., s]))
        x = elementwise.add(x, elementwise.multiply(t[..., None], moved))
        slope = elementwise.multiply(along, 1 - elementwise.square(t))
        log_det = elementwise.add(elementwise.log1p(elementwise.maximum(slope, FLATTEST)), log_det)
    return x, log_det


class _Flowed(Distribution):
    by_variable = False

    def __init__(self, base: DiagonalGaussian, u: Array, w: Array, b: Array):
        self.base, self.u, self.w, self.b = base, u, w, b

    @property
    def n(self) -> int:
        return self.base.n

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        return self.base.batch_shape, self.u.shape[:-2], self.w.shape[:-2], self.b.shape[:-1]

    @staticmethod
    def draw_noise(key: Key, shape: tuple[int, ...], dtype: DTypeLike, like: Array = None) -> Array:
        return random.normal(key, shape, dtype, like)

    def noise(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        like = self.base.mean
        return self.draw_noise(key, (*sample_shape, *self.batch_shape, self.n), like.dtype, like)

    @property
    def mean(self) -> Array:
        """Not available in closed form.

        Raises
        ------
        NotImplementedError

        Examples
        --------
        >>> q = gvae.families.parse("planar:2", 3)(np.ones(20))
        >>> q.sample(np.zeros((5, 3))).shape  # average over draws instead
        (5, 3)
        """
        raise NotImplementedError(f"{type(self).__name__} has no mean in closed form: average over draws")

    @property
    def standard(self) -> Distribution:
        return self.base.standard

    def kl(self, p: Distribution | None = None) -> Array:
        return None


class PlanarGaussian(_Flowed):
    """f_S(.. f_1(x)) for x of independent Gaussians: a density known for its own draws.

    Parameters
    ----------
    base : DiagonalGaussian
    u, w : array (..., S, n)
    b : array (..., S)

    Examples
    --------
    >>> base, w = gvae.distributions.DiagonalGaussian(np.zeros(2), np.zeros(2)), np.array([[1.0, 0.0]])
    >>> q = gvae.distributions.PlanarGaussian(base, 3.0 * w, w, np.zeros(1))
    >>> noise = q.noise(gvae.random.key(0), (4,))
    >>> q.log_prob_of_draw(noise, q.sample(noise)).shape
    (4,)
    """

    reparameterized = True
    has_density = False

    @property
    def shown(self) -> Array:
        """The image of the base's centre under the flow.

        Examples
        --------
        >>> gvae.families.parse("planar:2", 3)(np.zeros(20) + 0.5).shown.shape
        (3,)
        """
        return planar_flow(self.base.mean, self.u, self.w, self.b)[0]

    def means_along(self, x: Array) -> Array:
        return self.shown

    def sample(self, noise: Array) -> Array:
        return planar_flow(self.base.sample(noise), self.u, self.w, self.b)[0]

    def log_prob_of_draw(self, noise: Array, sample: Array) -> Array:
        x = self.base.sample(noise)
        log_det = planar_flow(x, self.u, self.w, self.b)[1]
        return elementwise.subtract(self.base.log_prob_of_draw(noise, x), log_det)

    def log_prob(self, x: Array, reduce: bool = True) -> Array:
        raise ConfigError(
            "planar: the density is known only for draws from it, but wake_sleep, the gradients stl, dreg, rws and vimco, "
            "and the measures surgery and information, need it elsewhere"
        )


class InversePlanarGaussian(_Flowed):
    """x whose f_S(.. f_1(x)) are independent Gaussians: a density known everywhere. It is not drawn from.

    Parameters
    ----------
    base : DiagonalGaussian
    u, w : array (..., S, n)
    b : array (..., S)

    Examples
    --------
    >>> base, w = gvae.distributions.DiagonalGaussian(np.zeros(2), np.zeros(2)), np.array([[1.0, 0.0]])
    >>> r = gvae.distributions.InversePlanarGaussian(base, np.log(np.expm1(1.0)) * w, w, np.zeros(1))  # û = 0
    >>> np.allclose(r.log_prob(np.ones(2)), base.log_prob(np.ones(2)))
    True
    """

    reparameterized = False
    sequential = False

    def log_prob(self, x: Array, reduce: bool = True) -> Array:
        check_width(self, "log_prob", x=x)
        y, log_det = planar_flow(x, self.u, self.w, self.b)
        if not reduce:
            raise ConfigError("InversePlanarGaussian: terms by variable are those of its base, see log_prob_by_base")
        return elementwise.add(self.base.log_prob(y), log_det)

    def log_prob_by_base(self, x: Array) -> Array:
        """The terms of each variable of the base, without the log-determinant.

        Parameters
        ----------
        x : array (..., n)

        Returns
        -------
        array (..., n)
            Nats.

        Examples
        --------
        >>> base, w = gvae.distributions.DiagonalGaussian(np.zeros(2), np.zeros(2)), np.array([[1.0, 0.0]])
        >>> r = gvae.distributions.InversePlanarGaussian(base, 3.0 * w, w, np.zeros(1))
        >>> r.log_prob_by_base(np.ones(2)).shape
        (2,)
        """
        return self.base.log_prob(planar_flow(x, self.u, self.w, self.b)[0], reduce=False)


def started_steps(key: Key, steps: int, n: int, dtype: DTypeLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """u, w and b of flows that do nothing yet, with w in random directions."""
    w = random.normal(key, (steps, n), np.float64)
    w /= np.sqrt((w**2).sum(axis=-1, keepdims=True))
    u = np.log(np.expm1(1.0)) * w  # where w . û = softplus(w . u) - 1 = 0
    return u.astype(dtype), w.astype(dtype), np.zeros(steps, dtype)
