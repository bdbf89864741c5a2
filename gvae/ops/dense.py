"""Matrix products and affine layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gvae.autodiff import Var, primitive
from gvae.checks import check_arrays, check_shapes
from gvae.errors import ConfigError
from gvae.ops import sparse
from gvae.ops.elementwise import unbroadcast
from gvae.runtime import device
from gvae.typing import Array, Cotangents, Needs

__all__ = ["ACTIVATIONS", "affine", "matmul"]

# Every derivative below is a function of the activation's OUTPUT, so a layer saves nothing but what it returns.
ACTIVATIONS = ("identity", "relu", "leaky_relu", "elu", "tanh", "sigmoid", "softplus")


@primitive
def matmul(x: Array, y: Array) -> Array:
    """Matrix product x @ y.

    Parameters
    ----------
    x : array (..., n, k)
    y : array (..., k, m)

    Returns
    -------
    array (..., n, m)
        Batch axes broadcast. For Vars, the operator `@` is the same.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Examples
    --------
    >>> x, y = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0], [-1.0]])
    >>> gvae.ops.matmul(x, y)
    array([[-1.],
           [-1.]])
    >>> gvae.gradient(lambda x: gvae.ops.matmul(x, y).sum(), x)
    array([[ 1., -1.],
           [ 1., -1.]])
    """
    check_arrays("x: ... n k, y: ... k m", x=x, y=y)
    return _on_device(x, y) if x.ndim == y.ndim == 2 and device.is_cuda(x) else x @ y


@matmul.vjp
def _(z_bar: Array, z: Array, x: Array, y: Array, *, needs: Needs) -> Cotangents:
    # Z = X Y:  X̄ = Z̄ Yᵀ,  Ȳ = Xᵀ Z̄
    if x.ndim == y.ndim == 2 and device.is_cuda(x):
        return _on_device(z_bar, y.T) if needs[0] else None, _on_device(x.T, z_bar) if needs[1] else None
    return (
        unbroadcast(z_bar @ y.swapaxes(-1, -2), x.shape) if needs[0] else None,
        unbroadcast(x.swapaxes(-1, -2) @ z_bar, y.shape) if needs[1] else None,
    )


def _on_device(x: Array, y: Array) -> Array:
    """The product of two matrices by gvae's own kernel, which a graph may hold, if it is small."""
    out = device.empty((len(x), y.shape[1]), x.dtype, x)
    device.kernels_for("product", x).multiply(x, y, out)
    return out


