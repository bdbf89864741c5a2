"""Declarations of optim.cu."""

from gvae.kernels.cuda.launch import elements, kernel

adam = kernel(
    "optim",
    "adam",
    "gradient: T size, parameters: T size, m: T size, v: T size, "
    "rate: number T, beta1: scalar T, beta2: scalar T, eps: number T",
    elements(),
)
