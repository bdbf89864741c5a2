"""Declarations of likelihoods.cu, and the operations around the products."""

import sys
from typing import Any

from gvae.kernels.cuda.affine import affine, affine_input_vjp, multiply_and_sum
from gvae.kernels.cuda.launch import Launch, kernel

ROW = 128  # threads that share a row, as in likelihoods.cu

bernoulli = kernel(
    "likelihoods",
    "bernoulli",
    "x: T Q N, x_rows: int64 R, logits: T R N, log_prob: T R, residual: T S N -> N S",
    lambda sizes, n: Launch(n, ROW),
)


def bernoulli_affine(
    x: Any, x_rows: Any, h: Any, weight: Any, bias: Any, log_prob: Any, residual: Any, lo: int, hi: int
) -> None:
    logits = sys.modules["cupy"].empty((len(h), len(bias)), h.dtype)
    affine(h, weight, bias, logits, 0, True, 0, len(bias))
    bernoulli(x, x_rows, logits, log_prob, residual, 0, len(h))


def bernoulli_affine_input_vjp(
    log_prob_bar: Any, residual: Any, weight: Any, h_bar: Any, by_rows: bool, lo: int, hi: int
) -> None:
    affine_input_vjp(residual, weight, h_bar, by_rows, lo, hi)
    h_bar *= log_prob_bar[:, None]


def bernoulli_affine_weight_vjp(
    log_prob_bar: Any, residual: Any, h: Any, weight_bar: Any, bias_bar: Any, lo: int, hi: int
) -> None:
    multiply_and_sum(h, log_prob_bar, residual, weight_bar, bias_bar)
