"""How accurate each op is: one table of rows, each a promised bound and the worst that is seen of it.

A row's `measure(dtype)` returns errors in units of the bound's formula, and `limit` is what they must stay below. As in
LAPACK's own tests, residuals are divided by norms, size and eps, and a limit of 30 serves all shapes: sizes 0 to 300,
bandwidths 0 to 4 and an extended grid, random, graded and nearly singular, several systems at once, both of L and Lᵀ.
`accuracy_page.py` writes docs/accuracy.md from this table.

The exact value is had in float64 for float32, and in 40 digits of mpmath for float64: arrays of objects there, so that one
text serves both. eps is the distance from 1 to the next number: 1.2e-7 and 2.2e-16.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import accuracy_page
import mpmath
import numpy as np
import pytest
import test_gamma
import test_math_kernels as kernels
from cases import CASES
from nightly import thinned
from scipy import sparse, special

from gvae import ops

DTYPES = (np.float32, np.float64)
SIZES = (0, 1, 2, 3, 5, 10, 50, 300)
SMALL = (1, 2, 3, 5, 10, 30)  # where the exact value needs an inverse
PATTERNS = (*(tuple(range(m)) for m in range(1, 6)), (0, 1, 7))
BATCH = 2


@dataclass(frozen=True)
class Row:
    op: str
    unit: str  # the bound without its factor, after "error ≤ " where the error is written out
    limit: float
    measure: Callable[[type], Iterator[float]]

    @property
    def bound(self) -> str:
        error, at_most, unit = self.unit.rpartition(" ≤ ")
        return f"{error}{at_most}{self.limit:g} {unit}"

    def worst(self, dtype: type) -> float:
        with mpmath.workdps(40):
            return max((float(r) for r in self.measure(dtype)), default=0.0)


# Exact arithmetic


def wide(x):
    """The same numbers in an arithmetic that is exact by comparison."""
    return x.astype(np.float64) if x.dtype == np.float32 else np.vectorize(mpmath.mpf, otypes=[object])(x)


def apply(name, x):
    """An elementary function in the arithmetic of x."""
    x = np.asarray(x)
    return np.vectorize(getattr(mpmath, name), otypes=[object])(x)[()] if x.dtype == object else getattr(np, name)(x)


def pi(like):
    return +mpmath.pi if like.dtype == object else math.pi


def eps(dtype):
    return float(np.finfo(dtype).eps)


def tiny(exact):
    """The smallest normal number of the dtype whose exact arithmetic this is: below it, relative errors have no bound."""
    return float(np.finfo(np.float64 if exact.dtype == object else np.float32).tiny)


def largest(x):
    return np.max(np.abs(x), initial=0)


def multiply(chol, offsets, x, trans=False):
    """L x, or Lᵀ x."""
    N, y = chol.shape[-1], chol[0] * x
    for k, o in enumerate(offsets):
        if 0 < o < N:
            if trans:
                y[: N - o] += chol[k, : N - o] * x[o:]
            else:
                y[o:] += chol[k, : N - o] * x[: N - o]
    return y


def norm(chol, offsets, trans=False):
    """|L|₁, or |Lᵀ|₁: the largest sum of a column of absolute entries."""
    return largest(multiply(np.abs(chol), offsets, np.ones(chol.shape[-1], int), trans=not trans))


def product(chol, offsets):
    """The lower band of L Lᵀ, at every offset 0 .. offsets[-1]."""
    N = chol.shape[-1]
    band = np.zeros((offsets[-1] + 1, N), chol.dtype)
    for k, o in enumerate(offsets):
        for l, p in enumerate(offsets[: k + 1]):
            if o < N:
                band[o - p, p : p + N - o] += chol[k, : N - o] * chol[l, : N - o]
    return band


def symmetric_norm(band):
    """|A|₁ of a symmetric band."""
    a, ones, offsets = np.abs(band), np.ones(band.shape[-1], int), range(len(band))
    return largest(multiply(a, offsets, ones) + multiply(a, offsets, ones, trans=True) - a[0])


def inverse_factor(chol, offsets):
    """L⁻¹, dense, by forward substitution."""
    N = chol.shape[-1]
    x = np.zeros((N, N), chol.dtype) + chol[:1, :1] * 0
    for i in range(N):
        x[i, i] += 1
        for k, o in enumerate(offsets):
            if 0 < o <= i:
                x[i] = x[i] - chol[k, i - o] * x[i - o]
        x[i] = x[i] / chol[0, i]
    return x


def variances(chol, offsets):
    """The diagonal of (L Lᵀ)⁻¹."""
    x = inverse_factor(chol, offsets)
    return (x * x).sum(axis=0)


def condition(chol, offsets):
    """cond₁ of L and of L Lᵀ; float64 is enough for it."""
    L = ops.band_to_dense(chol.astype(np.float64), offsets=offsets)
    return np.linalg.cond(L, 1), np.linalg.cond(L @ L.T, 1)


# What is measured


def factors(dtype, sizes=SIZES):
    """(chol (B, M, N), offsets, rng): random; graded over four decades; one pivot so small that cond(A) is near 1/eps."""
    for n in sizes:
        for p, offsets in enumerate(PATTERNS):
            for kind in ("random", "graded", "nearly singular"):
                rng = np.random.default_rng([n, p, len(kind)])
                chol = rng.normal(size=(BATCH, len(offsets), n)) * 0.7 / len(offsets)
                chol[:, 0] = rng.uniform(0.7, 2.0, (BATCH, n))
                if kind == "graded":
                    for k, o in enumerate(offsets):
                        chol[:, k] *= 10.0 ** (-4 * (np.arange(n) + o) / max(n, 1))
                elif kind == "nearly singular" and n:
                    chol[:, 0, n // 2] = math.sqrt(1000 * eps(dtype))
                yield chol.astype(dtype), offsets, rng


def vector(rng, dtype, n):
    return rng.normal(size=(BATCH, n)).astype(dtype)


def cholesky_banded(dtype):
    for chol, offsets, _ in factors(dtype):
        if offsets == tuple(range(len(offsets))):
            band = np.stack([product(c.astype(np.float64), offsets) for c in chol]).astype(dtype)
            for a, l in zip(wide(band), wide(ops.cholesky_banded(band)), strict=True):
                residual, size = symmetric_norm(a - product(l, offsets)), symmetric_norm(a)
                yield residual / (max(a.shape[-1], 1) * size * eps(dtype)) if size else 0


def gram_banded(dtype):
    for chol, offsets, _ in factors(dtype):
        for l, a in zip(wide(chol), wide(ops.gram_banded(chol, offsets=offsets)), strict=True):
            error, size = symmetric_norm(a - product(l, offsets)), symmetric_norm(product(np.abs(l), offsets))
            yield error / (size * eps(dtype)) if size else 0


def solve_triangular_banded(trans):
    def measure(dtype):
        for chol, offsets, rng in factors(dtype):
            b = vector(rng, dtype, chol.shape[-1])
            x = ops.solve_triangular_banded(chol, b, offsets=offsets, trans=trans)
            for l, b_, x_ in zip(wide(chol), wide(b), wide(x), strict=True):
                residual = np.abs(b_ - multiply(l, offsets, x_, trans)).sum()
                yield residual / (norm(l, offsets, trans) * np.abs(x_).sum() * eps(dtype)) if len(x_) else 0

    return measure


def cho_solve_banded(dtype):
    for chol, offsets, rng in factors(dtype):
        b = vector(rng, dtype, chol.shape[-1])
        x = ops.cho_solve_banded(chol, b, offsets=offsets)
        for l, b_, x_ in zip(wide(chol), wide(b), wide(x), strict=True):
            residual = np.abs(b_ - multiply(l, offsets, multiply(l, offsets, x_, trans=True))).sum()
            yield residual / (symmetric_norm(product(l, offsets)) * np.abs(x_).sum() * eps(dtype)) if len(x_) else 0


def multiply_triangular_banded(trans):
    def measure(dtype):
        for chol, offsets, rng in factors(dtype):
            x = vector(rng, dtype, chol.shape[-1])
            y = ops.multiply_triangular_banded(chol, x, offsets=offsets, trans=trans)
            for l, x_, y_ in zip(wide(chol), wide(x), wide(y), strict=True):
                error = np.abs(y_ - multiply(l, offsets, x_, trans)).sum()
                yield error / (norm(l, offsets, trans) * np.abs(x_).sum() * eps(dtype)) if len(x_) else 0

    return measure


def sample_banded(dtype):
    for chol, offsets, rng in factors(dtype):
        mean, noise = vector(rng, dtype, chol.shape[-1]), vector(rng, dtype, chol.shape[-1])
        z = ops.sample_banded(mean, chol, noise, offsets=offsets)
        for l, m, e, z_ in zip(*map(wide, (chol, mean, noise, z)), strict=True):
            residual = np.abs(e - multiply(l, offsets, z_ - m, trans=True)).sum()
            size = norm(l, offsets, trans=True) * (np.abs(z_) + np.abs(m)).sum()
            yield residual / (size * eps(dtype)) if len(m) else 0


def inverse_like(op, exact):
    """Errors of the selected inverse and what is read off it, relative to the largest entry, over n eps cond(A)."""

    def measure(dtype):
        for chol, offsets, _ in factors(dtype, SMALL if dtype == np.float64 else SIZES[1:]):
            for l, l_exact, value in zip(chol, wide(chol), op(chol, offsets), strict=True):
                expected = exact(l_exact, offsets)
                error = largest(wide(value) - expected) / largest(expected)
                yield error / (chol.shape[-1] * eps(dtype) * condition(l, offsets)[1])

    return measure


def stored_inverse(offsets_of):
    def exact(l, offsets):
        x, n = inverse_factor(l, offsets), l.shape[-1]
        rows = [np.concatenate([(x[:, d:] * x[:, : n - d]).sum(axis=0), l[0, :d] * 0]) for d in offsets_of(offsets) if d < n]
        return np.stack(rows + [l[0] * 0] * sum(d >= n for d in offsets_of(offsets)))

    return exact


def trace_probe_banded(trans):
    def measure(dtype):
        for chol, offsets, rng in factors(dtype, SMALL):
            v = vector(rng, dtype, chol.shape[-1])
            got = ops.trace_probe_banded(chol, v, offsets=offsets, trans=trans)
            for l, l_, v_, g in zip(chol, wide(chol), wide(v), wide(got), strict=True):
                x = inverse_factor(l_, offsets)
                w = (v_[:, None] * x).sum(axis=0) if trans else (x * v_).sum(axis=1)
                yield abs(g - (w * w).sum()) / (w * w).sum() / (len(v_) * eps(dtype) * condition(l, offsets)[0])

    return measure


def logdet_like(op, exact):
    """Sums of logarithms of pivots, over eps times the sum of absolute terms."""

    def measure(dtype):
        for chol, _, _ in factors(dtype, SIZES[1:]):
            for l, g in zip(wide(chol), wide(np.asarray(op(chol))), strict=True):
                expected, terms = exact(apply("log", l[0]))
                yield largest(g - expected) / (np.max(terms) * eps(dtype))

    return measure


def log_pivots_banded(dtype):
    for chol, _, _ in factors(dtype, SIZES[1:]):
        got, expected = wide(ops.log_pivots_banded(chol)), apply("log", wide(chol)[:, 0])
        yield largest((got - expected) / expected) / eps(dtype)


def log_prob_banded(dtype):
    for chol, offsets, rng in factors(dtype):
        x, mean = vector(rng, dtype, chol.shape[-1]), vector(rng, dtype, chol.shape[-1])
        got = ops.log_prob_banded(x, mean, chol, offsets=offsets)
        for l, x_, m, g in zip(*map(wide, (chol, x, mean, got)), strict=True):
            w = multiply(l, offsets, x_ - m, trans=True)
            w_abs = multiply(np.abs(l), offsets, np.abs(x_) + np.abs(m), trans=True)
            logs, constant = apply("log", l[0]), len(m) * apply("log", 2 * pi(l)) / 2
            terms = (w_abs * w_abs).sum() / 2 + np.abs(logs).sum() + constant
            yield abs(g - logs.sum() + (w * w).sum() / 2 + constant) / (terms * eps(dtype)) if len(m) else 0


def log_prob_of_draw_banded(dtype):
    for chol, _, rng in factors(dtype):
        noise = vector(rng, dtype, chol.shape[-1])
        got = ops.log_prob_of_draw_banded(chol, noise)
        for l, e, g in zip(*map(wide, (chol, noise, got)), strict=True):
            logs, constant = apply("log", l[0]), len(e) * apply("log", 2 * pi(l)) / 2
            terms = (e * e).sum() / 2 + np.abs(logs).sum() + constant
            yield abs(g - logs.sum() + (e * e).sum() / 2 + constant) / (terms * eps(dtype)) if len(e) else 0


def sample_and_log_prob_banded(dtype):
    for chol, offsets, rng in factors(dtype):
        mean, noise = vector(rng, dtype, chol.shape[-1]), vector(rng, dtype, chol.shape[-1])
        z, log_q = ops.sample_and_log_prob_banded(mean, chol, noise, offsets=offsets)
        yield np.count_nonzero(z != ops.sample_banded(mean, chol, noise, offsets=offsets))
        yield np.count_nonzero(log_q != ops.log_prob_of_draw_banded(chol, noise))


def kl_divergence_banded(dtype):
    for chol, offsets, rng in factors(dtype, SMALL):
        mean = vector(rng, dtype, chol.shape[-1])
        got = ops.kl_divergence_banded(mean, chol, offsets=offsets)
        for raw, l, m, g in zip(chol, *map(wide, (chol, mean, got)), strict=True):
            variance, logs = variances(l, offsets), apply("log", l[0])
            expected = ((variance + m * m - 1) / 2 + logs).sum()
            terms = (condition(raw, offsets)[1] * variance + m * m + 1 + np.abs(logs)).sum()
            yield abs(g - expected) / (len(m) * terms * eps(dtype))


def kl_divergence_between(dtype):
    for chol, offsets, rng in factors(dtype, SMALL):
        n = chol.shape[-1]
        mean, prior_mean = vector(rng, dtype, n), vector(rng, dtype, n)
        prior = (rng.normal(size=(BATCH, 2, n)) * 0.3).astype(dtype)
        prior[:, 0] = rng.uniform(0.7, 2, (BATCH, n))
        got = ops.kl_divergence_banded(mean, chol, prior_mean, prior, offsets=offsets, prior_offsets=(0, 1))
        for raw, l, m, pm, p, g in zip(chol, *map(wide, (chol, mean, prior_mean, prior, got)), strict=True):
            # tr(L_pᵀ S L_p) = |L⁻¹ L_p|²
            x = inverse_factor(l, offsets)
            columns = np.stack([multiply(p, (0, 1), row, trans=True) for row in x])
            w = multiply(p, (0, 1), m - pm, trans=True)
            logs = apply("log", l[0]), apply("log", p[0])
            trace = (columns * columns).sum()
            expected = (logs[0] - logs[1]).sum() + (trace - n + (w * w).sum()) / 2
            size = np.abs(p).sum(axis=0).max() ** 2
            absolute = multiply(np.abs(p), (0, 1), np.abs(m) + np.abs(pm), trans=True)
            terms = (
                condition(raw, offsets)[1] * size * (x * x).sum()
                + (absolute**2).sum()
                + n
                + sum(np.abs(v).sum() for v in logs)
            )
            yield abs(g - expected) / (n * terms * eps(dtype))


def near_equality(prior):
    """How far below 0, per node, the KL of nearly equal Gaussians falls, in units of eps.

    Nodes perturbed independently, 100,000 of them; and all alike, so that roundings add up instead of averaging out.
    """

    def measure(dtype):
        for offsets in ((0,), (0, 1), (0, 1, 3)):
            for size in (0.0, 1e-9, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3):
                for systems, n, alike in ((1, 100_000, False), (20, 5_000, True)):
                    rng = np.random.default_rng([len(offsets), round(1e9 * size), n])
                    base = np.zeros((len(offsets), 1 if alike else n))
                    base[0] = 1
                    if prior:
                        base = rng.normal(size=base.shape) * 0.3
                        base[0] = rng.uniform(0.7, 2, base.shape[1])
                    chol = base + size * rng.uniform(-1, 1, (systems, *base.shape))
                    chol = np.broadcast_to(chol, (systems, len(offsets), n)).astype(dtype)
                    mean = (size * rng.normal(size=(systems, n)) * (not alike)).astype(dtype)
                    if prior:
                        p = np.broadcast_to(base, (len(offsets), n)).astype(dtype)
                        zero = np.zeros(n, dtype)
                        kl = ops.kl_divergence_banded(mean, chol, zero, p, offsets=offsets, prior_offsets=offsets)
                    else:
                        kl = ops.kl_divergence_banded(mean, chol, offsets=offsets)
                    yield from -kl / (n * eps(dtype))

    return measure


def ar1(op, exact):
    """Errors over eps times the sum of absolute terms; correlations up to 0.9999."""

    def measure(dtype):
        for n in (1, 2, 5, 50, 300):
            for correlation in (0.0, 0.3, -0.7, 0.9999):
                rng = np.random.default_rng([n, round(100 * abs(correlation))])
                variance = np.exp(rng.normal(size=BATCH)).astype(dtype)
                rho = np.full(BATCH, correlation, dtype)
                x, mean = vector(rng, dtype, n), vector(rng, dtype, n)
                got = op(x, mean, variance, rho)
                for x_, m, s, r, g in zip(*map(wide, (x, mean, variance, rho, got)), strict=True):
                    expected, terms = exact(x_, m, s, r)
                    yield largest((g - expected) / terms) / eps(dtype)

    return measure


def precision_factor_ar1(dtype):
    """Relative errors of the pivots and of what is below them."""
    for n in (1, 2, 5, 50):
        for correlation in (0.0, 0.3, -0.7, 0.9999):
            rng = np.random.default_rng([n, round(100 * abs(correlation))])
            variance, rho = np.exp(rng.normal(size=BATCH)).astype(dtype), np.full(BATCH, correlation, dtype)
            got = ops.precision_factor_ar1(variance, rho, N=n)
            for s, r, chol in zip(wide(variance), wide(rho), wide(got), strict=True):
                root, magnified, *_ = ar1_scale(s, r)
                pivots = np.array([1 / root[1]] * (n - 1) + [1 / root[0]])
                yield largest((chol[0] - pivots) / pivots) / (magnified * eps(dtype))
                yield largest((chol[1, : n - 1] + r * pivots[: n - 1]) / pivots[: n - 1]) / (magnified * eps(dtype))


def ar1_scale(s, r):
    """The innovations' scale, and by how much its exponent's size magnifies rounding."""
    one = np.array(s * 0 + 1)
    log_s, log_ratio = apply("log", one * s), apply("log1p", -one * r) + apply("log1p", one * r)
    root = apply("sqrt", one * s), apply("sqrt", one * s * (1 - r * r))
    magnified = 1 + abs(log_s) + abs(apply("log1p", -one * r)) + abs(apply("log1p", one * r))
    return root, magnified, log_s, log_ratio


def exact_sample_ar1(noise, m, s, r):
    root, magnified, *_ = ar1_scale(s, r)
    e, absolute = [], []
    for j, v in enumerate(noise):
        e.append((r * e[-1] if j else 0) + root[j > 0] * v)
        absolute.append((abs(r) * absolute[-1] if j else 0) + root[j > 0] * abs(v))
    return m + np.array(e), np.abs(m) + np.array(absolute) * magnified / (1 - abs(r))


def exact_logdet_ar1(x, m, s, r):
    _, _, log_s, log_ratio = ar1_scale(s, r)
    n = len(x)
    parts = abs(apply("log1p", np.array(-r))) + abs(apply("log1p", np.array(r)))
    return n * log_s + (n - 1) * log_ratio, n * abs(log_s) + (n - 1) * parts


def exact_logdet_precision_ar1(x, m, s, r):
    logdet, terms = exact_logdet_ar1(x, m, s, r)
    return -logdet, terms


def exact_log_prob_ar1(x, m, s, r):
    root, magnified, *_ = ar1_scale(s, r)
    d, absolute = x - m, np.abs(x) + np.abs(m)
    quadratic = (d[0] / root[0]) ** 2 + (((d[1:] - r * d[:-1]) / root[1]) ** 2).sum()
    size = (absolute[0] / root[0]) ** 2 + (((absolute[1:] + abs(r) * absolute[:-1]) / root[1]) ** 2).sum()
    logdet, terms = exact_logdet_ar1(x, m, s, r)
    constant = len(x) * apply("log", 2 * pi(x))
    return -(logdet + quadratic + constant) / 2, (terms + magnified * size + constant) / 2


def exact_kl_ar1(x, m, s, r):
    logdet, terms = exact_logdet_ar1(x, m, s, r)
    n = len(x)
    return ((m * m).sum() + n * (s - 1) - logdet) / 2, ((m * m).sum() + n * (s + 1) + terms) / 2


def lowrank(op, exact):
    """Errors over n eps cond(I + V Vᵀ) and the op's own size; U small, of order 1, and large."""

    def measure(dtype):
        for n in (1, 2, 5, 10):
            for rank in (1, 3):
                for size in (1e-3, 1.0, 30.0):
                    rng = np.random.default_rng([n, rank, round(1000 * size)])
                    x, mean = vector(rng, dtype, n), vector(rng, dtype, n)
                    d = rng.uniform(0.3, 3, (BATCH, n)).astype(dtype)
                    u = (rng.normal(size=(BATCH, rank, n)) * size).astype(dtype)
                    got = op(x, mean, d, u)
                    for i in range(BATCH):
                        v = u[i].astype(np.float64) / np.sqrt(d[i].astype(np.float64))
                        condition = np.linalg.cond(np.eye(rank) + v @ v.T)
                        expected, unit = exact(*(wide(a[i]) for a in (x, mean, d, u)))
                        yield largest((wide(np.asarray(got[i])) - expected) / unit) / (n * condition * eps(dtype))

    return measure


