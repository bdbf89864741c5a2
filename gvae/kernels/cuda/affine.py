"""Declarations of affine.cu, and what stands beside the products."""

from typing import Any

from gvae.kernels.cuda.launch import elements, kernel
from gvae.kernels.cuda.product import multiply

bias_activation = kernel("affine", "bias_activation", "a: T rows O, bias: T O, activation: scalar int32 -> O", elements("O"))
activation_vjp = kernel("affine", "activation_vjp", "y: T size, a_bar: T size, activation: scalar int32", elements())


def affine(x: Any, weight: Any, bias: Any, y: Any, activation: int, by_rows: bool, lo: int, hi: int) -> None:
    multiply(x, weight, y)
    bias_activation(y, bias, activation, 0, len(y))


def affine_weight_vjp(y: Any, x: Any, a_bar: Any, weight_bar: Any, bias_bar: Any, activation: int, lo: int, hi: int) -> None:
    if activation:
        activation_vjp(y.reshape(-1), a_bar.reshape(-1), activation, 0, y.size)
    multiply(x.T, a_bar, weight_bar)
    a_bar.sum(axis=0, out=bias_bar)


def affine_input_vjp(a_bar: Any, weight: Any, x_bar: Any, by_rows: bool, lo: int, hi: int) -> None:
    multiply(a_bar, weight.T, x_bar)
