"""Arithmetic and elementwise functions, with NumPy's broadcasting. Gives Var its arithmetic operators.

Arrays are float32 or float64 and share one dtype within a call; Python numbers are weak (they take the array's dtype).
NumPy's functions dispatch to CuPy by themselves, so each formula is written once.
"""

from gvae.ops.elementwise._operands import unbroadcast as unbroadcast
from gvae.ops.elementwise.arithmetic import abs, add, divide, maximum, minimum, multiply, negative, power, subtract, where
from gvae.ops.elementwise.functions import (
    bounded,
    elu,
    exp,
    expm1,
    leaky_relu,
    log,
    log1p,
    relu,
    sigmoid,
    softplus,
    sqrt,
    square,
    tanh,
)
from gvae.ops.elementwise.special import (
    digamma,
    langevin,
    lgamma,
    log_beta,
    log_poisson,
    log_sinhc,
    stirling,
    stirling_slope,
)
from gvae.ops.elementwise.special import langevin_slope as langevin_slope

__all__ = [
    "abs",
    "add",
    "bounded",
    "digamma",
    "divide",
    "elu",
    "exp",
    "expm1",
    "langevin",
    "leaky_relu",
    "lgamma",
    "log",
    "log1p",
    "log_beta",
    "log_poisson",
    "log_sinhc",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "power",
    "relu",
    "sigmoid",
    "softplus",
    "sqrt",
    "square",
    "stirling",
    "stirling_slope",
    "subtract",
    "tanh",
    "where",
]
