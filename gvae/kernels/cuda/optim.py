"""Declarations of optim.cu."""

from gvae.kernels.cuda.launch import elements, kernel

adam = kernel(
    "optim",
    "adam",
    "gradient: T size, parameters: T size, m: T size, v: T size, "
    "rate: number T, beta1: scalar T, beta2: scalar T, eps: number T",
    elements(),
)
adamw = kernel(
    "optim",
    "adamw",
    "gradient: T size, is_weight: T size, parameters: T size, m: T size, v: T size, "
    "rate: number T, beta1: scalar T, beta2: scalar T, eps: number T, decay: number T",
    elements(),
)
sgd = kernel("optim", "sgd", "gradient: T size, parameters: T size, rate: number T", elements())
momentum = kernel(
    "optim", "momentum", "gradient: T size, parameters: T size, m: T size, rate: number T, beta: scalar T", elements()
)
