"""The normalised product of two Gaussian densities."""

from __future__ import annotations

from typing import Any

from gvae.distributions.base import Distribution
from gvae.distributions.gaussians import BandedGaussian, DiagonalGaussian
from gvae.errors import ConfigError, ShapeError
from gvae.ops import arrays, banded, elementwise
from gvae.runtime import device
from gvae.typing import Array

__all__ = ["product"]


def product(q: Distribution, p: Distribution) -> Distribution:
    """The distribution of density proportional to q(z) p(z).

    Parameters
    ----------
    q, p : Distribution
        Diagonal Gaussians, or Gaussians with a banded Cholesky factor L of the precision (diagonal, chain, band:w, ar1),
        whose widths may differ. Batch axes broadcast.

    Returns
    -------
    DiagonalGaussian or BandedGaussian
        A diagonal one of two diagonal ones, else one as wide as the wider of the two.

    Raises
    ------
    ConfigError
        The product is not of that kind: any other distribution, and a factor with gaps between its diagonals, such as that
        of an extended grid (0, 1, c), because the product's factor would fill all diagonals 0 .. c.
    ShapeError
        The numbers of variables differ.
    NotPositiveDefiniteError
        The precision of a distribution that checks its factor is not positive definite.

    Notes
    -----
    Precisions add: P = P_q + P_p, and P mean = P_q mean_q + P_p mean_p. In the diagonal case, with s the deviations,
    1 / s² = 1 / s_q² + 1 / s_p². The mean is computed as mean_p + P⁻¹ P_q (mean_q - mean_p).

    This is how a ladder of codes merges what is inferred from the data with what the layer above says: Sønderby, Raiko,
    Maaløe, Sønderby and Winther (2016), eqs. 17 and 18, there for diagonal Gaussians.

    Examples
    --------
    >>> q = gvae.distributions.DiagonalGaussian(np.array([1.0]), 0.5 * np.log([0.2]))
    >>> p = gvae.distributions.DiagonalGaussian(np.array([0.0]), 0.5 * np.log([0.7]))
    >>> merged = gvae.distributions.product(q, p)
    >>> merged.mean.round(5), merged.variance().round(5)  # 0.2 * 0.7 / 0.9
    (array([0.77778]), array([0.15556]))
    >>> chol = np.array([[1.25, 1.25, 1.0], [-0.75, -0.75, 0.0]])
    >>> chain = gvae.distributions.BandedGaussian(np.zeros(3), chol)
    >>> gvae.distributions.product(chain, chain).covariance().round(2)  # half of one chain's
    array([[0.5 , 0.3 , 0.18],
           [0.3 , 0.5 , 0.3 ],
           [0.18, 0.3 , 0.5 ]])
    """
    if isinstance(q, DiagonalGaussian) and isinstance(p, DiagonalGaussian):
        _check_sizes(q, p)
        return _diagonal(q, p)
    first, second = _banded(q), _banded(p)
    _check_sizes(q, p)
    M = max(first.chol.shape[-2], second.chol.shape[-2])
    precisions = [_widened(banded.gram_banded(g.chol), M) for g in (first, second)]
    check = first.check or second.check
    chol = banded.cholesky_banded(elementwise.add(*precisions), check=check)
    apart = elementwise.subtract(first.mean, second.mean)
    moved = banded.multiply_triangular_banded(first.chol, apart, trans=True)
    moved = banded.cho_solve_banded(chol, banded.multiply_triangular_banded(first.chol, moved), check=check)
    return BandedGaussian(elementwise.add(second.mean, moved), chol, check=check)


def _diagonal(q: DiagonalGaussian, p: DiagonalGaussian) -> DiagonalGaussian:
    # With ratio = log s_q² / s_p², the share of q in the mean is s_p² / (s_q² + s_p²) = sigmoid(-ratio), and
    # log s = log s_q - 1/2 log(1 + e^ratio): neither overflows for any deviations.
    ratio = 2 * elementwise.subtract(q.log_scale, p.log_scale)
    share = elementwise.sigmoid(elementwise.negative(ratio))
    mean = elementwise.add(p.mean, elementwise.multiply(share, elementwise.subtract(q.mean, p.mean)))
    return DiagonalGaussian(mean, elementwise.subtract(q.log_scale, 0.5 * elementwise.softplus(ratio)))


def _banded(d: Distribution) -> BandedGaussian:
    own = d.banded() if hasattr(d, "banded") else None
    if own is None:
        raise ConfigError(
            f"product: {type(d).__name__} has no product of its kind; expected diagonal or banded Gaussians, such as "
            "diagonal, chain or band:3"
        )
    if own.offsets != tuple(range(len(own.offsets))):
        raise ConfigError(
            f"product: the factor of a {type(d).__name__} has the diagonals {own.offsets}, and that of a product would fill "
            "those between; expected all of 0 .. M - 1, as diagonal, chain and band:3 have"
        )
    return own


def _check_sizes(q: Distribution, p: Distribution) -> None:
    if q.n != p.n:
        raise ShapeError(f"product: q has {q.n} variables and p has {p.n}, expected the same number")


def _widened(ab: Any, M: int) -> Array:
    """A lower band with diagonals of zeros up to M of them."""
    missing = M - ab.shape[-2]
    if not missing:
        return ab
    zero = device.zeros((*ab.shape[:-2], missing, ab.shape[-1]), ab.dtype, ab)
    return arrays.concatenate([ab, zero], axis=-2)