def gram(d, u):
    """V, and A with A Aᵀ = I + V Vᵀ, by the textbook's loop."""
    v = u / apply("sqrt", d)
    g = v @ v.T
    g = g + np.eye(len(u), dtype=int)
    a = g * 0
    for j in range(len(u)):
        a[j, j] = apply("sqrt", np.array(g[j, j] - (a[j, :j] ** 2).sum()))
        for i in range(j + 1, len(u)):
            a[i, j] = (g[i, j] - (a[i, :j] * a[j, :j]).sum()) / a[j, j]
    return v, a


def substitute(a, b, trans=False):
    """Solve A x = b for a lower triangular A, or Aᵀ x = b."""
    n, x = len(a), b * 0
    for i in reversed(range(n)) if trans else range(n):
        x[i] = (b[i] - sum((a[k, i] if trans else a[i, k]) * x[k] for k in range(n) if k != i)) / a[i, i]
    return x


def exact_sample_lowrank(noise, m, d, u):
    v, a = gram(d, u)
    root = apply("sqrt", d)
    t = substitute(a, substitute(a + np.eye(len(a), dtype=int), v @ noise), trans=True)
    return m + (noise - v.T @ t) / root, np.abs(m) + np.abs(noise).sum() / root.min()


def exact_logdet_lowrank(x, m, d, u):
    _, a = gram(d, u)
    logs, pivots = apply("log", d), 2 * apply("log", np.diag(a))
    return logs.sum() + pivots.sum(), np.abs(logs).sum() + 1 + pivots.sum()


