"""Long chains in segments: the serial recurrence's results, stable where the homogeneous solution grows, and the choice."""

from __future__ import annotations

import json
from importlib import resources

import numpy as np
import pytest

from gvae import ops
from gvae.errors import ConfigError, DTypeError, NotPositiveDefiniteError
from gvae.kernels.cpu import chain
from gvae.ops import _chain
from gvae.runtime import pool

LENGTHS = [1, 2, 3, 1023, 1024, 1025, 1026, 80 * 1024 + 7]


def factor(N, ratio, dtype, seed=0):
    """|c / a| around `ratio`, signs random, with a corner that must not be read."""
    rng = np.random.default_rng(seed)
    a = rng.uniform(0.7, 1.5, size=N)
    c = a * ratio * rng.choice([-1, 1], size=N) * rng.uniform(0.5, 1, size=N)
    c[-1] = np.nan
    return np.stack([a, c]).astype(dtype)


def residual(chol, x, b, trans):
    """|b - A x| / (|A| |x| eps) in the maximum norm, A = L or Lᵀ: LAPACK's scaling."""
    a, c, x = chol[0].astype(np.float64), chol[1, :-1].astype(np.float64), x.astype(np.float64)
    r, rows = a * x - b, np.abs(a)
    one, other = (slice(-1), slice(1, None)) if trans else (slice(1, None), slice(-1))
    r[one] += c * x[other]
    rows[one] += np.abs(c)
    return np.max(np.abs(r)) / (np.max(rows) * np.max(np.abs(x)) * np.finfo(chol.dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("trans", [False, True])
@pytest.mark.parametrize("N", LENGTHS)
def test_a_solve_in_segments_is_as_exact_as_the_serial_one(N, trans, dtype):
    chol = factor(N, 1.0, dtype)
    b = np.random.default_rng(1).normal(size=N).astype(dtype)
    x = ops.solve_triangular_banded(chol, b, trans=trans, method="segments")
    assert residual(chol, x, b, trans) < 8
    serial = ops.solve_triangular_banded(chol, b, trans=trans, method="systems")
    np.testing.assert_allclose(x, serial, rtol=0, atol=1000 * np.finfo(dtype).eps * np.abs(serial).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0, 1.2, 1.34, 1.4, 2.5])
@pytest.mark.parametrize("trans", [False, True])
def test_growth_does_not_spoil_a_solve(ratio, trans, dtype):
    """|c / a| up to 2.5. Where the homogeneous solution grows beyond MAX_GROWTH in a segment, the serial loop takes over;
    up to there the residual stays a small multiple of eps."""
    N = 20 * 1024 + 3
    chol = factor(N, ratio, dtype, seed=2)
    smooth = np.cos(np.arange(N) / 50).astype(dtype)  # a right-hand side whose solution does not grow with the system
    b = ops.multiply_triangular_banded(np.nan_to_num(chol), smooth, trans=trans)
    x = ops.solve_triangular_banded(chol, b, trans=trans, method="segments")
    finite = np.isfinite(x)  # with ratio 2.5 rounding errors alone grow beyond all bounds, as they do serially
    assert finite.all() or ratio > 1.2
    if finite.all():
        assert residual(chol, x, b, trans) < 30


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ratio", [1.0, 1.0005, 1.001, 1.003])
def test_random_walks(ratio, dtype):
    """|c / a| = ratio everywhere, signs random: errors do not fade within a segment, and grow by ratio^1024."""
    N = 20 * 1024 + 3
    rng = np.random.default_rng(0)
    chol = np.ones((2, N), dtype)
    chol[1] = ratio * rng.choice([-1, 1], size=N)
    b = rng.normal(size=N).astype(dtype)
    for trans in (False, True):
        x = ops.solve_triangular_banded(chol, b, trans=trans, method="segments")
        assert residual(chol, x, b, trans) < 30


@pytest.mark.parametrize("trans", [False, True])
def test_growth_after_a_decay_counts(trans):
    """In a segment the homogeneous solution fades to 1e-4, then grows to 2.3; errors made in between grow 25,000-fold."""
    N = 6 * 1024 + 9
    half = np.arange(N) // 512 % 2 == (0 if trans else 1)
    chol = np.ones((2, N))
    chol[1] = np.where(half, 1.02, 0.982)
    smooth = np.cos(np.arange(N) / 50)
    b = ops.multiply_triangular_banded(chol, smooth, trans=trans)
    x = ops.solve_triangular_banded(chol, b, trans=trans, method="segments")
    assert residual(chol, x, b, trans) < 8


def test_the_guard_against_growth_is_needed(monkeypatch):
    N = 3 * 1024 + 9
    chol = np.ones((2, N))
    chol[1] = 1.01
    smooth = np.cos(np.arange(N) / 50)
    b = ops.multiply_triangular_banded(chol, smooth)
    guarded = ops.solve_triangular_banded(chol, b, method="segments")
    assert residual(chol, guarded, b, False) < 8
    monkeypatch.setattr(chain, "MAX_GROWTH", np.inf)
    unguarded = ops.solve_triangular_banded(chol, b, method="segments")
    assert residual(chol, unguarded, b, False) > 1000


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0, 1.2])
@pytest.mark.parametrize("N", LENGTHS)
def test_a_selected_inverse_in_segments(N, ratio, dtype):
    chol = factor(N, ratio, dtype, seed=3)
    s = ops.inverse_banded(chol, method="segments")
    serial = ops.inverse_banded(chol, method="systems")
    tolerance = 100 * np.finfo(dtype).eps
    np.testing.assert_allclose(s, serial, rtol=tolerance, atol=0)
    assert s[1, -1] == 0


