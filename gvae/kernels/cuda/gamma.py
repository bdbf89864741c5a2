"""Declarations of gamma.cu."""

from gvae.kernels.cuda.launch import elements, kernel

quantile = kernel(
    "gamma",
    "quantile",
    "shape: T Q N, shape_rows: int64 R, uniform: T R N, least: scalar T, log_z: T R N -> N",
    elements("N"),
)
quantile_vjp = kernel(
    "gamma",
    "quantile_vjp",
    "log_z_bar: T R N, shape: T Q N, shape_rows: int64 R, log_z: T R N, shape_bar: T R N -> N",
    elements("N"),
)
stirling = kernel("gamma", "stirling", "x: T size, order: scalar int32, y: T size", elements())
poisson_quantile = kernel(
    "gamma",
    "poisson_quantile",
    "log_rate: T Q N, rate_rows: int64 R, uniform: T R N, count: T R N -> N",
    elements("N"),
)