def exact_variance_lowrank(x, m, d, u):
    v, a = gram(d, u)
    return (1 - (substitute(a, v) ** 2).sum(axis=0)) / d, 1 / d


def exact_log_prob_lowrank(x, m, d, u):
    logdet, terms = exact_logdet_lowrank(x, m, d, u)
    e, absolute, constant = x - m, np.abs(x) + np.abs(m), len(x) * apply("log", 2 * pi(x))
    quadratic = (d * e * e).sum() + ((u @ e) ** 2).sum()
    size = (d * absolute**2).sum() + ((np.abs(u) @ absolute) ** 2).sum()
    return (logdet - quadratic - constant) / 2, (terms + size + constant) / 2


def exact_kl_lowrank(x, m, d, u):
    variance, unit = exact_variance_lowrank(x, m, d, u)
    logdet, terms = exact_logdet_lowrank(x, m, d, u)
    return ((variance + m * m - 1).sum() + logdet) / 2, (unit + m * m + 1).sum() + terms


def weights(op, exact):
    """Log-weights near 0, spread out, and far from 0; K from 1 to 1000."""

    def measure(dtype):
        for K in (1, 2, 50, 1000):
            for spread, shift in ((1.0, 0.0), (20.0, 0.0), (3.0, -500.0), (3.0, 1e4)):
                x = (np.random.default_rng([K, round(spread)]).normal(size=K) * spread + shift).astype(dtype)
                expected, unit = exact(wide(x))
                yield largest((wide(np.asarray(op(x))) - expected) / unit) / eps(dtype)

    return measure


