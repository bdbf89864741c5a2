"""Gaussians with a diagonal covariance, or with a dense factor of the covariance: sample, log-density, KL to N(0, I)."""

from __future__ import annotations

from typing import Any

import numpy as np

from gvae.autodiff import primitive
from gvae.checks import check_arrays
from gvae.ops import arrays, linalg
from gvae.ops.banded import LOG_2PI
from gvae.ops.dense import matmul
from gvae.ops.elementwise import add, log, square, subtract, unbroadcast
from gvae.runtime.device import apply
from gvae.typing import Array, Cotangents, Needs

__all__ = [
    "kl_divergence_dense",
    "kl_divergence_diagonal",
    "log_prob_dense",
    "sample_dense",
    "sample_diagonal",
]


@primitive
def sample_diagonal(mean: Array, log_scale: Array, eps: Array) -> Array:
    """Draw from a Gaussian with diagonal covariance: mean + e^log_scale * eps.

    Parameters
    ----------
    mean : array (..., N)
    log_scale : array (..., N)
        Logarithms of the standard deviations.
    eps : array (..., N)
        Standard normal noise.

    Returns
    -------
    array (..., N)
        The draw; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> mean, log_scale = np.array([0.0, 1.0]), np.log([1.0, 0.5])
    >>> gvae.ops.sample_diagonal(mean, log_scale, np.array([1.0, -2.0]))
    array([1., 0.])
    """
    check_arrays("mean: ... N, log_scale: ... N, eps: ... N", mean=mean, log_scale=log_scale, eps=eps)
    return apply(np.add, mean, apply(np.multiply, np.exp(log_scale), eps))


@sample_diagonal.vjp
def _(z_bar: Array, z: Array, mean: Array, log_scale: Array, eps: Array, *, needs: Needs) -> Cotangents:
    # d/dmean = 1,  d/dlog s = s eps,  d/deps = s
    along = apply(np.multiply, z_bar, np.exp(log_scale)) if needs[1] or needs[2] else None
    return (
        unbroadcast(z_bar, mean.shape) if needs[0] else None,
        unbroadcast(apply(np.multiply, along, eps), log_scale.shape) if needs[1] else None,
        unbroadcast(along, eps.shape) if needs[2] else None,
    )


@primitive(saves=True)
def kl_divergence_diagonal(mean: Array, log_scale: Array, *, save: bool = False) -> Any:
    """KL(N(mean, diag e^(2 log_scale)) ‖ N(0, I)).

    Parameters
    ----------
    mean, log_scale : array (..., N)
    save : bool, default False
        For the tape: return e^(2 log_scale) - 1 as well, which the derivative needs.

    Returns
    -------
    array (...)
        Nats; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError

    Notes
    -----
    Source: Kingma and Welling (2014), app. B.

    Examples
    --------
    >>> mean, log_scale = np.array([0.0, 1.0]), np.log([1.0, 0.5])
    >>> gvae.ops.kl_divergence_diagonal(mean, log_scale).round(4)
    np.float64(0.8181)
    """
    check_arrays("mean: ... N, log_scale: ... N", mean=mean, log_scale=log_scale)
    excess = np.exp(2 * log_scale) - 1
    kl = (0.5 * (mean * mean + excess) - log_scale).sum(axis=-1)
    return (kl, excess) if save else kl


@kl_divergence_diagonal.vjp
def _(kl_bar: Array, kl: Array, mean: Array, log_scale: Array, *, needs: Needs, saved: Any) -> Cotangents:
    # d/dmean = mean,  d/dlog s = s² - 1
    kl_bar = kl_bar[..., None]
    return (
        unbroadcast(kl_bar * mean, mean.shape) if needs[0] else None,
        unbroadcast(kl_bar * saved, log_scale.shape) if needs[1] else None,
    )


def sample_dense(mean: Array, scale_tril: Array, eps: Array) -> Array:
    """Draw from N(mean, R Rᵀ): mean + R eps, with standard normal eps.

    Parameters
    ----------
    mean : array (..., N)
    scale_tril : array (..., N, N)
        R, lower triangular.
    eps : array (..., N)
        Standard normal noise.

    Returns
    -------
    array (..., N)
        The draw; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> scale_tril = np.array([[1.0, 0.0], [0.5, 1.0]])
    >>> gvae.ops.sample_dense(np.zeros(2), scale_tril, np.array([1.0, 2.0]))
    array([1. , 2.5])
    """
    check_arrays("mean: ... N, scale_tril: ... N N, eps: ... N", mean=mean, scale_tril=scale_tril, eps=eps)
    return add(mean, matmul(scale_tril, eps[..., None])[..., 0])


def log_prob_dense(x: Array, mean: Array, scale_tril: Array) -> Array:
    """Log-density log N(x; mean, R Rᵀ) of a Gaussian with a dense factor R of its covariance.

    Parameters
    ----------
    x, mean : array (..., N)
    scale_tril : array (..., N, N)
        R, lower triangular.

    Returns
    -------
    array (...)
        Nats; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> scale_tril = np.array([[1.0, 0.0], [0.5, 1.0]])
    >>> gvae.ops.log_prob_dense(np.array([1.0, 2.5]), np.zeros(2), scale_tril).round(4)
    np.float64(-4.3379)
    """
    check_arrays("x: ... N, mean: ... N, scale_tril: ... N N", x=x, mean=mean, scale_tril=scale_tril)
    eps = linalg.solve_triangular(scale_tril, subtract(x, mean)[..., None])[..., 0]
    quadratic = arrays.sum(square(eps), axis=-1)
    return -0.5 * quadratic - arrays.sum(_log_diagonal(scale_tril), axis=-1) - 0.5 * x.shape[-1] * LOG_2PI


def kl_divergence_dense(mean: Array, scale_tril: Array) -> Array:
    """KL(N(mean, R Rᵀ) ‖ N(0, I)), summed node by node.

    Parameters
    ----------
    mean : array (..., N)
    scale_tril : array (..., N, N)
        R, lower triangular.

    Returns
    -------
    array (...)
        Nats; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> scale_tril = np.array([[1.0, 0.0], [0.5, 1.0]])
    >>> gvae.ops.kl_divergence_dense(np.zeros(2), scale_tril)
    np.float64(0.125)
    """
    check_arrays("mean: ... N, scale_tril: ... N N", mean=mean, scale_tril=scale_tril)
    variance = arrays.sum(square(scale_tril), axis=-1)
    node = 0.5 * (variance + square(mean) - 1) - _log_diagonal(scale_tril)
    return arrays.sum(node, axis=-1)


def _log_diagonal(scale_tril: Array) -> Array:
    return log(arrays.diagonal(scale_tril))
