"""The KL divergence of two Gaussians with banded factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gvae.autodiff import primitive
from gvae.checks import caller_name, check_arrays
from gvae.errors import ShapeError
from gvae.ops import arrays, elementwise
from gvae.ops.banded._storage import FACTOR, _check_factor
from gvae.ops.banded.factor import _log_pivots
from gvae.ops.banded.invert import _closure, _closure_vjp, inverse_banded
from gvae.ops.banded.multiply import multiply_triangular_banded
from gvae.runtime import device
from gvae.typing import Array, Cotangents, Needs

__all__ = ["kl_divergence_banded"]


def kl_divergence_banded(
    mean: Array,
    chol: Array,
    prior_mean: Array = None,
    prior_chol: Array = None,
    *,
    offsets: Sequence[int] | None = None,
    prior_offsets: Sequence[int] | None = None,
    check: bool = True,
) -> Array:
    """KL(N(mean, (L Lᵀ)⁻¹) ‖ prior), where the prior is N(0, I) or N(prior_mean, (L_p L_pᵀ)⁻¹).

    Parameters
    ----------
    mean : array (..., N)
    chol : array (..., M, N)
    prior_mean : array (..., N), optional
        0 by default.
    prior_chol : array (..., M_p, N), optional
        L_p; by default the prior's covariance is the identity.
    offsets : sequence of int, optional
        The diagonals of `chol`; by default 0, 1, .., M-1.
    prior_offsets : sequence of int, optional
        The diagonals of `prior_chol`; only with it.
    check : bool, default True
        False: a system with a pivot that is not positive becomes NaN instead of raising.

    Returns
    -------
    array (...)
        Nats; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError
    NotPositiveDefiniteError
        Unless check=False.

    Notes
    -----
    To N(0, I) it is summed node by node, 1/2 (S_jj + mean_j² - 1) + log L_jj with S = (L Lᵀ)⁻¹, so that
    nothing large cancels.

    Examples
    --------
    >>> chol = np.array([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]])
    >>> gvae.ops.kl_divergence_banded(np.zeros(3), chol).round(4)
    np.float64(1.0248)
    >>> independent = np.array([[2.0, 2.0, 2.0]])  # a prior with covariance I / 4
    >>> gvae.ops.kl_divergence_banded(np.zeros(3), chol, prior_chol=independent).round(3)
    np.float64(0.281)
    """
    offsets = _check_factor("mean: ... N, chol: ... M N", offsets, mean=mean, chol=chol)
    if prior_mean is not None:
        check_arrays("mean: ... N, prior_mean: ... N", mean=mean, prior_mean=prior_mean)
    if prior_chol is not None:
        factors = {"mean": mean, "prior_chol": prior_chol}
        pattern = _check_factor("mean: ... N, prior_chol: ... M N", prior_offsets, name="prior_offsets", **factors)
    elif prior_offsets is not None:
        raise ShapeError(f"{caller_name()}: prior_offsets is {prior_offsets!r}, expected None without prior_chol")
    difference = mean if prior_mean is None else elementwise.subtract(mean, prior_mean)
    if prior_chol is None:
        return _kl_standard(difference, chol, offsets=offsets, check=check)

    # tr(L_pᵀ S L_p) = sum_j sum_kl L_p[j + o_k, j] L_p[j + o_l, j] S[j + o_k, j + o_l]: S is needed on the prior's pattern,
    # so q's factor is widened with zero diagonals until its closure reaches the prior's last offset.
    log_pivots = _log_pivots(chol, check=check)
    if pattern[-1] > offsets[-1]:
        chol, offsets = _widen(chol, offsets, pattern[-1])
    s = inverse_banded(chol, offsets=offsets, fill=True, check=check)
    N = chol.shape[-1]
    prior_log_pivots = _log_pivots(prior_chol, check=check, name="prior_chol")
    total = arrays.sum(elementwise.subtract(log_pivots, prior_log_pivots) - 0.5, axis=-1)
    for k, o_k in enumerate(pattern):
        for l, o_l in enumerate(pattern[: k + 1]):
            n = N - o_k  # columns j for which both entries exist
            if n <= 0:
                continue
            pair = arrays.getitem(prior_chol, (..., k, slice(n))) * arrays.getitem(prior_chol, (..., l, slice(n)))
            product = elementwise.multiply(pair, arrays.getitem(s, (..., o_k - o_l, slice(o_l, o_l + n))))
            total = total + (0.5 if k == l else 1.0) * arrays.sum(product, axis=-1)
    w = multiply_triangular_banded(prior_chol, difference, offsets=pattern, trans=True)
    return total + 0.5 * arrays.sum(elementwise.square(w), axis=-1)


@primitive(saves=True, contract="mean: ... N, chol: ... M N", settings=FACTOR)
def _kl_standard(mean: Array, chol: Array, *, offsets: tuple[int, ...], check: bool, save: bool = False) -> Array:
    """KL to N(0, I) in one pass over the nodes; used in every training step of a structured posterior."""
    s = _closure(chol, offsets, check)
    with np.errstate(divide="ignore", invalid="ignore"):  # a failed system's s is NaN, and so is its value
        node = 0.5 * (s[..., 0, :] + mean * mean - 1) + np.log(chol[..., 0, :])
    value = node.sum(axis=-1)
    return (value, s) if save else value


@_kl_standard.vjp(owned=True)
def _(
    y_bar: Array,
    y: Array,
    mean: Array,
    chol: Array,
    *,
    needs: Needs,
    offsets: tuple[int, ...],
    check: bool,
    saved: Array,
) -> Cotangents:
    # node = 1/2 (S_jj + mean_j² - 1) + log L_jj:  mean̄ = ȳ mean,  L̄ from S̄_jj = ȳ / 2, and ȳ / L_jj on the diagonal
    mean_bar = chol_bar = None
    if needs[0]:
        mean_bar = elementwise.unbroadcast(y_bar[..., None] * mean, mean.shape)
    if needs[1]:
        own = elementwise.unbroadcast(y_bar, chol.shape[:-2])[..., None]
        s_bar = device.zeros(saved.shape, saved.dtype, saved)
        s_bar[..., 0, :] = 0.5 * own
        chol_bar = _closure_vjp(chol, offsets, saved, s_bar)
        with np.errstate(divide="ignore", invalid="ignore"):
            chol_bar[..., 0, :] += own / chol[..., 0, :]
    return mean_bar, chol_bar


def _widen(chol: Array, offsets: tuple[int, ...], last: int) -> tuple[Any, tuple[int, ...]]:
    """The same factor with one more diagonal, `last`, of zeros, so that its closure includes that diagonal."""
    zero = device.zeros((*chol.shape[:-2], 1, chol.shape[-1]), chol.dtype, chol)
    return arrays.concatenate([chol, zero], axis=-2), (*offsets, last)