def affine(x: Array, weight: Array, bias: Array, *, activation: str = "identity") -> Array:
    """Affine layer, activation(x @ weight + bias): one matrix product and one fused pass over it.

    Parameters
    ----------
    x : array (..., I) or CSR matrix (rows, I)
        A CSR matrix of SciPy or CuPy is a constant: no derivative passes to it.
    weight : array (I, O)
    bias : array (O,)
    activation : str, default "identity"
        One of `ACTIVATIONS`; "leaky_relu" has slope 0.01.

    Returns
    -------
    array (..., O)
        All leading axes of x form one matrix product.

    Raises
    ------
    ConfigError
        The activation is unknown.
    ShapeError, DTypeError, DeviceError

    Examples
    --------
    >>> x, weight, bias = np.array([[1.0, 2.0]]), np.array([[1.0, -1.0], [1.0, 0.0]]), np.array([0.5, 0.5])
    >>> gvae.ops.affine(x, weight, bias, activation="relu")
    array([[3.5, 0. ]])
    >>> gvae.gradient(lambda w: gvae.ops.affine(x, w, bias, activation="relu").sum(), weight)
    array([[1., 0.],
           [2., 0.]])
    """
    if activation not in ACTIVATIONS:
        raise ConfigError(f"affine: activation is {activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    if sparse.is_csr(x):
        check_arrays("weight: I O, bias: O", weight=weight, bias=bias)
        check_shapes("x: rows I, weight: I O", x=x, weight=weight)
        return bias_activation(sparse.csr_matmul(x, weight), bias, activation=activation)
    return _affine(x, weight, bias, activation=activation)


@primitive(contract="x: ... I, weight: I O, bias: O", settings={"activation": ACTIVATIONS[:2]})
def _affine(x: Array, weight: Array, bias: Array, *, activation: str) -> Array:
    check_arrays(_affine.contract, where="affine", x=x, weight=weight, bias=bias)
    y = device.empty((*x.shape[:-1], len(bias)), x.dtype, x)
    arrays = *map(device.plain, (rows_of(x), weight, bias)), rows_of(y)
    launch_product("affine", "affine", *arrays, ACTIVATIONS.index(activation), out=arrays[-1], depth=len(weight))
    return y


@_affine.vjp(owned=True, out=True, may_overwrite=True)
def _(
    y_bar: Array,
    y: Array,
    x: Array,
    weight: Array,
    bias: Array,
    *,
    needs: Needs,
    out: Sequence[Array | None],
    may_overwrite: bool,
    activation: str,
) -> Cotangents:
    # A = X W + b, Y = f(A):  Ā = Ȳ f'(A),  X̄ = Ā Wᵀ,  W̄ = Xᵀ Ā,  b̄ = column sums of Ā
    rows, weight, y = (device.plain(v) for v in (rows_of(x), weight, rows_of(y)))
    a_bar = device.plain(rows_of(y_bar))  # still Ȳ
    if activation != "identity" and not may_overwrite:
        a_bar = device.copy(a_bar)
    weight_bar, bias_bar = None, None
    if needs[1] or needs[2]:
        weight_bar = device.empty(weight.shape, y.dtype, y) if out[1] is None else out[1]
        bias_bar = device.empty(bias.shape, y.dtype, y) if out[2] is None else out[2]
        arrays = y, rows, a_bar, weight_bar, bias_bar, ACTIVATIONS.index(activation)
        launch_sums("affine", "affine_weight_vjp", *arrays, n=len(bias), work=rows.size * len(bias))
    else:
        activation_vjp(y, activation, a_bar)
    x_bar = None
    if needs[0]:
        x_bar = device.empty(x.shape, y.dtype, y)
        rows = rows_of(x_bar)
        launch_product("affine", "affine_input_vjp", a_bar, weight, rows, out=rows, depth=weight.shape[1])
    return x_bar, weight_bar, bias_bar


MANY_ROWS = 256  # shared by rows; fewer are shared by columns, so that no two threads pack the same weights
COLUMNS = 16  # a whole number of vectors
FLOPS = 16  # multiplications and additions that take as long as a number's transfer from memory and back


def launch_product(family: str, name: str, *arguments: Any, out: Array, depth: int) -> None:
    """Launch a kernel whose `out` is a product of rows and weights: shared by rows if there are many, else by columns."""
    by_rows = len(out) >= MANY_ROWS
    n, step = (len(out), 1) if by_rows else (out.shape[1], COLUMNS)
    device.launch(family, name, *arguments, by_rows, n=n, work=out.size * depth // FLOPS, step=step)


def launch_sums(family: str, name: str, *arguments: Any, n: int, work: int) -> None:
    """Launch a kernel whose result is a sum over rows: shared by columns."""
    device.launch(family, name, *arguments, n=n, work=work // FLOPS, step=COLUMNS)


def _add_bias_and_activate(y: Array, bias: Array, activation: str) -> None:
    """y <- f(y + bias), rows (R, O)."""
    settings = device.plain(bias), ACTIVATIONS.index(activation)
    device.launch("affine", "bias_activation", y, *settings, n=len(y), work=8 * y.size)


@primitive(contract="x: ... O, bias: O", settings={"activation": ACTIVATIONS[:2]})
def bias_activation(x: Array, bias: Array, *, activation: str) -> Array:
    """activation(x + bias): x (..., O), bias (O,). The part of `affine` after its product."""
    check_arrays(bias_activation.contract, where="affine", x=x, bias=bias)
    y = device.copy(x)
    _add_bias_and_activate(rows_of(y), bias, activation)
    return y


@bias_activation.vjp
def _(y_bar: Array, y: Array, x: Array, bias: Array, *, needs: Needs, activation: str) -> Cotangents:
    a_bar = y_bar
    if activation != "identity":
        a_bar = device.copy(y_bar)
        activation_vjp(y, activation, a_bar)
    return a_bar, rows_of(a_bar).sum(axis=0) if needs[1] else None


def rows_of(x: Array) -> Array:
    """All leading axes as one; the last may be empty, for which reshape(-1, 0) is undefined."""
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def activation_vjp(y: Array, activation: str, a_bar: Array) -> None:
    """Ā <- Ā f'(A) as a function of Y = f(A)."""
    if activation != "identity":
        arrays = device.plain(y).reshape(-1), a_bar.reshape(-1), ACTIVATIONS.index(activation)
        device.launch("affine", "activation_vjp", *arrays, n=y.size, work=3 * y.size, step=1024)


def _attach() -> None:
    """Give Var its matrix product; `gvae.autodiff` imports this module for that purpose."""

    def __matmul__(self: Any, other: Array) -> Array:
        return matmul(self, other)

    def __rmatmul__(self: Any, other: Array) -> Array:
        return matmul(other, self)

    for method in (__matmul__, __rmatmul__):
        method.__qualname__ = f"Var.{method.__name__}"
        setattr(Var, method.__name__, method)


_attach()