def exact_log_mean_exp(x):
    return apply("log", np.array(apply("exp", x - x.max()).sum() / len(x))) + x.max(), 1 + largest(x)


def exact_logsumexp(x):
    value, unit = exact_log_mean_exp(x)
    return value + apply("log", np.array(len(x) * (x[0] * 0 + 1))), unit


def exact_weights(x):
    e = apply("exp", x - x.max())
    return e / e.sum(), (len(x) + x.max() - x) * e / e.sum() + tiny(x)


def exact_effective_sample_size(x):
    w, unit = exact_weights(x)
    return 1 / (w * w).sum(), (w * unit).sum() / (w * w).sum() ** 2


def likelihood(op, exact, arrays, relative_to_n=True):
    """Errors of a log-density over n eps, or eps, times the sum of absolute terms."""

    def measure(dtype):
        for n in (1, 2, 10, 784):
            for spread in (0.1, 3.0, 100.0):
                args = [a.astype(dtype) for a in arrays(np.random.default_rng([n, round(10 * spread)]), n, spread)]
                expected, terms = exact(*map(wide, args))
                yield abs(wide(np.asarray(op(*args)))[()] - expected) / ((n if relative_to_n else 1) * terms * eps(dtype))

    return measure


def exact_bernoulli(x, a):
    softplus = apply("log1p", apply("exp", -np.abs(a))) + np.maximum(a, 0)
    return (x * a - softplus).sum(), (np.abs(x * a) + softplus + tiny(x)).sum()


