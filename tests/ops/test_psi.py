"""The RBF kernel and its psi statistics: against draws, dense formulas, differences; the same bits whatever the threads."""

from __future__ import annotations

import numpy as np
import pytest
import reference as ref
from gradcheck import check_vjp
from numpy.testing import assert_allclose, assert_array_equal

import gvae
from gvae import ops
from gvae.autodiff import gradient, vjp
from gvae.errors import ShapeError
from gvae.kernels.cpu.psi import BLOCK
from gvae.ops import gp
from gvae.runtime.context import entered

OPS = {"rbf": ops.rbf, "psi1": ops.psi1, "psi2": ops.psi2}
every_op = pytest.mark.parametrize("name", OPS)


def problem(N, M, Q, name="psi2", seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(N, Q)), rng.uniform(0, 1.5, (N, Q))
    others = rng.normal(size=(M, Q)), rng.uniform(0.1, 1.5, Q), np.array(1.7)
    return (rows[0], *others) if name == "rbf" else (*rows, *others)


def test_against_draws():
    """Means over 10^6 draws of x_n, within 4.5 standard errors: one entry in 10^5 would be outside."""
    mean, variance, z, a, v = args = problem(3, 4, 2)
    rng = np.random.default_rng(1)
    first, second, errors = ops.psi1(*args), np.zeros((4, 4)), np.zeros((4, 4))
    for n in range(3):
        x = mean[n] + np.sqrt(variance[n]) * rng.normal(size=(10**6, 2))
        k = ref.rbf(x, z, a, v)
        assert (np.abs(k.mean(axis=0) - first[n]) < 4.5 * k.std(axis=0) / 1e3).all()
        for m in range(4):
            pairs = k[:, m, None] * k
            second[m] += pairs.mean(axis=0)
            errors[m] += pairs.var(axis=0) / 1e6
    assert (np.abs(second - ops.psi2(*args)) < 4.5 * np.sqrt(errors)).all()


@every_op
@pytest.mark.parametrize("sizes", [(1, 1, 1), (BLOCK, 3, 2), (BLOCK + 1, 9, 4), (300, 33, 5), (2500, 2, 1)])
def test_against_the_formula(name, sizes):
    """Rows of less than a block, of several parts, and of more than one block in a part; in float32 too."""
    args = problem(*sizes, name)
    expected = getattr(ref, name)(*args)
    assert_allclose(OPS[name](*args), expected, rtol=1e-12, atol=1e-12 * expected.max())
    single = OPS[name](*(a.astype(np.float32) for a in args))
    assert single.dtype == np.float32
    assert_allclose(single, expected, rtol=1e-5, atol=1e-5 * expected.max())


@every_op
@pytest.mark.parametrize("sizes", [(1, 1, 1), (7, 5, 3), (BLOCK + 5, 4, 2), (2100, 2, 2)])
def test_derivatives(name, sizes):
    rng, args = np.random.default_rng(0), problem(*sizes, name)
    check_vjp(OPS[name], args, rng)
    y = OPS[name](*args)
    y_bar = rng.normal(size=y.shape)
    exact = vjp(OPS[name], *args)[1](y_bar)
    single = vjp(OPS[name], *(a.astype(np.float32) for a in args))[1](y_bar.astype(np.float32))
    for got, expected in zip(single, exact, strict=True):
        assert got.dtype == np.float32
        assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(y_bar).sum() * y.max())


def test_without_variance_psi1_is_the_kernel():
    mean, variance, *others = problem(70, 5, 3)
    assert_array_equal(ops.psi1(mean, 0 * variance, *others), ops.rbf(mean, *others))
    k = ops.rbf(mean, *others)
    assert_allclose(ops.psi2(mean, 0 * variance, *others), k.T @ k, rtol=1e-13)
    variance[3:] = 0
    assert_array_equal(ops.psi1(mean, variance, *others)[3:], k[3:])


def test_the_kernel_of_points_with_themselves():
    z, a, v = problem(3, 40, 5, "rbf")[1:]
    k = ops.rbf(z, z, a, v)
    assert_array_equal(k, k.T)
    assert_array_equal(np.diagonal(k), v)
    both = gradient(lambda z: ops.sum(ops.square(ops.rbf(z, z, a, v))), z)
    first = gradient(lambda x: ops.sum(ops.square(ops.rbf(x, z, a, v))), z)
    assert_allclose(both, 2 * first, rtol=1e-12, atol=1e-12)


