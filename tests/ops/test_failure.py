"""Failure beside the table of test_awkward.py: the very words of errors, results in place, ends of ranges, devices."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from gvae import ops
from gvae.autodiff import Var, vjp
from gvae.checks import check_shapes
from gvae.errors import BoundsError, DeviceError, DTypeError, GvaeError, ShapeError
from gvae.runtime.device import namespace

rng = np.random.default_rng(0)
B, M, N = 4, 2, 5
CHOL = rng.normal(size=(B, M, N)) * 0.3
CHOL[:, 0] = rng.uniform(0.8, 1.5, size=(B, N))
VECTOR = rng.normal(size=(B, N))
CSR = scipy.sparse.csr_array(np.eye(2, 3))


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


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: ops.solve_triangular_banded(CHOL, VECTOR[:3]),
            ShapeError,
            r"solve_triangular_banded: b has shape \(3, 5\), expected \(...\(4,\), N=5\)",
        ),
        (lambda: ops.inverse_banded(CHOL, offsets=(0, 2, 3)), ShapeError, "offsets has 3 entries, expected M=2"),
        (lambda: ops.log_mean_exp(np.zeros((0, 3))), ShapeError, "at least one entry along axis 0"),
        (lambda: ops.csr_matmul(VECTOR, VECTOR), DTypeError, "csr_matmul: x is ndarray, expected a CSR matrix"),
        (lambda: ops.csr_matmul(CSR * 1j, VECTOR), DTypeError, "csr_matmul: x is complex128, expected real numbers"),
        (
            lambda: ops.affine(CSR, VECTOR.T, VECTOR[0, :4]),
            ShapeError,
            r"affine: weight has shape \(5, 4\), expected \(I=3",
        ),
        (
            lambda: ops.scatter_last(VECTOR[:, :1], index=np.arange(3), size=5),
            ShapeError,
            r"scatter_last: index has shape \(3,\)",
        ),
        (lambda: ops.sample_ar1(VECTOR, 1.0, 0.5, VECTOR), DTypeError, "sample_ar1: variance is float"),
        (lambda: Var(VECTOR) + VECTOR[:, :2], ShapeError, r"add: y has shape \(4, 2\), expected one that broadcasts with"),
        (lambda: Var(VECTOR).reshape(3, 7), ShapeError, r"reshape: shape is \(3, 7\), expected one that holds the 20"),
    ],
)
def test_contracts_name_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert isinstance(caught.value, GvaeError)


def test_iterating_over_a_var_ends():
    """Python's protocol for it asks for entries until an IndexError: an error of ours that is one too."""
    assert [float(v.value) for v in Var(VECTOR[0])] == VECTOR[0].tolist()
    with pytest.raises(BoundsError, match=r"getitem: index is 5, expected one that fits shape \(5,\)"):
        Var(VECTOR[0])[5]


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


def test_check_shapes_reads_its_contract():
    sizes = check_shapes("a: ... M N, b: N, c: ... 3", a=np.zeros((2, 1, 4, 5)), b=np.zeros(5), c=np.zeros((6, 3)))
    assert sizes == {"M": 4, "N": 5, "...": (2, 6)}
    with pytest.raises(ShapeError, match=r"test_check_shapes_reads_its_contract: c has shape \(6, 2\), expected \(..., 3\)"):
        check_shapes("c: ... 3", c=np.zeros((6, 2)))
    with pytest.raises(ShapeError, match=r"b has shape \(1, 5\), expected \(N\)"):
        check_shapes("b: N", b=np.zeros((1, 5)))
