"""Matrix products and affine layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gvae import blas, dispatch, threads
from gvae.autodiff import Var, primitive
from gvae.checks import check_arrays, check_shapes
from gvae.errors import ConfigError
from gvae.ops import sparse
from gvae.ops.elementwise import unbroadcast

__all__ = ["ACTIVATIONS", "affine", "matmul"]

# Every derivative below is a function of the activation's OUTPUT, so a layer saves nothing but what it returns.
ACTIVATIONS = ("identity", "relu", "leaky_relu", "elu", "tanh", "sigmoid", "softplus")


@primitive
def matmul(x, y):
    """Matrix product x (..., n, k) @ y (..., k, m) -> (..., n, m); batch axes broadcast. Also attached as `@`."""
    check_arrays("x: ... n k, y: ... k m", x=x, y=y)
    return _product(x, y) if x.ndim == y.ndim == 2 and dispatch.is_cuda(x) else x @ y


@matmul.vjp
def _(z_bar, z, x, y, *, needs):
    # Z = X Y:  X̄ = Z̄ Yᵀ,  Ȳ = Xᵀ Z̄
    if x.ndim == y.ndim == 2 and dispatch.is_cuda(x):
        return _product(z_bar, y.T) if needs[0] else None, _product(x.T, z_bar) if needs[1] else None
    return (
        unbroadcast(z_bar @ y.swapaxes(-1, -2), x.shape) if needs[0] else None,
        unbroadcast(x.swapaxes(-1, -2) @ z_bar, y.shape) if needs[1] else None,
    )


def affine(x: Any, weight: Any, bias: Any, *, activation: str = "identity") -> Any:
    """activation(x @ weight + bias), one fused pass over the product.

    x : (..., I) array, or a SciPy / CuPy CSR matrix (rows, I)      weight : (I, O)      bias : (O,)
    activation : one of ACTIVATIONS (leaky_relu has slope 0.01)
    Returns (..., O). All leading axes of x form one matrix product.
    Raises ShapeError, DTypeError; ConfigError for an unknown activation.
    """
    if activation not in ACTIVATIONS:
        raise ConfigError(f"affine: activation is {activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    if sparse.is_csr(x):
        check_arrays("weight: I O, bias: O", weight=weight, bias=bias)
        check_shapes("x: rows I, weight: I O", x=x, weight=weight)
        return bias_activation(sparse.csr_matmul(x, weight), bias, activation=activation)
    return _affine(x, weight, bias, activation=activation)


@primitive
def _affine(x, weight, bias, *, activation):
    check_arrays("x: ... I, weight: I O, bias: O", where="affine", x=x, weight=weight, bias=bias)
    y = _product(_rows(x), weight)
    _add_bias_and_activate(y, bias, activation)
    return y.reshape(*x.shape[:-1], len(bias))


@_affine.vjp(fresh=True, into=True)
def _(y_bar, y, x, weight, bias, *, needs, into, activation):
    # A = X W + b, Y = f(A):  Ā = Ȳ f'(A),  X̄ = Ā Wᵀ,  W̄ = Xᵀ Ā,  b̄ = column sums of Ā
    a_bar = _rows(_activation_vjp(y_bar, y, activation))
    return (
        _product(a_bar, weight.T).reshape(x.shape) if needs[0] else None,
        _product(_rows(x).T, a_bar, into[1]) if needs[1] else None,
        _column_sums(a_bar, into[2]) if needs[2] else None,
    )


PIECES = 4  # of a large product; their number, and so their bits, do not depend on how many threads share them
WORTH_PIECES = 2e8  # multiplications and additions, some milliseconds: a thread that sleeps takes 0.1 ms to wake
OWN = 2e8  # multiplications on a device up to which the product is a kernel of ours, which a graph may hold; beyond: cuBLAS


def _product(x, y, out=None):
    """The matrix product of two matrices. Large ones lie in memory that was used before; where the BLAS itself has one
    thread, they are shared by ours, which do not spin while they wait."""
    (m, k), n = x.shape, y.shape[1]
    out = dispatch.empty((m, n), x.dtype, x) if out is None else out
    if dispatch.is_cuda(x):
        if m * k * n > OWN:
            return dispatch.namespace(x, y).matmul(x, y, out=out)  # CuPy does not answer for NumPy's matmul
        dispatch.launch("product", "product", *map(_as_stored, (x, y)), out, n=m, work=m * k * n)
        return out
    if 2 * m * k * n < WORTH_PIECES or blas.count() != 1:
        return np.matmul(x, y, out=out)
    threads.over(_multiply_pieces, x, y, out, n=PIECES, work=m * k * n)
    return out


def _as_stored(x):
    """The matrix as kernels take it: C-contiguous, or the transpose of such a one."""
    return x if x.flags.c_contiguous or x.flags.f_contiguous else dispatch.plain(x)


def _multiply_pieces(x, y, out, lo, hi):
    """Pieces lo .. hi - 1 of PIECES of the product, cut along its longer side."""
    (m, n), rows = out.shape, len(out) >= out.shape[1]
    for i in range(lo, hi):
        piece = slice(i * (m if rows else n) // PIECES, (i + 1) * (m if rows else n) // PIECES)
        if rows:
            np.matmul(x[piece], y, out=out[piece])
        else:
            np.matmul(x, y[:, piece], out=out[:, piece])


def _column_sums(x, out=None):
    """The sums over the rows of a matrix."""
    if dispatch.is_cuda(x):
        return x.sum(axis=0, out=out)
    out = np.empty(x.shape[1], x.dtype) if out is None else out
    threads.over(_sum_columns, x, out, n=x.shape[1], work=x.size, step=64)
    return out


def _sum_columns(x, out, lo, hi):
    np.add.reduce(x[:, lo:hi], axis=0, out=out[lo:hi])


def _add_bias_and_activate(y, bias, activation):
    """y <- f(y + bias), rows (R, O)."""
    settings = dispatch.plain(bias), ACTIVATIONS.index(activation)
    dispatch.launch("affine", "bias_activation", y, *settings, n=len(y), work=8 * y.size)


@primitive
def bias_activation(x, bias, *, activation):
    """activation(x + bias): x (..., O), bias (O,). The part of `affine` after its product."""
    check_arrays("x: ... O, bias: O", where="affine", x=x, bias=bias)
    y = dispatch.copy(x)
    _add_bias_and_activate(_rows(y), bias, activation)
    return y


@bias_activation.vjp
def _(y_bar, y, x, bias, *, needs, activation):
    a_bar = _activation_vjp(y_bar, y, activation)
    return a_bar, _rows(a_bar).sum(axis=0) if needs[1] else None


def _rows(x):
    """All leading axes as one; the last may be empty, which reshape(-1, 0) cannot see through."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _activation_vjp(y_bar, y, activation):
    """Ȳ f'(A) as a function of Y = f(A)."""
    if activation == "identity":
        return y_bar
    a_bar = dispatch.empty(y.shape, y.dtype, y)
    flat = [dispatch.plain(v).reshape(-1) for v in (y_bar, y)]
    settings = a_bar.reshape(-1), ACTIVATIONS.index(activation)
    dispatch.launch("affine", "activation_vjp", *flat, *settings, n=y.size, work=3 * y.size, step=1024)
    return a_bar


def _attach() -> None:
    Var.__matmul__ = lambda self, other: matmul(self, other)  # type: ignore[method-assign]
    Var.__rmatmul__ = lambda self, other: matmul(other, self)  # type: ignore[method-assign]


_attach()
