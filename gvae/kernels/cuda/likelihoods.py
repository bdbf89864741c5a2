"""Declarations of likelihoods.cu, and what stands beside the products."""

import sys
from typing import Any

from gvae.kernels.cuda.affine import bias_activation
from gvae.kernels.cuda.launch import Launch, kernel
from gvae.kernels.cuda.product import multiply

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
    multiply(h, weight, logits)
    bias_activation(logits, bias, 0, 0, len(h))
    bernoulli(x, x_rows, logits, log_prob, residual, 0, len(h))


def bernoulli_affine_input_vjp(
    log_prob_bar: Any, residual: Any, weight: Any, h_bar: Any, by_rows: bool, lo: int, hi: int
) -> None:
    multiply(residual, weight.T, h_bar)
    h_bar *= log_prob_bar[:, None]


def bernoulli_affine_weight_vjp(
    log_prob_bar: Any, residual: Any, h: Any, weight_bar: Any, bias_bar: Any, lo: int, hi: int
) -> None:
    multiply((h * log_prob_bar[:, None]).T, residual, weight_bar)
    multiply(log_prob_bar[None], residual, bias_bar[None])
