"""What every op owes, row by row of cases.py."""

from __future__ import annotations

import numpy as np
import pytest
from cases import CASES
from gradcheck import check_vjp
from hypothesis import find, given
from strategies import seeds, sizes

from gvae import ops
from gvae.autodiff import gradient

every_case = pytest.mark.parametrize("case", CASES, ids=str)

# relative to the sum of absolute terms; float32 runs a few thousand roundings of 6e-8 deep in the worst of these shapes
TOLERANCE = {np.float64: 1e-12, np.float32: 1e-5}

NOT_DIFFERENTIABLE = {"band_to_dense", "dense_to_band", "is_csr", "method_banded"}
NOT_DIFFERENTIABLE |= {
    "PATHS",
    "keep",
    "bernoulli_draw",
    "categorical_draw",
    "poisson_draw",
    "autoregressive_draw",
    "nade_draw",
}  # test_draws.py  # covered below, by tests of their own


def close(actual, expected, tolerance, scale):
    actual = np.asarray(actual)
    assert actual.shape == np.shape(expected)
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * scale)


def scale_of(case, args, expected):
    if case.scale is not None:
        return float(np.max(case.scale(*args), initial=1.0))
    return 1.0 + float(np.max(np.abs(expected), initial=0.0))


def test_every_public_op_has_a_row():
    covered = {name for case in CASES for name in (case.covers or (case.name,))}
    public = {name for module in ops._MODULES for name in getattr(ops, module).__all__}
    assert public - covered - NOT_DIFFERENTIABLE == set()


def test_public_names_are_unique():
    names = [name for module in ops._MODULES for name in getattr(ops, module).__all__]
    assert len(names) == len(set(names))


@every_case
@given(s=sizes(empty=False), seed=seeds)
def test_agrees_with_the_dense_oracle(case, s, seed):
    args = case.args(np.random.default_rng(seed), s)
    expected = case.reference(s)(*args)
    close(case.op(s)(*args), expected, TOLERANCE[np.float64], scale_of(case, args, expected))


@every_case
@given(s=sizes(empty=False), seed=seeds)
def test_float32_agrees_with_float64(case, s, seed):
    args = [a.astype(np.float32) for a in case.args(np.random.default_rng(seed), s)]
    wide = [a.astype(np.float64) for a in args]
    expected = case.op(s)(*wide)
    actual = case.op(s)(*args)
    assert np.asarray(actual).dtype == np.float32
    close(actual, expected, TOLERANCE[np.float32], scale_of(case, wide, expected))


@every_case
@given(s=sizes(), seed=seeds)
def test_vjp_agrees_with_differences(case, s, seed):
    rng = np.random.default_rng(seed)
    check_vjp(case.op(s), case.args(rng, s), rng)


@every_case
@given(s=sizes(empty=False), seed=seeds)
def test_gradient_has_the_dtype_and_leaves_inputs_alone(case, s, seed):
    args = [a.astype(np.float32) for a in case.args(np.random.default_rng(seed), s)]
    before = [a.copy() for a in args]
    for a in args:
        a.flags.writeable = False
    bars = gradient(lambda *a: ops.sum(case.op(s)(*a)), *args)
    for bar, arg, old in zip(bars if len(args) > 1 else [bars], args, before, strict=True):
        assert bar.dtype == np.float32
        assert bar.shape == arg.shape
        assert np.isfinite(bar).all()
        np.testing.assert_array_equal(arg, old)


batching = pytest.mark.parametrize("case", [c for c in CASES if c.cores is not None], ids=str)


