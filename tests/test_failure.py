"""Awkward input: what must raise, and says what; what must work; and that a failed system never touches its neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from gvae import ops
from gvae.autodiff import gradient, vjp
from gvae.checks import check_shapes
from gvae.dispatch import kernels_for, namespace
from gvae.errors import ConfigError, DeviceError, DTypeError, GvaeError, NotPositiveDefiniteError, ShapeError

rng = np.random.default_rng(0)
B, M, N = 4, 2, 5
CHOL = rng.normal(size=(B, M, N)) * 0.3
CHOL[:, 0] = rng.uniform(0.8, 1.5, size=(B, N))
VECTOR = rng.normal(size=(B, N))

USES = {
    "solve_triangular_banded": lambda chol, **s: ops.solve_triangular_banded(chol, VECTOR.astype(chol.dtype), **s),
    "inverse_banded": lambda chol, **s: ops.inverse_banded(chol, **s),
    "logdet_banded": lambda chol, **s: ops.logdet_banded(chol, **s),
    "entropy_banded": lambda chol, **s: ops.entropy_banded(chol, **s),
    "marginal_variances_banded": lambda chol, **s: ops.marginal_variances_banded(chol, **s),
    "sample_banded": lambda chol, **s: ops.sample_banded(VECTOR, chol, VECTOR, **s),
    "log_prob_banded": lambda chol, **s: ops.log_prob_banded(VECTOR, VECTOR, chol, **s),
    "kl_divergence_banded": lambda chol, **s: ops.kl_divergence_banded(VECTOR, chol, **s),
}
every_use = pytest.mark.parametrize("use", list(USES.values()), ids=list(USES))


@every_use
@pytest.mark.parametrize("pivot", [0.0, -0.0, -1.0, np.nan, -np.inf])
def test_a_bad_pivot(use, pivot):
    chol = CHOL.copy()
    chol[1, 0, 3] = pivot
    chol[3, 0, 0] = pivot
    with pytest.raises(NotPositiveDefiniteError, match=r"row \(1,\), column 3 and 1 more") as caught:
        use(chol)
    assert caught.value.rows == [(1,), (3,)]
    assert caught.value.minors == [4, 1]
    assert isinstance(caught.value, np.linalg.LinAlgError)
    quiet, good = use(chol, check=False), use(CHOL)
    assert np.isnan(quiet[[1, 3]]).all()
    np.testing.assert_array_equal(quiet[[0, 2]], good[[0, 2]])


@pytest.mark.parametrize("name", ["solve_triangular_banded", "inverse_banded", "logdet_banded"])
def test_info_is_filled(name):
    chol = CHOL.copy()
    chol[2, 0, 1] = -1
    info = np.full(B, 99, np.int32)
    USES[name](chol, check=False, info=info)
    np.testing.assert_array_equal(info, [0, 0, 2, 0])
    with pytest.raises(NotPositiveDefiniteError):
        USES[name](chol, info=info)
    for wrong in (np.zeros(B), np.zeros(B + 1, np.int32)):
        with pytest.raises(ShapeError, match=r"info is .*, expected int32 \(4,\)"):
            USES[name](chol, check=False, info=wrong)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_a_band_that_is_not_positive_definite(bad):
    ab = np.zeros((3, 2, 4))
    ab[:, 0], ab[:, 1] = 2.0, -0.5
    good = ops.cholesky_banded(ab)
    ab[1, 0, 2] = bad
    info = np.zeros(3, np.int32)
    quiet = ops.cholesky_banded(ab, check=False, info=info)
    expected = 0 if bad == np.inf else 3  # an infinite pivot is positive
    assert info.tolist() == [0, expected, 0]
    np.testing.assert_array_equal(quiet[[0, 2]], good[[0, 2]])
    if expected:
        assert np.isnan(quiet[1]).all()
        with pytest.raises(NotPositiveDefiniteError, match=r"cholesky_banded: ab has a pivot .* row \(1,\), column 2"):
            ops.cholesky_banded(ab)


def test_results_in_place():
    b = VECTOR.copy()
    expected = ops.solve_triangular_banded(CHOL, b)
    assert ops.solve_triangular_banded(CHOL, b, out=b) is b
    np.testing.assert_array_equal(b, expected)
    ab = np.full((2, 4), 2.0)
    ab[1] = -0.5
    factor = ops.cholesky_banded(ab)
    np.testing.assert_array_equal(ops.cholesky_banded(ab, out=ab), factor)
    x = VECTOR.copy()
    with pytest.raises(ShapeError, match="out overlaps x"):
        ops.multiply_triangular_banded(CHOL, x, out=x)
    np.testing.assert_array_equal(x, VECTOR)


def test_gradients_of_good_rows_survive_bad_ones():
    chol = CHOL.copy()
    chol[1, 0, 3] = 0.0
    bad = gradient(lambda c: ops.sum(ops.kl_divergence_banded(VECTOR, c, check=False)[0]), chol)
    good = gradient(lambda c: ops.sum(ops.kl_divergence_banded(VECTOR, c)[0]), CHOL)
    np.testing.assert_array_equal(bad[0], good[0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: ops.solve_triangular_banded(CHOL, VECTOR[:, :4]),
            ShapeError,
            r"solve_triangular_banded: b has shape \(4, 4\)",
        ),
        (
            lambda: ops.solve_triangular_banded(CHOL, VECTOR[:3]),
            ShapeError,
            r"b has shape \(3, 5\), expected \(...\(4,\), N=5\)",
        ),
        (lambda: ops.solve_triangular_banded(VECTOR[0], VECTOR), ShapeError, r"chol has shape \(5,\)"),
        (lambda: ops.solve_triangular_banded(CHOL, VECTOR.astype(np.float32)), DTypeError, "b is float32, expected float64"),
        (lambda: ops.solve_triangular_banded(CHOL.astype(int), VECTOR), DTypeError, "chol is int64, expected a float32"),
        (lambda: ops.solve_triangular_banded(CHOL.astype(complex), VECTOR), DTypeError, "chol is complex128"),
        (lambda: ops.inverse_banded([[1.0]]), DTypeError, "chol is list, expected a float32 or float64 array"),
        (lambda: ops.inverse_banded(CHOL, offsets=(0, 2, 3)), ShapeError, "offsets has 3 entries, expected M=2"),
        (lambda: ops.inverse_banded(CHOL, offsets=(1, 2)), ShapeError, r"offsets is \(1, 2\), expected strictly increasing"),
        (lambda: ops.inverse_banded(CHOL, offsets=(0, 0)), ShapeError, "strictly increasing integers starting at 0"),
        (lambda: ops.inverse_banded(CHOL, offsets=(0, 1.5)), ShapeError, "strictly increasing integers"),
        (lambda: ops.inverse_banded(CHOL, offsets=7), ShapeError, "strictly increasing integers"),
        (lambda: ops.inverse_banded(CHOL, offsets=("a", "b")), ShapeError, "strictly increasing integers"),
        (lambda: ops.affine(VECTOR, np.zeros((4, 3)), np.zeros(3)), ShapeError, r"affine: weight has shape \(4, 3\)"),
        (lambda: ops.affine(VECTOR, np.zeros((5, 3)), np.zeros(2)), ShapeError, r"bias has shape \(2,\), expected \(O=3\)"),
        (
            lambda: ops.affine(VECTOR, np.zeros((5, 3)), np.zeros(3), activation="swish"),
            ConfigError,
            "expected one of identity, relu",
        ),
        (
            lambda: ops.bernoulli_log_prob(VECTOR, VECTOR[:, :2]),
            ShapeError,
            r"logits has shape \(4, 2\), expected \(...\(4,\), N=5\)",
        ),
        (lambda: ops.log_mean_exp(np.zeros((0, 3))), ShapeError, "at least one entry along axis 0"),
        (lambda: ops.log_mean_exp(np.zeros(3), axis=1), ShapeError, "along axis 1"),
        (lambda: ops.matmul(VECTOR, VECTOR), ShapeError, r"matmul: y has shape \(4, 5\), expected \(..., k=5"),
        (lambda: ops.csr_matmul(VECTOR, VECTOR), DTypeError, "csr_matmul: x is ndarray, expected a CSR matrix"),
        (lambda: ops.cholesky(np.zeros((2, 3))), ShapeError, r"cholesky: a has shape \(2, 3\)"),
        (lambda: ops.where([1, 0], VECTOR, VECTOR), DTypeError, "mask is list, expected a boolean array"),
        (lambda: ops.sample_ar1(VECTOR, 1.0, 0.5, VECTOR), DTypeError, "variance is float"),
        (lambda: ops.sample_lowrank(VECTOR, VECTOR**2, VECTOR, VECTOR[:2]), ShapeError, "sample_lowrank"),
    ],
)
def test_contracts_name_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert isinstance(caught.value, GvaeError)


def test_dense_cholesky_names_the_rows():
    a = np.stack([np.eye(3), np.diag([1.0, -1.0, 1.0]), np.eye(3), np.full((3, 3), np.nan)])
    with pytest.raises(NotPositiveDefiniteError, match=r"row \(1,\), minor 2") as caught:
        ops.cholesky(a)
    assert (caught.value.rows, caught.value.minors) == ([(1,), (3,)], [2, 1])


def test_infinite_and_missing_weights():
    inf = np.inf
    w = np.array([[-inf, 0.0, -inf, inf, np.nan, inf], [-inf, -inf, 0.0, 0.0, 1.0, np.nan]])
    np.testing.assert_array_equal(ops.log_mean_exp(w), [-inf, np.log(0.5), np.log(0.5), inf, np.nan, np.nan])
    expected = [[0, 1, 0, 1, np.nan, np.nan], [0, 0, 1, 0, np.nan, np.nan]]
    np.testing.assert_array_equal(ops.normalized_weights(w), expected)
    _, pull = vjp(ops.log_mean_exp, w)
    np.testing.assert_array_equal(pull(np.ones(6)), expected)
    np.testing.assert_array_equal(ops.logsumexp(w[:, :3], axis=0), [-inf, 0, 0])


def test_extreme_logits_and_activations():
    a = np.array([[-1e4, 1e4, -1e30, 1e30, 0.0, np.nan]], np.float32)
    with np.errstate(all="raise"):
        for x in (0.0, 1.0):
            value = [float(ops.bernoulli_log_prob(np.full(1, x, np.float32), a[0, i : i + 1])) for i in range(5)]
            expected = [min(v, 0.0) for v in (a[0, :5] if x else -a[0, :5]).tolist()]
            np.testing.assert_allclose(value[:4], expected[:4], rtol=1e-6)
            np.testing.assert_allclose(value[4], -np.log(2), rtol=1e-6)
    eye, zero = np.eye(6, dtype=np.float32), np.zeros(6, np.float32)
    for f, expected in (
        ("elu", [-1, 1e4, -1, 1e30, 0]),
        ("tanh", [-1, 1, -1, 1, 0]),
        ("sigmoid", [0, 1, 0, 1, 0.5]),
        ("softplus", [0, 1e4, 0, 1e30, np.log(2)]),
        ("relu", [0, 1e4, 0, 1e30, 0]),
    ):
        finite = a.copy()
        finite[0, 5] = 0
        np.testing.assert_allclose(ops.affine(finite, eye, zero, activation=f)[0, :5], expected, rtol=1e-6)
        alone = ops.affine(a[:, 5:], np.ones((1, 1), np.float32), zero[:1], activation=f)
        assert np.isnan(alone).all(), f  # NaN is never made into a number


def test_other_devices_are_refused():
    class Fake(np.ndarray):
        pass

    Fake.__module__ = "cupy"
    fake = np.zeros(3).view(Fake)
    with pytest.raises(DeviceError, match="one device"):
        namespace(fake, np.zeros(3))
    assert namespace(np.zeros(3), 2.0) is np
    import sys
    import types

    sys.modules.setdefault("cupy", types.ModuleType("cupy"))
    try:
        with pytest.raises(DeviceError, match="no CUDA kernels yet"):
            kernels_for("banded", fake)
    finally:
        if not hasattr(sys.modules["cupy"], "ndarray"):
            del sys.modules["cupy"]


def test_check_shapes_reads_its_contract():
    sizes = check_shapes("a: ... M N, b: N, c: ... 3", a=np.zeros((2, 1, 4, 5)), b=np.zeros(5), c=np.zeros((6, 3)))
    assert sizes == {"M": 4, "N": 5, "...": (2, 6)}
    with pytest.raises(ShapeError, match=r"test_check_shapes_reads_its_contract: c has shape \(6, 2\), expected \(..., 3\)"):
        check_shapes("c: ... 3", c=np.zeros((6, 2)))
    with pytest.raises(ShapeError, match=r"b has shape \(1, 5\), expected \(N\)"):
        check_shapes("b: N", b=np.zeros((1, 5)))
