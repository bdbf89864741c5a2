"""Systems side by side on SIMD lanes: the same results as one by one, for every size around the groups' edges."""

from __future__ import annotations

import numpy as np
import pytest
from cases import BANDED
from strategies import Sizes

from gvae import ops
from gvae.autodiff import gradient, vjp
from gvae.kernels import LANES
from gvae.kernels.cpu import _lanes
from gvae.kernels.cpu._jit import kernel
from gvae.kernels.cpu._math import scaled

BATCHING = [case for case in BANDED if case.cores is not None]
every_case = pytest.mark.parametrize("case", BATCHING, ids=str)


@every_case
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("batch", "N", "offsets"),
    [
        ((LANES,), 16, (0, 1)),
        ((LANES + 3,), 17, (0, 2)),
        ((2 * LANES + 5,), 1, (0,)),
        ((3, 11), 9, (0, 1, 4)),
        ((9,), 33, (0, 1, 2)),
    ],
)
def test_a_wide_batch_is_a_loop_of_singles(case, batch, N, offsets, dtype):
    s = Sizes(batch, (batch,) * 4, N=N, offsets=offsets, K=2, R=2)
    args = [a.astype(dtype) for a in case.args(np.random.default_rng(0), s)]
    whole = case.op(s)(*args)
    bars = gradient(lambda *a: ops.sum(ops.square(case.op(s)(*a))), *args)
    bars = bars if len(args) > 1 else [bars]
    tolerance = 1e-12 if dtype == np.float64 else 2e-4
    for index in list(np.ndindex(batch))[:: max(1, np.prod(batch) // 7)]:
        batched = [a.ndim > core for a, core in zip(args, case.cores, strict=True)]  # a prior may be shared
        own = [a[index] if b else a for a, b in zip(args, batched, strict=True)]
        np.testing.assert_allclose(whole[index], case.op(s)(*own), rtol=tolerance, atol=tolerance)
        single = gradient(lambda *a: ops.sum(ops.square(case.op(s)(*a))), *own)
        for bar, expected, b in zip(bars, single if len(args) > 1 else [single], batched, strict=True):
            if b:
                scale = tolerance * (1 + np.abs(expected).max(initial=0))
                np.testing.assert_allclose(bar[index], expected, rtol=tolerance, atol=scale)


@pytest.mark.parametrize("factors", [1, 3, LANES, LANES + 2])
@pytest.mark.parametrize("trans", [False, True])
def test_samples_that_share_a_factor(factors, trans):
    rng = np.random.default_rng(1)
    chol = 0.3 * rng.normal(size=(factors, 2, 20))
    chol[:, 0] = rng.uniform(0.7, 2, size=(factors, 20))
    b = rng.normal(size=(9, factors, 20))
    x_bar = rng.normal(size=b.shape)
    whole, pull = vjp(lambda c, v: ops.solve_triangular_banded(c, v, trans=trans), chol, b)
    chol_bar, b_bar = pull(x_bar)
    expected = np.zeros_like(chol)
    for k in range(9):
        for f in range(factors):
            single, pull = vjp(lambda c, v: ops.solve_triangular_banded(c, v, trans=trans), chol[f], b[k, f])
            np.testing.assert_allclose(whole[k, f], single, rtol=1e-12, atol=1e-12)
            one, other = pull(x_bar[k, f])
            expected[f] += one
            np.testing.assert_allclose(b_bar[k, f], other, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(chol_bar, expected, rtol=1e-11, atol=1e-11)


def test_a_failed_lane_leaves_its_neighbours_alone():
    rng = np.random.default_rng(2)
    chol = 0.3 * rng.normal(size=(LANES + 9, 2, 20))
    chol[:, 0] = rng.uniform(0.7, 2, size=chol[:, 0].shape)
    b = rng.normal(size=(LANES + 9, 20))
    uses = {
        "solve": lambda c: ops.solve_triangular_banded(c, b, check=False),
        "inverse": lambda c: ops.inverse_banded(c, check=False),
        "log_prob": lambda c: ops.log_prob_banded(b, b[::-1].copy(), c, check=False),
        "kl": lambda c: ops.kl_divergence_banded(b, c, check=False),
        "cholesky": lambda c: ops.cholesky_banded(c, check=False),
    }
    for pivot in (0.0, -1.0, np.nan):
        for name, use in uses.items():
            band = chol.copy()
            if name == "cholesky":
                band[:, 0] += 2
            good = use(band)
            band[[3, LANES + 7], 0, 4] = pivot
            bad = use(band)
            assert np.isnan(bad[[3, LANES + 7]]).all(), name
            rest = np.delete(np.arange(len(chol)), [3, LANES + 7])
            np.testing.assert_array_equal(bad[rest], good[rest])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 7, 8, 15, 16, 17, 40])
def test_pack_and_unpack_are_gathers(n, dtype):
    rng = np.random.default_rng(n)
    flat = rng.normal(size=5000).astype(dtype)
    starts = rng.integers(0, 5000 - n, size=LANES)
    block = np.full((n, LANES), np.nan, dtype)
    _lanes.pack(flat, starts, block)
    np.testing.assert_array_equal(block, flat[starts + np.arange(n)[:, None]])
    back = np.zeros_like(flat)
    _lanes.unpack(block, starts, back)
    touched = np.unique(starts + np.arange(n)[:, None])
    np.testing.assert_array_equal(back[touched], flat[touched])
    assert not np.delete(back, touched).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arithmetic_of_vectors(dtype):
    @kernel
    def work(a, b, out):
        x, y, z = _lanes.lanes(a), _lanes.lanes(b), _lanes.lanes(out)
        z[0] = (x[0] + y[0]) * 2 - x[0] / y[0]
        z[1] = -x[0]
        z[1] -= 1
        z[2] = _lanes.larger(x[0], y[0])
        z[3] = _lanes.flushed(x[0] * np.finfo(dtype).tiny)

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 1, LANES)).astype(dtype)
    b[0, 3], a[0, 5] = np.nan, np.nan
    out = np.empty((4, LANES), dtype)
    work(a, b, out)
    x, y = a[0], b[0]
    np.testing.assert_allclose(out[0], (x + y) * 2 - x / y, rtol=1e-5 if dtype == np.float32 else 1e-13)
    np.testing.assert_allclose(out[1], -x - 1, rtol=1e-6)
    np.testing.assert_array_equal(out[2, 3], np.nan)
    fine = ~np.isnan(x) & ~np.isnan(y)
    np.testing.assert_array_equal(out[2][fine], np.maximum(x, y)[fine])
    small = np.abs(x) < 1
    assert (out[3][small] == 0).all()
    np.testing.assert_array_equal(out[3][fine & ~small], (x * np.finfo(dtype).tiny)[fine & ~small])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scaled_vectors_are_scaled_numbers(dtype):
    @kernel
    def vectors(a, m, n):
        _lanes.lanes(m)[0], _lanes.lanes(n)[0] = scaled(_lanes.lanes(a)[0])

    @kernel
    def numbers(a, m, n):
        for l in range(a.shape[1]):
            m[0, l], n[0, l] = scaled(a[0, l])

    t = np.finfo(dtype)
    a = np.logspace(t.minexp, t.maxexp - 1, LANES, base=2.0).astype(dtype)[None] * dtype(1.3)
    a[0, :6] = t.smallest_subnormal, t.smallest_normal / 3, 1, np.sqrt(0.5), np.inf, np.nan
    found, expected = np.empty((2, 2, 1, LANES), dtype)
    vectors(a, *found)
    numbers(a, *expected)
    np.testing.assert_array_equal(found[0], expected[0])
    finite = np.isfinite(a)
    np.testing.assert_array_equal(found[1][finite], expected[1][finite])
    assert (np.ldexp(found[0][finite].astype(float), found[1][finite].astype(int)) == a[finite]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("pivot", [1.41, 0.71, 1.41 * 2.0**100, 0.71 * 2.0**-100])
def test_the_density_of_a_draw_does_not_leave_the_range(pivot, dtype):
    rng = np.random.default_rng(3)
    chol = np.zeros((LANES + 9, 2, 300), dtype)
    chol[:, 0] = pivot
    eps = rng.normal(size=(LANES + 9, 300)).astype(dtype)
    squares, logs = np.square(eps.astype(float)).sum(-1), 300 * np.log(float(chol[0, 0, 0]))
    value = ops.sample_and_log_prob_banded(np.zeros_like(eps), chol, eps)[1]
    error = np.abs(value - (logs - squares / 2 - 150 * np.log(2 * np.pi)))
    assert (error < 4 * np.finfo(dtype).eps * (abs(logs) + squares + 300)).all()


@pytest.mark.parametrize("K", [1, 5])
def test_the_mean_of_a_draw_receives_what_all_its_samples_do(K):
    rng = np.random.default_rng(4)
    chol = rng.uniform(0.7, 1.5, size=(LANES + 5, 2, 20))
    mean, eps, z_bar = rng.normal(size=(LANES + 5, 20)), *rng.normal(size=(2, K, LANES + 5, 20))
    pull = vjp(ops.sample_banded, mean, chol, eps)[1]
    np.testing.assert_allclose(pull(z_bar)[0], z_bar.sum(0), rtol=1e-13, atol=1e-13)