@batching
@given(s=sizes(empty=False), seed=seeds)
def test_batch_is_a_loop_of_singles(case, s, seed):
    args = case.args(np.random.default_rng(seed), s)
    whole = np.asarray(case.op(s)(*args))
    leads = [a.shape[: a.ndim - c] for a, c in zip(args, case.cores, strict=True)]
    batch = np.broadcast_shapes(*leads)
    wide = [np.broadcast_to(a, batch + a.shape[a.ndim - c :]) for a, c in zip(args, case.cores, strict=True)]
    for index in np.ndindex(batch):
        single = case.op(s)(*(a[index] for a in wide))
        np.testing.assert_allclose(whole[index], single, rtol=1e-13, atol=1e-13 * (1 + np.abs(whole).max()))


@batching
@given(s=sizes(empty=False), seed=seeds)
def test_layouts_do_not_matter(case, s, seed):
    args = case.args(np.random.default_rng(seed), s)
    expected = case.op(s)(*args)
    fortran = [np.array(a, order="F") for a in args]
    strided = [np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a for a in args]
    for other in (fortran, strided):
        np.testing.assert_allclose(case.op(s)(*other), expected, rtol=1e-13, atol=1e-13 * (1 + np.abs(expected).max()))


@pytest.mark.parametrize("case", [c for c in CASES if c.out], ids=str)
@given(s=sizes(empty=False), seed=seeds)
def test_out_receives_the_same_bits(case, s, seed):
    args = case.args(np.random.default_rng(seed), s)
    expected = case.op(s)(*args)
    for out in (np.full(expected.shape, np.nan), np.full((*expected.shape, 2), np.nan)[..., 0]):
        assert case.op(s)(*args, out=out) is out
        np.testing.assert_array_equal(out, expected)


def test_the_strategies_draw_what_they_promise():
    """Every awkward shape is really among the draws: else the suite would pass without having looked."""
    find(sizes(), lambda s: s.M == s.N + 2)
    find(sizes(), lambda s: s.N == 1 and s.M > 1)
    find(sizes(), lambda s: len(s.batch) == 2 and s.leads[0][:1] == (1,) and s.batch[0] > 1)
    find(sizes(), lambda s: len(s.batch) == 2 and s.leads[1][-1:] == (1,) and s.batch[1] > 1)
    find(sizes(), lambda s: 0 in s.batch)
    find(sizes(), lambda s: any(b - a > 1 for a, b in zip(s.offsets, s.offsets[1:], strict=False)))


def test_band_to_dense_and_is_csr():
    import reference as ref
    import scipy.sparse

    chol = np.random.default_rng(0).normal(size=(2, 3, 5))
    dense = ops.band_to_dense(chol, offsets=(0, 1, 3))
    for b in range(2):
        np.testing.assert_array_equal(dense[b], ref.dense_factor(chol[b], (0, 1, 3)))
        for offsets in ((0, 1, 3), (0, 2, 7)):
            lower = ops.dense_to_band(dense, offsets=offsets)
            np.testing.assert_array_equal(lower[b], ref.stored(dense[b], offsets))
            upper = ops.dense_to_band(dense.swapaxes(-1, -2), offsets=offsets, upper=True)
            back = ops.band_to_dense(upper, offsets=offsets, upper=True)
            np.testing.assert_array_equal(back.swapaxes(-1, -2), ops.band_to_dense(lower, offsets=offsets))
    import scipy.linalg

    ab = np.array([[0.0, 0.5, 0.2, -0.3], [2.0, 3.0, 4.0, 5.0]])  # LAPACK's upper form, as SciPy documents it
    dense_upper = ops.band_to_dense(ab, symmetric=True, upper=True)
    b = np.arange(4.0)
    np.testing.assert_allclose(np.linalg.solve(dense_upper, b), scipy.linalg.solveh_banded(ab, b), rtol=1e-12)
    symmetric = ops.band_to_dense(chol, offsets=(0, 1, 3), symmetric=True)
    np.testing.assert_array_equal(symmetric, symmetric.swapaxes(-1, -2))
    assert ops.is_csr(scipy.sparse.csr_array(np.eye(2)))
    assert not ops.is_csr(scipy.sparse.csc_array(np.eye(2)))
    assert not ops.is_csr(np.eye(2))
