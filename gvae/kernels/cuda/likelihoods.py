"""Declarations of likelihoods.cu."""

from gvae.kernels.cuda.launch import Launch, kernel

ROW = 128  # threads that share a row, as in likelihoods.cu

bernoulli = kernel(
    "likelihoods",
    "bernoulli",
    "x: T Q N, x_rows: int64 R, logits: T R N, log_prob: T R, residual: T S N -> N S",
    lambda sizes, n: Launch(n, ROW),
)
