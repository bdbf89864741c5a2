"""Declarations of affine.cu."""

from gvae.kernels.cuda.launch import elements, kernel

bias_activation = kernel("affine", "bias_activation", "a: T rows O, bias: T O, activation: scalar int32 -> O", elements("O"))
activation_vjp = kernel(
    "affine", "activation_vjp", "y_bar: T size, y: T size, a_bar: T size, activation: scalar int32", elements()
)
