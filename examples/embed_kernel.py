"""gvae's kernels inside a numerical loop of your own: an alternating smoother, compiled as one Numba function.

A signal y = x + noise, where x is a random walk and a share of the observations are wild. The smoother alternates between
the posterior mean of x, one tridiagonal solve, and the weights of the observations (iteratively reweighted least squares
for Student-t noise). The solve is gvae's one-system kernel, called from this file's own jitted code without a wrapper.
"""

import numba
import numpy as np

from gvae.kernels.cpu.banded import solve_triangular_one, solve_triangular_transposed_one

OFFSETS = np.array([0, 1])


@numba.njit
def smooth(y, step_variance, noise_variance, freedom, iterations):
    N = len(y)
    x, weight, chol = y.copy(), np.ones(N), np.empty((2, N))
    for _ in range(iterations):
        # precision P = random walk + weighted observations, tridiagonal; its factor L is bidiagonal
        for j in range(N):
            chol[1, j] = -1 / step_variance if j + 1 < N else 0.0
            chol[0, j] = ((j > 0) + (j + 1 < N)) / step_variance + weight[j] / noise_variance
            if j > 0:
                chol[0, j] -= chol[1, j - 1] ** 2
            chol[0, j] = np.sqrt(chol[0, j])
            chol[1, j] /= chol[0, j]
        x = weight * y / noise_variance
        solve_triangular_one(chol, OFFSETS, x)
        solve_triangular_transposed_one(chol, OFFSETS, x)
        weight = (freedom + 1) / (freedom + (y - x) ** 2 / noise_variance)
    return x


rng = np.random.default_rng(0)
truth = np.cumsum(rng.normal(size=100_000)) * 0.1
observed = truth + 0.3 * rng.standard_t(1.5, size=truth.size)
estimate = smooth(observed, 0.01, 0.09, 1.5, 20)
print(
    f"median error: {np.median(np.abs(observed - truth)):.3f} observed, {np.median(np.abs(estimate - truth)):.3f} smoothed"
)
