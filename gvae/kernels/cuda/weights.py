"""Declarations of weights.cu."""

from gvae.kernels.cuda.launch import elements, kernel

log_mean_exp = kernel(
    "weights", "log_mean_exp", "log_weights: T O K I, result: T O I, weights: T O V I -> K I V", elements("I")
)
