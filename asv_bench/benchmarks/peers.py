"""PyTorch and JAX as baselines, each in the form that suits it best; neither has to be installed.

JAX sees a chain in three forms, each with a layout of its own. All are jitted and compiled, and their inputs lie in
that layout, before the clock starts. They run in float32, JAX's default. A factor is a pair (a, c) of its two diagonals.

    Scan         lax.scan over time, the batch as SIMD lanes: arrays (N, ..., B), so that a step reads neighbours
    Associative  lax.associative_scan of the affine maps x -> p x + q, in the same layout
    Tridiagonal  lax.linalg.tridiagonal_solve (LAPACK's gtsv): arrays (B, N, K) with K right-hand sides of each factor

PyTorch has no banded form: its matrices are dense.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .common import optional


class Scan:
    axis = 0  # of time

    def __init__(self):
        self.jax = optional("jax")
        self.np, self.lax = self.jax.numpy, self.jax.lax

    def pack(self, x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(x, -1, 0))

    def unpack(self, x: Any) -> np.ndarray:
        return np.moveaxis(np.asarray(x), 0, -1)

    def factor(self, chol: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.pack(chol[:, 0]), self.pack(chol[:, 1])

    def to_numpy(self, result: Any) -> np.ndarray:
        """A pair of diagonals, an array with time, or one number per system."""
        if isinstance(result, tuple):
            return np.stack([self.unpack(x) for x in result], axis=-2)
        return self.unpack(result) if result.ndim > 1 else np.asarray(result)

    def solve(self, chol, b, trans):
        # carrying c x, and not x, spares the shift of c by one: a pass over memory
        def step(s, t):
            a, c, b = t
            x = (b - s) / a
            return c * x, x

        def step_transposed(x, t):
            a, c, b = t
            x = (b - c * x) / a
            return x, x

        start = self.np.zeros_like(b[0])
        return self.lax.scan(step_transposed if trans else step, start, (*chol, b), reverse=trans)[1]

    def affine(self, p, q):
        """x_j = p_j x_(j+1) + q_j, from the end."""

        def step(x, t):
            x = t[0] * x + t[1]
            return x, x

        return self.lax.scan(step, self.np.zeros_like(q[0]), (p, q), reverse=True)[1]

    def inverse(self, chol):
        """The selected inverse of a chain: variances, and covariances of neighbours (zero at the end)."""
        a, c = chol
        r = -c / a
        variance = self.affine(r * r, 1 / (a * a))
        return variance, r * self.later(variance)

    def later(self, x):
        """x_(j+1), zero at the end."""
        return self.lax.pad(self.lax.slice_in_dim(x, 1, None, axis=self.axis), 0.0, self._at_end(x))

    def _at_end(self, x):
        return [(0, int(i == self.axis), 0) for i in range(x.ndim)]


class Associative(Scan):
    def solve(self, chol, b, trans):
        a, c = chol
        if trans:
            return self.affine(-c / a, b / a)
        before = self.np.concatenate([self.np.zeros_like(c[:1]), c[:-1]])
        return self._compose(-before / a, b / a, reverse=False)

    def affine(self, p, q):
        return self._compose(p, q, reverse=True)

    def _compose(self, p, q, reverse):
        first_then = lambda f, g: (g[0] * f[0], g[0] * f[1] + g[1])  # noqa: E731
        return self.lax.associative_scan(first_then, (p, q), reverse=reverse)[1]


class Tridiagonal(Scan):
    axis = 1

    def pack(self, x):
        return np.ascontiguousarray(np.moveaxis(x.reshape(-1, *x.shape[-2:]), 0, -1))

    def unpack(self, x):
        x = np.moveaxis(np.asarray(x), -1, 0)
        return x[0] if len(x) == 1 else x

    def solve(self, chol, b, trans):
        a, c = (x[..., 0] for x in chol)
        zero = self.np.zeros_like(a)
        if trans:
            return self.lax.linalg.tridiagonal_solve(zero, a, c, b)
        before = self.np.concatenate([zero[:, :1], c[:, :-1]], axis=1)
        return self.lax.linalg.tridiagonal_solve(before, a, zero, b)

    def affine(self, p, q):
        raise NotImplementedError("a solver gives no selected inverse")


JAX = {"jax_scan": Scan, "jax_associative": Associative, "jax_tridiagonal": Tridiagonal}


def jax_call(f: Callable, arguments: tuple, cotangent: Any = None) -> Callable[[], Any]:
    """The compiled call of f, with a cotangent that of (value, cotangents of the arguments)."""
    import jax

    def both(cotangent, *arguments):
        value, pull = jax.vjp(f, *arguments)
        return value, *pull(cotangent)

    compiled, arguments = (jax.jit(f), arguments) if cotangent is None else (jax.jit(both), (cotangent, *arguments))
    arguments = jax.device_put(arguments)
    return lambda: jax.block_until_ready(compiled(*arguments))