def exact_bernoulli_affine(x, h, w, b):
    a, size = h @ w + b, np.abs(h) @ np.abs(w) + np.abs(b)
    value, terms = exact_bernoulli(x, a)
    return value, terms + (len(h) + 1) * size.sum()


def exact_normal(x, m, log_scale):
    t = (x - m) * apply("exp", -log_scale)
    constant = len(x) * apply("log", 2 * pi(x)) / 2
    size = (1 + np.abs(log_scale)) * ((np.abs(x) + np.abs(m)) * apply("exp", -log_scale)) ** 2
    return -(t * t).sum() / 2 - log_scale.sum() - constant, size.sum() / 2 + np.abs(log_scale).sum() + constant


def poisson_counts(x, z, w):
    return ops.poisson_counts_log_prob(sparse.csr_array(x[None]), z[None], w)[0]


def exact_poisson_counts(x, z, w):
    """A rate is a sum of H terms, whose relative error comes into x log(rate) times x."""
    rates, constants = w @ z, apply("loggamma", x + 1) if x.dtype == object else special.gammaln(x + 1)
    logs = x * apply("log", rates)
    return (logs - rates - constants).sum(), (np.abs(logs) + rates + constants + len(z) * x).sum()


def psi(name):
    """Entries, or for psi2 sums over rows, whose terms e^-x have the relative error of x."""

    def measure(dtype):
        for N, M, Q in ((1, 1, 1), (4, 3, 2), (3, 3, 10), (90, 2, 2)):
            for spread in (0.3, 3.0):
                rng = np.random.default_rng([N, round(10 * spread)])
                mean, z = (rng.normal(size=(n, Q)) * spread for n in (N, M))
                args = mean, rng.uniform(0, 2, (N, Q)), z, rng.uniform(0.1, 1, Q), np.array(1.3)
                args = [a.astype(dtype) for a in args if name != "rbf" or a is not args[1]]
                terms, exponents = exact_psi(name, *map(wide, args))
                size = terms * (1 + exponents)
                exact, size = (a.sum(axis=0) if name == "psi2" else a for a in (terms, size))
                error = np.abs(wide(getattr(ops, name)(*args)) - exact)
                yield largest(error / (size + tiny(exact) / eps(dtype))) / (Q * eps(dtype))

    return measure


