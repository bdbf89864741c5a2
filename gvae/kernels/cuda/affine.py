"""Declarations of affine.cu, and its layers: products with the operations around them."""

from typing import Any

from gvae.kernels.cuda.launch import elements, kernel
from gvae.kernels.cuda.product import as_stored, multiply, ours, product

bias_activation = kernel("affine", "bias_activation", "a: T rows O, bias: T O, activation: scalar int32 -> O", elements("O"))
activation_vjp = kernel("affine", "activation_vjp", "y: T size, a_bar: T size, activation: scalar int32", elements())


def affine(x: Any, weight: Any, bias: Any, y: Any, activation: int, by_rows: bool, lo: int, hi: int) -> None:
    if ours(x, weight):
        product(as_stored(x), as_stored(weight), y, 0, len(y), bias, activation)
    else:
        multiply(x, weight, y)
        bias_activation(y, bias, activation, 0, len(y))


def affine_weight_vjp(y: Any, x: Any, a_bar: Any, weight_bar: Any, bias_bar: Any, activation: int, lo: int, hi: int) -> None:
    if activation:
        activation_vjp(y.reshape(-1), a_bar.reshape(-1), activation, 0, y.size)
    multiply_and_sum(x, None, a_bar, weight_bar, bias_bar)


def affine_input_vjp(a_bar: Any, weight: Any, x_bar: Any, by_rows: bool, lo: int, hi: int) -> None:
    multiply(a_bar, weight.T, x_bar)


def multiply_and_sum(x: Any, scale: Any, a_bar: Any, weight_bar: Any, bias_bar: Any) -> None:
    """weight_bar = xᵀ diag(scale) a_bar and bias_bar = scaleᵀ a_bar, without scale the sums."""
    if weight_bar.size and ours(x.T, a_bar):  # without an input nothing is launched, and the sums are wanted all the same
        product(as_stored(x.T), as_stored(a_bar), weight_bar, 0, len(weight_bar), scale=scale, sums=bias_bar)
        return
    if scale is None:
        multiply(x.T, a_bar, weight_bar)
        a_bar.sum(axis=0, out=bias_bar)
    else:
        multiply((x * scale[:, None]).T, a_bar, weight_bar)
        multiply(scale[None], a_bar, bias_bar[None])