def test_psi2_is_symmetric_and_so_is_its_cotangent():
    args = problem(200, 12, 3)
    y, pull = vjp(ops.psi2, *args)
    assert_array_equal(y, y.T)
    y_bar = np.random.default_rng(0).normal(size=y.shape)
    for got, expected in zip(pull(y_bar), pull((y_bar + y_bar.T) / 2), strict=True):
        assert_array_equal(got, expected)


@every_op
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_do_not_depend_on_threads(name, dtype):
    args = [a.astype(dtype) for a in problem(500, 20, 3, name)]

    def results():
        y, pull = vjp(OPS[name], *args)
        return y, *pull(y)

    with entered(alone=True):
        alone = results()
    with entered(share=1):  # as many shares as there are threads, however little the work
        together = results()
    for one, other in zip(alone, together, strict=True):
        assert one.tobytes() == other.tobytes()


@every_op
def test_nothing_to_do(name):
    for sizes in ((0, 3, 2), (4, 0, 2), (4, 3, 0)):
        args = problem(*sizes, name)
        y, pull = vjp(OPS[name], *args)
        assert_array_equal(y, getattr(ref, name)(*args))
        for bar, a in zip(pull(np.ones_like(y)), args, strict=True):
            assert bar.shape == a.shape
            assert np.isfinite(bar).all()
            if 0 in sizes[:2]:
                assert not bar.any()


@every_op
def test_far_away(name):
    """Where terms underflow they are 0, without a warning, and so are derivatives; v = 0 is ordinary."""
    args = problem(5, 3, 2, name)
    far = [args[0] + 1e3, *args[1:]]
    y, pull = vjp(OPS[name], *far)
    assert not y.any()
    assert not any(bar.any() for bar in pull(np.ones_like(y)))
    bars = vjp(OPS[name], *args[:-1], np.array(0.0))[1](np.ones_like(y))
    assert all(np.isfinite(bar).all() for bar in bars)


@every_op
@pytest.mark.parametrize(("dtype", "far"), [(np.float32, 1e20), (np.float64, 1e160)])
@pytest.mark.parametrize("N", [BLOCK - 1, BLOCK, BLOCK + 1])
def test_so_far_away_that_squares_overflow(name, dtype, far, N):
    """The far point has no covariance and no slope, and the other values do not depend on whether rows fill a block."""
    args = [a.astype(dtype) for a in problem(N, 2, 1, name)]
    z = len(args) - 3
    near = [*args[:z], args[z][:1], *args[z + 1 :]]
    args[z] = np.array([args[z][0], [far]], dtype)
    with np.errstate(over="ignore"):
        y, pull = vjp(OPS[name], *args)
        bars = pull(np.ones_like(y))
    assert_array_equal(y[..., :1, :1] if name == "psi2" else y[..., :1], OPS[name](*near))
    assert not y[..., 1].any()
    assert_array_equal(bars[z][1], 0)
    assert all(np.isfinite(bar).all() for bar in bars)


def test_a_row_that_is_not_finite_stays_alone():
    args = problem(70, 5, 3)
    args[0][7, 1] = np.nan
    y, pull = vjp(ops.psi1, *args)
    y_bar = np.ones_like(y)
    y_bar[7] = 0
    bad = np.arange(70) == 7
    assert np.isnan(y[bad]).all()
    for got, expected in zip(
        (y, *pull(y_bar)[:2]), (lambda y, p: (y, *p(y_bar)[:2]))(*vjp(ops.psi1, *problem(70, 5, 3))), strict=True
    ):
        assert_array_equal(got[~bad], expected[~bad])


@every_op
def test_captured(name):
    args = problem(70, 5, 3, name)

    def step(*a):
        return gradient(lambda *a: ops.sum(ops.square(OPS[name](*a))), *a)

    other = problem(70, 5, 3, name, seed=1)
    for got, expected in zip(gvae.captured(step, *args)(*other), step(*other), strict=True):
        assert_array_equal(got, expected)


def test_parts_follow_from_shapes():
    assert [gp._parts(np.empty((N, 1))) for N in (0, 1, 64, 65, 2048, 10**6)] == [1, 1, 1, 2, 32, 32]


def test_what_is_refused():
    mean, variance, z, a, v = problem(4, 3, 2)
    with pytest.raises(ShapeError, match=r"psi2: variance has shape \(3, 2\), expected \(N=4, Q=2\)"):
        ops.psi2(mean, variance[:3], z, a, v)
    with pytest.raises(ShapeError, match=r"rbf: scale has shape \(1,\), expected \(\)"):
        ops.rbf(mean, z, a, v[None])