def exact_psi(name, mean, *others):
    """The terms by rows, and their exponents."""
    variance, (z, a, v) = (0 * mean, others) if name == "rbf" else (others[0], others[1:])
    of_rows = (slice(None), None, None) if name == "psi2" else (slice(None), None)
    c = 1 / ((2 if name == "psi2" else 1) * a * variance[of_rows] + 1)
    if name == "psi2":
        gap = mean[of_rows] - (z[:, None] + z) / 2
        exponents = (a * c * gap * gap + a * (z[:, None] - z) ** 2 / 4).sum(axis=-1)
    else:
        gap = mean[of_rows] - z
        exponents = (a * c * gap * gap / 2).sum(axis=-1)
    v = v[()] if isinstance(v, np.ndarray) else v
    return (v * v if name == "psi2" else v) * apply("sqrt", c).prod(axis=-1) * apply("exp", -exponents), exponents


def exact_kl_diagonal(m, log_scale):
    variance = apply("exp", 2 * log_scale)
    node = (m * m + variance - 1) / 2 - log_scale
    return node.sum(), (m * m + (1 + np.abs(log_scale)) * variance + 1 + np.abs(log_scale)).sum()


def ulps(name):
    """The scalar functions of gvae.kernels.cpu._math where they are hardest, as test_math_kernels.py measures them."""

    def measure(dtype):
        if dtype == np.float32:
            x = kernels.hard_float64(name, 20_000)
            x = x[np.abs(x) < np.finfo(dtype).max].astype(np.float32)
            exact = kernels.wide(name, x.astype(np.float64))
        else:
            x = kernels.hard_float64(name, 300)
            exact = np.array([getattr(mpmath, name)(mpmath.mpf(float(v))) for v in x])
            spacing = np.spacing(np.abs(exact.astype(np.float64)))
            yield from np.abs(wide(kernels.run(name, x)) - exact) / spacing
            return
        yield from kernels.ulp_error(kernels.run(name, x), exact)

    return measure


def function(op, exact):
    """An elementwise op, relative to its own value."""

    def measure(dtype):
        r = np.random.default_rng(1)
        x = np.concatenate([r.normal(size=200), r.normal(size=200) * 20, r.normal(size=200) * 1e-4]).astype(dtype)
        expected = exact(wide(x))
        yield largest((wide(op(x)) - expected) / expected) / eps(dtype)

    return measure


def gamma(what):
    """log z of gamma variables, and its derivative at the number it was rounded to, for shapes from 1e-3 to 1e6."""

    def measure(dtype):
        u = test_gamma.U.astype(dtype)
        u = u[(u > 0) & (u < 1)][::2]
        ys, slopes = (f(test_gamma.SHAPES[::2].astype(dtype), u) for f in (test_gamma.draw, test_gamma.slopes))
        for a, row, found in zip(test_gamma.SHAPES[::2].astype(dtype), ys, slopes, strict=True):
            for v, y, slope in zip(map(float, u), row, found, strict=True):
                P, Q, D, expected = test_gamma.exact(float(a), float(y))
                if what == "draw":
                    off = (P - mpmath.mpf(v)) / D if v < 0.5 else (1 - mpmath.mpf(v) - Q) / D
                    yield abs(off) / (eps(dtype) * abs(float(y)) + 1e-12)
                else:
                    yield abs(slope / expected - 1) / (eps(dtype) + 1e-12)

    return measure


def exact_elu(x):
    return np.where(x > 0, x, apply("expm1", np.minimum(x, 0)))