def test_several_systems_and_a_failed_one():
    rng = np.random.default_rng(4)
    chol = np.stack([factor(9000, 0.8, np.float64, seed=i) for i in range(3)])
    b = rng.normal(size=(2, 3, 9000))
    expected = ops.solve_triangular_banded(chol, b, method="systems")
    np.testing.assert_allclose(ops.solve_triangular_banded(chol, b, method="segments"), expected, rtol=1e-9, atol=1e-12)
    chol[1, 0, 77] = -1
    with pytest.raises(NotPositiveDefiniteError) as caught:
        ops.solve_triangular_banded(chol, b, method="segments")
    assert caught.value.rows == [(1,)]
    assert caught.value.minors == [78]
    x = ops.solve_triangular_banded(chol, b, method="segments", check=False)
    assert np.isnan(x[:, 1]).all()
    np.testing.assert_allclose(x[:, [0, 2]], expected[:, [0, 2]], rtol=1e-9, atol=1e-12)
    info = np.zeros(3, np.int32)
    assert np.isnan(ops.inverse_banded(chol, method="segments", check=False, info=info)[1]).all()
    np.testing.assert_array_equal(info, [0, 78, 0])


@pytest.mark.parametrize("trans", [False, True])
@pytest.mark.parametrize("offsets", [(0,), (0, 1), (0, 3, 2000), (0, 1, 5000)])
def test_a_long_product_shares_its_columns(offsets, trans, monkeypatch):
    rng = np.random.default_rng(5)
    chol, x = rng.normal(size=(2, len(offsets), 3001)), rng.normal(size=(3, 2, 3001))
    expected = ops.multiply_triangular_banded(chol, x, offsets=offsets, trans=trans)
    monkeypatch.setattr(ops.banded.multiply, "LONG", 1)
    monkeypatch.setattr(pool, "SHARE", 1)
    monkeypatch.setenv("GVAE_NUM_THREADS", "3")
    shared = ops.multiply_triangular_banded(chol, x, offsets=offsets, trans=trans)
    np.testing.assert_allclose(shared, expected, rtol=1e-14, atol=1e-14)


def test_the_choice_follows_the_measured_table():
    table = json.loads(resources.files("gvae.kernels").joinpath("methods.json").read_text(encoding="utf-8"))
    assert {"command", "date", "machine", "threads"} <= set(table)
    assert len(table["rows"]) > 80
    for row in table["rows"]:
        faster = min(row["microseconds"], key=row["microseconds"].get)
        settings = {"systems": row["systems"], "dtype": np.dtype(row["dtype"])}
        assert ops.method_banded(row["operation"], row["N"], **settings) == faster
    assert ops.method_banded("solve", 1_000_000) == "segments"
    assert ops.method_banded("inverse", 1_000_000) == "segments"
    assert ops.method_banded("solve", 100) == "systems"


def test_the_choice_is_used_and_can_be_overridden(monkeypatch):
    used = []
    run = _chain.run
    monkeypatch.setattr(_chain, "run", lambda kind, *a: used.append(kind) or run(kind, *a))
    chol = factor(1_000_000, 0.5, np.float32)
    ops.solve_triangular_banded(chol, chol[0], trans=True)
    ops.inverse_banded(chol)
    assert used == ["BACKWARD", "INVERSE"]
    ops.solve_triangular_banded(chol, chol[0], method="systems")
    assert len(used) == 2


def test_chains_of_no_columns():
    around = np.arange(4.0)
    for trans in (False, True):
        ops.solve_triangular_banded(np.ones((2, 0)), np.ones(0), trans=trans, out=around[:0], method="segments")
    assert ops.inverse_banded(np.ones((3, 2, 0)), method="segments").shape == (3, 2, 0)
    np.testing.assert_array_equal(around, np.arange(4.0))


def test_wrong_methods_are_named():
    chol = factor(10, 0.5, np.float64)
    with pytest.raises(ConfigError, match="solve_triangular_banded: method is 'fast', expected None, systems or segments"):
        ops.solve_triangular_banded(chol, chol[0], method="fast")
    with pytest.raises(ConfigError, match=r"inverse_banded: method is 'segments', expected with offsets \(0, 1\) only"):
        ops.inverse_banded(chol, offsets=(0, 2), method="segments")
    with pytest.raises(ConfigError, match="operation is 'multiply'"):
        ops.method_banded("multiply", 10)
    with pytest.raises(DTypeError, match="method_banded: dtype is int64"):
        ops.method_banded("solve", 10, dtype=np.int64)
