"""Matrices that all rows of the data share, with a posterior over their entries: weights, and codes of columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gvae import families, random
from gvae.distributions import Distribution, GammaDistribution
from gvae.families.others import of_bounded
from gvae.objectives import SHARED, Layer
from gvae.ops import arrays, elementwise
from gvae.typing import Array, Key, Noise, Params

__all__ = ["Matrix", "in_units", "natural", "started"]

NARROW = 100.0  # shape of gamma posteriors at the start: draws lie within a tenth of their means


def natural(q: Distribution, z: Any) -> Any:
    """The values of units whose draw is z: e^z for gamma variables that are drawn as logarithms, else z itself."""
    return elementwise.exp(z) if isinstance(q, GammaDistribution) and q.log else z


class Matrix:
    """A matrix of which all entries are independent in the posterior, drawn once per sample for all rows.

    Parameters
    ----------
    name : str
        Its parameters are NAME.raw, and its noise is all.NAME.
    shape : tuple of int
        (R, C).
    family : str
        The family of the posterior of the entries: "log_gamma", "log_gamma:score", "diagonal", "bernoulli", ...

    Examples
    --------
    >>> w = gvae.models.matrices.Matrix("weights0", (4, 3), "log_gamma")
    >>> params = w.init(gvae.random.key(0), np.float64, mean=0.5)
    >>> noise = w.noise(gvae.random.key(1), 2, np.float64)
    >>> q = w.q(params)
    >>> w.value(q, q.sample(noise["all.weights0"])).shape, w.mean(params).shape
    ((2, 4, 3), (4, 3))
    """

    def __init__(self, name: str, shape: tuple[int, int], family: str):
        self.name, self.shape = name, shape
        self.family = families.parse(family, shape[0] * shape[1])

    def init(self, key: Key, dtype: DTypeLike, mean: Array = 0.0, spread: float = 0.1) -> dict[str, np.ndarray]:
        """Initial parameters: those of entries of a given mean, with some noise, so that columns differ.

        Parameters
        ----------
        key : array (4,)
        dtype : dtype
        mean : float or array (R, C), default 0.0
        spread : float, default 0.1
            Standard deviation of the noise, in the units of the location parameters.

        Returns
        -------
        dict of str to array
            "NAME.raw".

        Examples
        --------
        >>> w = gvae.models.matrices.Matrix("weights1", (2, 2), "diagonal")
        >>> w.init(gvae.random.key(0), np.float64, spread=0.0)
        {'weights1.raw': array([0., 0., 0., 0., 0., 0., 0., 0.])}
        """
        return {f"{self.name}.raw": started(self.family, key, dtype, np.broadcast_to(mean, self.shape).ravel(), spread)}

    def noise(self, key: Key, samples: int, dtype: DTypeLike, like: Array = None) -> dict[str, np.ndarray]:
        """Noise of the draws, without an axis of rows.

        Parameters
        ----------
        key : array (4,)
        samples : int
        dtype : dtype
        like : array, optional
            An array on the device where the noise is wanted.

        Returns
        -------
        dict of str to array
            "all.NAME", (samples, R C).

        Examples
        --------
        >>> w = gvae.models.matrices.Matrix("weights1", (2, 2), "diagonal")
        >>> w.noise(gvae.random.key(0), 3, np.float64)["all.weights1"].shape
        (3, 4)
        """
        return {SHARED + self.name: self.family.noise(key, (samples,), dtype, like)}

    def q(self, params: Params) -> Distribution:
        """The posterior of the entries, row by row.

        Parameters
        ----------
        params : mapping of str to array

        Returns
        -------
        Distribution
            Without batch axes.

        Examples
        --------
        >>> w = gvae.models.matrices.Matrix("weights1", (2, 3), "diagonal")
        >>> w.q(w.init(gvae.random.key(0), np.float64))
        DiagonalGaussian(batch_shape=(), n=6)
        """
        return self.family(params[f"{self.name}.raw"])

    def value(self, q: Distribution, z: Any) -> Any:
        """The matrix of a draw.

        Parameters
        ----------
        q : Distribution
        z : array (K, R C)

        Returns
        -------
        array (K, R, C)

        Examples
        --------
        >>> w = gvae.models.matrices.Matrix("weights1", (2, 2), "diagonal")
        >>> q = w.q(w.init(gvae.random.key(0), np.float64))
        >>> w.value(q, np.array([[1.0, 2.0, 3.0, 4.0]]))
        array([[[1., 2.],
                [3., 4.]]])
        """
        return arrays.reshape(natural(q, z), shape=(*z.shape[:-1], *self.shape))

    def mean(self, params: Params) -> Any:
        """The mean of the matrix under its posterior.

        Parameters
        ----------
        params : mapping of str to array

        Returns
        -------
        array (R, C)

        Examples
        --------
        >>> w = gvae.models.matrices.Matrix("weights1", (2, 2), "log_gamma")
        >>> w.mean(w.init(gvae.random.key(0), np.float64, mean=0.5, spread=0.0)).round(4)
        array([[0.5, 0.5],
               [0.5, 0.5]])
        """
        return arrays.reshape(in_units(self.q(params)).mean, shape=self.shape)

    def scaled(self, params: Params, factor: float) -> dict[str, np.ndarray]:
        """The parameters of a posterior of gamma entries with all means multiplied by a factor.

        Parameters
        ----------
        params : mapping of str to array
        factor : float
            Positive.

        Returns
        -------
        dict of str to array
            "NAME.raw".

        Examples
        --------
        >>> w = gvae.models.matrices.Matrix("weights0", (2, 2), "log_gamma")
        >>> params = w.init(gvae.random.key(0), np.float64, mean=0.5)
        >>> np.allclose(w.mean(w.scaled(params, 0.1)), 0.1 * w.mean(params))
        True
        """
        raw, n = np.asarray(params[f"{self.name}.raw"]), self.family.n
        log_mean = np.asarray(self.q(params).log_mean) + np.log(factor)  # type: ignore[attr-defined]
        return {f"{self.name}.raw": np.concatenate([raw[:n], of_bounded(log_mean)]).astype(raw.dtype)}

    def layer(self, params: Params, noise: Noise, p: Any, share: float) -> Layer:
        """The layer of the bound, a share of which is charged to each row.

        Parameters
        ----------
        params : mapping of str to array
        noise : mapping of str to array
            It has "all.NAME".
        p : Distribution
            The prior of the entries, row by row.
        share : float

        Returns
        -------
        Layer

        Examples
        --------
        >>> w = gvae.models.matrices.Matrix("weights1", (2, 2), "diagonal")
        >>> params, noise = w.init(gvae.random.key(0), np.float64), w.noise(gvae.random.key(1), 3, np.float64)
        >>> w.layer(params, noise, None, 1 / 100).log_q.shape
        (3,)
        """
        q = self.q(params)
        draws = noise[SHARED + self.name]
        return Layer(q, p, q.sample(draws), draws, name=self.name, share=share)


def in_units(q: Distribution) -> Distribution:
    """The distribution of the values of units, see `natural`."""
    return GammaDistribution(q.log_shape, q.log_mean) if isinstance(q, GammaDistribution) else q


def started(family: families.Family, key: Key, dtype: DTypeLike, mean: np.ndarray, spread: float) -> np.ndarray:
    """Unconstrained parameters of units or weights of about this mean: their location parameters are moved by noise.

    Raises
    ------
    ConfigError
        The family has no closed form for the parameters of a mean.
    """
    raw = family.start(key, dtype).astype(np.float64)
    if isinstance(family, families.Gamma) and family.log:
        raw[: family.n] = np.log(NARROW)
        mean = np.log(mean) - 0.5 / NARROW  # about that of log z
    raw = np.concatenate([mean, raw[family.n :]]) if family.name == "diagonal" else family.located(raw, mean)
    moves = family.start_weight(np.ones((1, len(raw))))[0]  # 1 for location parameters, 0 for others
    return (raw + spread * moves * random.normal(key, len(raw), np.float64)).astype(dtype)