def dense(kind):
    """Residuals of the dense operations, in LAPACK's scaling."""

    def measure(dtype):
        for n in (1, 2, 3, 5, 10, 30):
            for small in (1.0, 30 * math.sqrt(eps(dtype))):
                rng = np.random.default_rng([n, round(small)])
                l = np.tril(rng.normal(size=(n, n))) * 0.5
                l[np.arange(n), np.arange(n)] = rng.uniform(0.7, 2, n)
                l[n // 2, n // 2] *= small
                a, b = (l @ l.T).astype(dtype), rng.normal(size=(n, 2)).astype(dtype)
                l = l.astype(dtype)
                if kind == "cholesky":
                    factor = wide(ops.cholesky(a))
                    yield norm1(wide(a) - factor @ factor.T) / (n * norm1(wide(a)) * eps(dtype))
                elif kind == "eigh":
                    w, v = map(wide, ops.eigh(a))
                    yield norm1(wide(a) - (v * w) @ v.T) / (n * norm1(wide(a)) * eps(dtype))
                elif kind == "matmul":
                    size = np.abs(wide(a)) @ np.abs(wide(b))
                    yield largest((wide(ops.matmul(a, b)) - wide(a) @ wide(b)) / size) / (n * eps(dtype))
                elif kind == "affine":
                    exact, size = wide(a) @ wide(b) + wide(b[0]), np.abs(wide(a)) @ np.abs(wide(b)) + np.abs(wide(b[0]))
                    yield largest((wide(ops.affine(a, b, b[0])) - exact) / size) / ((n + 1) * eps(dtype))
                else:
                    for trans in (False, True):
                        m, x = wide(l.T if trans else l), wide(ops.solve_triangular(l, b, trans=trans))
                        yield norm1(wide(b) - m @ x) / (norm1(m) * norm1(x) * eps(dtype))

    return measure


def norm1(a):
    return np.abs(a).sum(axis=0).max()


INVERSE = "n eps cond₁(A) max |A⁻¹|"
TERMS = "eps (sum of absolute terms)"
VARIANCES = "n eps (sum of absolute terms, variances times cond₁(A))"
LOWRANK = "n eps cond(I + V Vᵀ) (sum of absolute terms)"

TABLE = [
    Row("cholesky_banded", "|A - L Lᵀ|₁ ≤ n eps |A|₁", 30, cholesky_banded),
    Row("gram_banded", "|A - L Lᵀ|₁ ≤ eps | |L| |L|ᵀ |₁", 4, gram_banded),
    *(
        Row(f"solve_triangular_banded, {name}", f"|b - {name} x|₁ ≤ eps |{name}|₁ |x|₁", 30, solve_triangular_banded(trans))
        for name, trans in (("L", False), ("Lᵀ", True))
    ),
    Row("cho_solve_banded", "|b - A x|₁ ≤ eps |A|₁ |x|₁", 30, cho_solve_banded),
    *(
        Row(
            f"multiply_triangular_banded, {name}",
            f"|y - {name} x|₁ ≤ eps |{name}|₁ |x|₁",
            30,
            multiply_triangular_banded(trans),
        )
        for name, trans in (("L", False), ("Lᵀ", True))
    ),
    Row("sample_banded", "|eps - Lᵀ (z - mean)|₁ ≤ eps |Lᵀ|₁ (|z|₁ + |mean|₁)", 30, sample_banded),
    Row(
        "inverse_banded",
        INVERSE,
        30,
        inverse_like(lambda c, o: ops.inverse_banded(c, offsets=o), stored_inverse(lambda o: o)),
    ),
    Row(
        "inverse_banded, fill=True",
        INVERSE,
        30,
        inverse_like(
            lambda c, o: ops.inverse_banded(c, offsets=o, fill=True), stored_inverse(lambda o: tuple(range(o[-1] + 1)))
        ),
    ),
    Row(
        "variance_banded",
        INVERSE,
        30,
        inverse_like(lambda c, o: ops.variance_banded(c, offsets=o), variances),
    ),
    Row(
        "trace_inverse_banded",
        "n eps cond₁(A) tr A⁻¹",
        30,
        inverse_like(lambda c, o: ops.trace_inverse_banded(c, offsets=o), lambda l, o: variances(l, o).sum()),
    ),
    *(
        Row(f"trace_probe_banded, trans={trans}", "n eps cond₁(L) (the estimate)", 8, trace_probe_banded(trans))
        for trans in (True, False)
    ),
    Row("logdet_banded", TERMS, 8, logdet_like(ops.logdet_banded, lambda logs: (2 * logs.sum(), 2 * np.abs(logs).sum()))),
    Row(
        "entropy_banded",
        TERMS,
        8,
        logdet_like(
            ops.entropy_banded,
            lambda logs: (
                len(logs) * (1 + apply("log", 2 * pi(logs))) / 2 - logs.sum(),
                len(logs) * (1 + apply("log", 2 * pi(logs))) / 2 + np.abs(logs).sum(),
            ),
        ),
    ),
    Row("log_pivots_banded", "eps |log L_jj|", 4, log_pivots_banded),
    Row("log_prob_banded", TERMS, 8, log_prob_banded),
    Row("log_prob_of_draw_banded", TERMS, 8, log_prob_of_draw_banded),
    Row("sample_and_log_prob_banded", "numbers that differ from the two ops it joins", 0, sample_and_log_prob_banded),
    Row("kl_divergence_banded, to N(0, I)", VARIANCES, 8, kl_divergence_banded),
    Row("kl_divergence_banded, to a prior", VARIANCES, 8, kl_divergence_between),
    Row("kl_divergence_banded, near N(0, I)", "eps N below 0 at most", 0.5, near_equality(prior=False)),
    Row("kl_divergence_banded, near its prior", "eps N below 0 at most", 8, near_equality(prior=True)),
    Row(
        "sample_ar1",
        "eps (sum of absolute terms) / (1 - |rho|)",
        8,
        ar1(lambda x, m, s, r: ops.sample_ar1(m, s, r, x), exact_sample_ar1),
    ),
    Row("log_prob_ar1", TERMS, 8, ar1(ops.log_prob_ar1, exact_log_prob_ar1)),
    Row("kl_divergence_ar1", TERMS, 8, ar1(lambda x, m, s, r: ops.kl_divergence_ar1(m, s, r), exact_kl_ar1)),
    Row(
        "logdet_precision_ar1",
        TERMS,
        4,
        ar1(lambda x, m, s, r: ops.logdet_precision_ar1(s, r, N=x.shape[-1]), exact_logdet_precision_ar1),
    ),
    Row("precision_factor_ar1", "eps (1 + |log s| + |log(1 - rho²)|)", 8, precision_factor_ar1),
    Row("sample_lowrank", LOWRANK, 8, lowrank(lambda x, m, d, u: ops.sample_lowrank(m, d, u, x), exact_sample_lowrank)),
    Row("log_prob_lowrank", LOWRANK, 8, lowrank(ops.log_prob_lowrank, exact_log_prob_lowrank)),
    Row(
        "kl_divergence_lowrank",
        LOWRANK,
        8,
        lowrank(lambda x, m, d, u: ops.kl_divergence_lowrank(m, d, u), exact_kl_lowrank),
    ),
    Row("logdet_lowrank", LOWRANK, 8, lowrank(lambda x, m, d, u: ops.logdet_lowrank(d, u), exact_logdet_lowrank)),
    Row(
        "variance_lowrank",
        "n eps cond(I + V Vᵀ) / d",
        8,
        lowrank(lambda x, m, d, u: ops.variance_lowrank(d, u), exact_variance_lowrank),
    ),
    Row("log_mean_exp", "eps (1 + max |w|)", 8, weights(ops.log_mean_exp, exact_log_mean_exp)),
    Row("logsumexp", "eps (1 + max |w|)", 8, weights(ops.logsumexp, exact_logsumexp)),
    Row(
        "normalized_weights",
        "eps (K + max w - w_k) times the weight, down to underflow",
        4,
        weights(ops.normalized_weights, exact_weights),
    ),
    Row(
        "effective_sample_size",
        "eps (K + mean of max w - w_k) times the result",
        8,
        weights(ops.effective_sample_size, exact_effective_sample_size),
    ),
    Row(
        "bernoulli_log_prob",
        "n " + TERMS,
        4,
        likelihood(
            ops.bernoulli_log_prob, exact_bernoulli, lambda r, n, s: (r.integers(0, 2, n) * 1.0, r.normal(size=n) * s)
        ),
    ),
    Row(
        "bernoulli_affine_log_prob",
        "n eps (sum of absolute terms, and of (k + 1) (|h| |W| + |b|))",
        4,
        likelihood(
            ops.bernoulli_affine_log_prob,
            exact_bernoulli_affine,
            lambda r, n, s: (r.integers(0, 2, n) * 1.0, r.normal(size=9), r.normal(size=(9, n)) * s, r.normal(size=n)),
        ),
    ),
    Row(
        "normal_log_prob",
        "n " + TERMS,
        8,
        likelihood(
            ops.normal_log_prob,
            exact_normal,
            lambda r, n, s: (r.normal(size=n) * s, r.normal(size=n) * s, r.normal(size=n)),
        ),
    ),
    Row(
        "poisson_counts_log_prob",
        "eps (sum of absolute terms, and of H x)",
        2,
        likelihood(
            poisson_counts,
            exact_poisson_counts,
            lambda r, n, s: (1.0 * r.poisson(s, n), r.gamma(2, size=9), r.gamma(2, 0.02 * s, size=(n, 9))),
            relative_to_n=False,
        ),
    ),
    Row(
        "kl_divergence_diagonal",
        "n " + TERMS,
        8,
        likelihood(
            ops.kl_divergence_diagonal, exact_kl_diagonal, lambda r, n, s: (r.normal(size=n) * s, r.normal(size=n) * 2)
        ),
    ),
    Row("sigmoid", "eps relative", 4, function(ops.sigmoid, lambda x: 1 / (1 + apply("exp", -x)))),
    Row(
        "softplus",
        "eps relative",
        4,
        function(ops.softplus, lambda x: np.maximum(x, 0) + apply("log1p", apply("exp", -np.abs(x)))),
    ),
    Row("elu", "eps relative", 4, function(ops.elu, exact_elu)),
    Row("cholesky", "|A - L Lᵀ|₁ ≤ n eps |A|₁", 30, dense("cholesky")),
    Row("solve_triangular", "|B - L X|₁ ≤ eps |L|₁ |X|₁", 30, dense("solve_triangular")),
    *(
        Row(name, f"Q eps ({terms}, each times 1 + its exponent)", 4, psi(name))
        for name, terms in (("rbf", "the entries"), ("psi1", "the entries"), ("psi2", "sum of the terms"))
    ),
    Row("eigh", "|A - V diag(w) Vᵀ|₁ ≤ n eps |A|₁", 30, dense("eigh")),
    Row("matmul", "k eps (|X| |Y|)", 4, dense("matmul")),
    Row("affine", "(k + 1) eps (|X| |W| + |b|)", 4, dense("affine")),
    Row("log_gamma_draw", "(eps |y| + 1e-12)", 4, gamma("draw")),
    Row("log_gamma_draw, its derivative in the shape", "(eps + 1e-12) relative", 4, gamma("derivative")),
    *(Row(f"kernels: {name}", "ulp", kernels.BOUNDS[name], ulps(name)) for name in ("exp", "expm1", "log", "log1p")),
    *(Row(f"kernels: {name}", "ulp (1.1 with fused multiply-add)", 1.7, ulps(name)) for name in ("sinpi", "cospi")),
]


@pytest.mark.parametrize(
    ("row", "dtype"),
    thinned(itertools.product(TABLE, DTYPES), lambda row, dtype: DTYPES.index(dtype) == TABLE.index(row) % 2),
    ids=lambda value: getattr(value, "op", None) or np.dtype(value).name,
)
def test_errors_stay_within_the_bound(row, dtype):
    worst = row.worst(dtype)
    assert worst <= row.limit, f"{row.op} in {np.dtype(dtype)}: {worst:.3g}, expected at most {row.bound}"


def test_the_kl_bounds_are_the_ones_promised():
    """-1e-6 N to N(0, I) and -1e-5 N to a prior in float32, as the rows above have it in units of eps."""
    limits = {row.op: row.limit * eps(np.float32) for row in TABLE if "near" in row.op}
    assert limits["kl_divergence_banded, near N(0, I)"] <= 1e-6
    assert limits["kl_divergence_banded, near its prior"] <= 1e-5


def test_every_banded_op_and_its_kin_has_a_bound():
    """Here, or the default: a row of cases.py, whose errors test_ops.py bounds in float32."""
    named = {row.op.partition(",")[0] for row in TABLE}
    modules = ("banded", "traces", "ar1", "lowrank", "weights")
    promised = {name for module in modules for name in getattr(ops, module).__all__}
    default = {name for case in CASES for name in case.covers or (case.name,)}
    assert promised - named - default == {"band_to_dense", "dense_to_band", "method_banded"}  # which round nothing
    assert len({row.op for row in TABLE}) == len(TABLE)


def test_the_page_is_of_this_table():
    """Its ops and its bounds; the figures seen may move with the machine."""
    lines = [line for line in accuracy_page.PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    for line, row in zip(lines, TABLE, strict=True):
        assert line.startswith(accuracy_page.line(row)), "the table has changed: run tests/accuracy_page.py"


def test_figures_are_rounded_up():
    figures = [0, 0.5, 0.501, 0.999, 4.2e-5, 1.01]
    assert [accuracy_page.rounded_up(x) for x in figures] == ["0", "0.5", "0.51", "1", "4.2e-05", "1.1"]
