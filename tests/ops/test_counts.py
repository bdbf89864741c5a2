"""Poisson counts in CSR: against dense sums in float64, in both ways of computing the rates, and their memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.sparse
from gradcheck import check_vjp
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import gvae
from gvae import ops
from gvae.autodiff import gradient, vjp
from gvae.errors import ConfigError, DataError, DTypeError, ShapeError
from gvae.kernels.cpu import counts as kernels
from gvae.ops import counts
from gvae.runtime import pool

log_prob = ops.poisson_counts_log_prob
FULL = [0.3, 0.95]  # densities at which rates are computed one by one, and in panels


def problem(rng, B, D, H, density=0.3, z_lead=(), w_lead=(), dtype=np.float64):
    x = (rng.random((B, D)) < density) * rng.integers(1, 6, size=(B, D))
    z, w = rng.gamma(2, 0.5, size=(*z_lead, B, H)) + 0.1, rng.gamma(2, 0.5, size=(*w_lead, D, H)) + 0.1
    return scipy.sparse.csr_array(x), z.astype(dtype), w.astype(dtype)


def dense(x, z, w, by="row"):
    rates = z.astype(float) @ w.astype(float).swapaxes(-1, -2)
    return stats.poisson.logpmf(x.toarray(), rates).sum(axis=-1 if by == "row" else -2)


def terms(x, z, w, by="row"):
    """Sums of absolute terms, the scale of rounding errors."""
    rates, x = z.astype(float) @ w.astype(float).swapaxes(-1, -2), x.toarray()
    of_each = np.abs(x * np.log(np.maximum(rates, 1e-300))) + rates + scipy.special.gammaln(x + 1.0) + x
    return of_each.sum(axis=-1 if by == "row" else -2)


leads = st.sampled_from([((), ()), ((3,), ()), ((), (3,)), ((3,), (3,)), ((2, 1), (3,)), ((2, 3), (1, 3)), ((0,), ())])


@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40)),
    density=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    leads=leads,
    by=st.sampled_from(["row", "column"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_agrees_with_dense_sums(sizes, density, leads, by, seed):
    x, z, w = problem(np.random.default_rng(seed), *sizes, density, *leads)
    wanted = dense(x, z, w, by)
    np.testing.assert_allclose(
        log_prob(x, z, w, by=by), wanted, rtol=1e-12, atol=1e-12 * (1 + np.abs(wanted).max(initial=0))
    )
    assert log_prob(x, z, w, by=by).shape == wanted.shape


@given(
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 20)),
    density=st.sampled_from([0.0, 0.3, 1.0]),
    leads=leads,
    by=st.sampled_from(["row", "column"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_gradients_agree_with_differences(sizes, density, leads, by, seed):
    rng = np.random.default_rng(seed)
    x, z, w = problem(rng, *sizes, density, *leads)
    check_vjp(lambda z, w: log_prob(x, z, w, by=by), (z, w), rng)
    check_vjp(lambda z: log_prob(x, z, w, by=by), (z,), rng)  # each alone
    check_vjp(lambda w: log_prob(x, z, w, by=by), (w,), rng)


@pytest.mark.parametrize("density", FULL)
@pytest.mark.parametrize("H", [1, 7, 100, 130, 300])
def test_sizes_beyond_a_group_a_panel_and_a_register(density, H):
    """More rows than are worked on together, more columns than a panel has, more counts in a row than are kept at a time."""
    rng = np.random.default_rng(H)
    x, z, w = problem(rng, 230, 1300, H, density)
    value, pull = vjp(lambda z, w: log_prob(x, z, w), z, w)
    np.testing.assert_allclose(value, dense(x, z, w), rtol=1e-12, atol=1e-12 * terms(x, z, w).max())
    s = rng.normal(size=230)
    residual = s[:, None] * (x.toarray() / (z @ w.T) - 1)
    for bar, wanted in zip(pull(s), (residual @ w, residual.T @ z), strict=True):
        np.testing.assert_allclose(bar, wanted, rtol=1e-11, atol=1e-12 * np.abs(wanted).max())


@pytest.mark.parametrize("density", FULL)
@pytest.mark.parametrize("by", ["row", "column"])
def test_float32_agrees_with_float64(density, by):
    """To its own accuracy, also where sums of thousands of terms cancel."""
    rng = np.random.default_rng(0)
    x, z, w = problem(rng, 60, 3000, 50, density, (2,), dtype=np.float32)
    x = scipy.sparse.csr_array(x * 40)
    (value, pull), (wide, wide_pull) = (
        vjp(lambda z, w: log_prob(x, z, w, by=by), z.astype(t), w.astype(t)) for t in (np.float32, np.float64)
    )
    assert value.dtype == np.float32
    assert (np.abs(value - wide) <= 1e-7 * terms(x, z, w, by)).all()
    s = rng.normal(size=value.shape).astype(np.float32)
    rates = z @ w.swapaxes(-1, -2)
    sizes = np.abs(s[..., None] if by == "row" else s[..., None, :]) * (x.toarray() / rates + 1)
    scales = sizes @ w, (sizes.swapaxes(-1, -2) @ z).sum(axis=0)
    for bar, wanted, scale in zip(pull(s), wide_pull(s.astype(float)), scales, strict=True):
        assert bar.dtype == np.float32
        assert (np.abs(bar - wanted) <= 1e-6 * scale).all()


@pytest.mark.parametrize("density", FULL)
def test_sums_by_column_are_sums_by_row(density):
    x, z, w = problem(np.random.default_rng(1), 40, 60, 20, density, (3,), (3,))
    np.testing.assert_allclose(log_prob(x, z, w, by="column").sum(-1), log_prob(x, z, w).sum(-1), rtol=1e-12)
    of_rows, of_columns = (gradient(lambda z, w, by=by: log_prob(x, z, w, by=by).sum(), z, w) for by in ("row", "column"))
    for ours, theirs in zip(of_rows, of_columns, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("density", FULL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_bits_for_every_number_of_threads(density, dtype, monkeypatch):
    x, z, w = problem(np.random.default_rng(2), 230, 300, 50, density, (2,), (2,), dtype)
    monkeypatch.setattr(pool, "SHARE", 1)
    results = []
    for n in ("1", "2", "3", "8"):
        monkeypatch.setenv("GVAE_NUM_THREADS", n)
        value, pull = vjp(lambda z, w: log_prob(x, z, w), z, w)
        results.append((value, *pull(value), log_prob(x, z, w[0])))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("density", FULL)
def test_both_ways_of_computing_rates_agree(density):
    """The kernels know from the density which; with explicit zeros a sparse matrix passes for a full one."""
    x, z, w = problem(np.random.default_rng(3), 30, 40, 20, density)
    padded = scipy.sparse.csr_array((x.toarray().ravel(), np.tile(np.arange(40), 30), np.arange(0, 1201, 40)), shape=x.shape)
    assert padded.nnz == 1200
    (value, *bars), (other, *others) = (
        (log_prob(c, z, w), *gradient(lambda z, w, c=c: log_prob(c, z, w).sum(), z, w)) for c in (x, padded)
    )
    np.testing.assert_allclose(value, other, rtol=1e-12)
    for a, b in zip(bars, others, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


# ---- what a matrix may look like


def test_empty_rows_and_columns():
    """Only the rates are left of them."""
    x, z, w = problem(np.random.default_rng(4), 6, 5, 3, 0.0)
    np.testing.assert_allclose(log_prob(x, z, w), -(z @ w.T).sum(axis=1), rtol=1e-13)
    z_bar, w_bar = gradient(lambda z, w: log_prob(x, z, w).sum(), z, w)
    np.testing.assert_allclose(z_bar, np.tile(-w.sum(axis=0), (6, 1)), rtol=1e-13)
    np.testing.assert_allclose(w_bar, np.tile(-z.sum(axis=0), (5, 1)), rtol=1e-13)
    for shape in ((0, 5), (6, 0)):
        none = scipy.sparse.csr_array(shape)
        for by, n in (("row", shape[0]), ("column", shape[1])):
            found = log_prob(none, np.ones((shape[0], 3)), np.ones((shape[1], 3)), by=by)
            np.testing.assert_array_equal(found, np.zeros(n))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.int8, np.uint8, bool])
def test_duplicates_explicit_zeros_and_order(dtype):
    """Entries in several parts are their sum: log x! is of the sum, which small integers could not hold."""
    big = 1 if dtype is bool else 100
    values = np.array([big, big, 0, 1, 1], dtype)
    x = scipy.sparse.csr_array((values, np.array([2, 2, 0, 1, 0]), np.array([0, 3, 5])), shape=(2, 3))
    plain = scipy.sparse.csr_array(np.array([[0, 0, 2 * big], [1, 1, 0]]))
    z, w = np.array([[1.0, 0.5], [0.2, 2.0]]), np.array([[1.0, 0.0], [0.5, 1.0], [1.0, 2.0]])
    before = x.data.copy(), x.indices.copy()
    for by in ("row", "column"):
        np.testing.assert_allclose(log_prob(x, z, w, by=by), dense(plain, z, w, by), rtol=1e-13)
    np.testing.assert_array_equal(x.data, before[0])
    np.testing.assert_array_equal(x.indices, before[1])


def test_large_counts():
    x = scipy.sparse.csr_array(np.array([[4095.0, 4096.0, 1e6], [3.0, 0.0, 2.0**40]]))
    z, w = np.array([[1.0], [2.0]]), np.array([[4000.0], [4100.0], [1e6]])
    assert (np.abs(log_prob(x, z, w) - dense(x, z, w)) <= 1e-15 * terms(x, z, w)).all()


def test_rates_of_zero():
    """A count of 0, stored or not, is certain there; any other is impossible, and then slopes are not finite."""
    stored = scipy.sparse.csr_array((np.array([0.0, 2.0]), np.array([0, 1]), np.array([0, 2, 2])), shape=(2, 2))
    z, w = np.array([[1.0], [1.0]]), np.array([[0.0], [3.0]])
    value, pull = vjp(lambda z, w: log_prob(stored, z, w), z, w)
    np.testing.assert_allclose(value, stats.poisson.logpmf([[0, 2], [0, 0]], [[0, 3], [0, 3]]).sum(axis=1))
    z_bar, w_bar = pull(np.ones(2))
    np.testing.assert_allclose(z_bar.ravel(), [2 - 3, -3])
    np.testing.assert_allclose(w_bar.ravel(), [-2, 2 / 3 - 2])
    impossible = scipy.sparse.csr_array(np.array([[1.0, 2.0], [0.0, 1.0]]))
    value, pull = vjp(lambda z, w: log_prob(impossible, z, w), z, w)
    assert value[0] == -np.inf
    assert np.isfinite(value[1])
    z_bar, w_bar = pull(np.ones(2))
    assert not np.isfinite(z_bar[0])
    assert np.isfinite(z_bar[1])
    assert np.isfinite(w_bar[1])


@pytest.mark.parametrize("density", FULL)
def test_nan_stays_in_its_row(density):
    x, z, w = problem(np.random.default_rng(5), 12, 20, 9, density)
    clean = log_prob(x, z, w)
    z[3, 2] = np.nan
    value = log_prob(x, z, w)
    assert np.isnan(value[3])
    np.testing.assert_array_equal(np.delete(value, 3), np.delete(clean, 3))
    assert np.isnan(log_prob(x, z, w, by="column")).all()
    z_bar, _ = gradient(lambda z, w: log_prob(x, z, w).sum(), z, w)
    assert np.isnan(z_bar[3]).all()
    assert np.isfinite(np.delete(z_bar, 3, axis=0)).all()


# ---- a matrix that is prepared once


def test_a_count_matrix_is_prepared_once(monkeypatch):
    x, z, w = problem(np.random.default_rng(6), 20, 30, 5)
    prepared = ops.CountMatrix(x)
    assert prepared.shape == (20, 30)
    for by in ("row", "column"):
        np.testing.assert_array_equal(log_prob(prepared, z, w, by=by), log_prob(x, z, w, by=by))
        gradient(lambda z, w, by=by: log_prob(prepared, z, w, by=by).sum(), z, w)
    monkeypatch.setattr(counts, "_by_columns", None)
    monkeypatch.setattr(counts, "_log_factorials", None)
    for by in ("row", "column"):
        gradient(lambda z, w, by=by: log_prob(prepared, z, w, by=by).sum(), z, w)
    with pytest.raises(TypeError):  # this precision has not been made yet
        log_prob(prepared, z.astype(np.float32), w.astype(np.float32))


def test_no_dense_array_is_made():
    """100 counts in each of 2,000 rows of 20,000 columns, which would take 320 MB."""
    rng, B, D, H, each = np.random.default_rng(7), 2000, 20_000, 10, 100
    indices = np.sort(rng.integers(0, D // each, size=(B, each)) + np.arange(0, D, D // each), axis=1)
    x = scipy.sparse.csr_array((np.ones(B * each), indices.ravel(), np.arange(0, B * each + 1, each)), shape=(B, D))
    z, w = rng.gamma(1, size=(B, H)) + 0.1, rng.gamma(1, size=(D, H)) + 0.1
    gradient(lambda z, w: log_prob(x[:5], z[:5], w).sum(), z, w)  # what is loaded and compiled at first use
    tracemalloc.start()
    gradient(lambda z, w: log_prob(x, z, w).sum() + log_prob(x, z, w, by="column").sum(), z, w)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 160 * x.nnz < B * D  # bytes


def test_scratch_of_panels_is_a_few_rows():
    assert kernels.ROWS * kernels.WIDTH < 1 << 15
    assert kernels.WIDTH <= kernels.CHUNK
    assert kernels.CHUNK % kernels.TOGETHER == 0


# ---- mistakes


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (-1.0, r"x is -1.0 at row 1, column 2 .*, expected whole numbers of at least 0; there are 1 others in all"),
        (0.5, r"x is 0.5 at row 1, column 2"),
        (np.nan, r"x is nan at row 1, column 2"),
        (np.inf, r"x is inf at row 1, column 2"),
    ],
)
def test_what_is_no_count(bad, message):
    x = scipy.sparse.csr_array(np.array([[1.0, 0.0, 2.0], [0.0, 3.0, bad]]))
    with pytest.raises(DataError, match=f"^poisson_counts_log_prob: {message}"):
        log_prob(x, np.ones((2, 1)), np.ones((3, 1)))
    with pytest.raises(DataError, match=f"^CountMatrix: {message}"):
        ops.CountMatrix(x)


def test_what_is_refused():
    x, z, w = scipy.sparse.csr_array(np.eye(2)), np.ones((2, 3)), np.ones((2, 3))
    wrong = scipy.sparse.csr_array(np.eye(2))
    wrong.indices = np.array([0, 7], wrong.indices.dtype)
    for error, message, args in (
        (DTypeError, "x is ndarray, expected a CSR matrix or a CountMatrix", (np.eye(2), z, w)),
        (DTypeError, "x is csc_array, expected a CSR matrix", (x.tocsc(), z, w)),
        (DTypeError, "x is complex128, expected real numbers", (x * 1j, z, w)),
        (DTypeError, "w is float32, expected float64 as z", (x, z, w.astype(np.float32))),
        (ShapeError, r"z has shape \(3, 3\), expected \(..., B=2, H=3\)", (x, np.ones((3, 3)), w)),
        (ShapeError, r"w has shape \(2, 4\), expected \(..., D=2, H=3\)", (x, z, np.ones((2, 4)))),
        (ShapeError, r"w has shape \(3, 2, 3\)", (x, np.ones((2, 2, 3)), np.ones((3, 2, 3)))),
        (DataError, "x has the column 7, expected 0 to 1", (wrong, z, w)),
    ):
        with pytest.raises(error, match=f"^poisson_counts_log_prob: {message}"):
            log_prob(*args)
    with pytest.raises(ConfigError, match="poisson_counts_log_prob: by is 'rows', expected one of row, column"):
        log_prob(x, z, w, by="rows")
    with pytest.raises(DTypeError, match=r"^CountMatrix: x is ndarray"):
        ops.CountMatrix(np.eye(2))
    assert gvae.ops.CountMatrix is ops.CountMatrix
