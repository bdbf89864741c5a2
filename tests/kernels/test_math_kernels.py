"""gvae.kernels.cpu._math: errors in ulp over all of float32 and hard regions of float64, ends, and SIMD code."""

from __future__ import annotations

import math
import sys

import mpmath
import numpy as np
import pytest
from nightly import thinned

from gvae.kernels.cpu import _math
from gvae.kernels.cpu._jit import kernel

NAMES = ("exp", "expm1", "log", "log1p", "sinpi", "cospi", "decay", "decaym1", "inverse1p")
DTYPES = (np.float32, np.float64)


@kernel
def multiply_subtract(a, c):
    return a * a - c


FUSED = multiply_subtract(1 + 2.0**-30, (1 + 2.0**-30) ** 2) != 0  # 2^-60, which a rounded product has lost
PI_BOUND = 1.1 if FUSED else 1.7
BOUNDS = {"exp": 1.1, "expm1": 1.4, "log": 0.9, "log1p": 1.0, "sinpi": PI_BOUND, "cospi": PI_BOUND}  # ulp, of _math
BOUNDS |= {"decay": 1.1, "decaym1": 1.4, "inverse1p": 1.7}
FOR = {"decay": (0, np.inf), "decaym1": (0, np.inf), "inverse1p": (0, 1)}  # what they take, where it is not everything


@kernel
def loop_exp(x, out):
    for i in range(x.size):
        out[i] = _math.exp(x[i])


@kernel
def loop_expm1(x, out):
    for i in range(x.size):
        out[i] = _math.expm1(x[i])


@kernel
def loop_log(x, out):
    for i in range(x.size):
        out[i] = _math.log(x[i])


@kernel
def loop_log1p(x, out):
    for i in range(x.size):
        out[i] = _math.log1p(x[i])


@kernel
def loop_sinpi(x, out):
    for i in range(x.size):
        out[i] = _math.sincospi(x[i])[0]


@kernel
def loop_cospi(x, out):
    for i in range(x.size):
        out[i] = _math.sincospi(x[i])[1]


@kernel
def loop_decay(x, out):
    for i in range(x.size):
        out[i] = _math.decay(x[i])


@kernel
def loop_decaym1(x, out):
    for i in range(x.size):
        out[i] = _math.decaym1(x[i])


@kernel
def loop_inverse1p(x, out):
    for i in range(x.size):
        out[i] = _math.inverse1p(x[i])


@kernel
def loop_softplus(x, out):
    zero = x.dtype.type(0)
    for i in range(x.size):
        out[i] = max(x[i], zero) + _math.log1p(_math.decay(abs(x[i])))


@kernel
def loop_sigmoid(x, out):
    one = x.dtype.type(1)
    for i in range(x.size):
        out[i] = one / (one + _math.exp(-x[i]))


LOOPS = {name: globals()[f"loop_{name}"] for name in NAMES}


OURS = {"decay": lambda x: np.exp(-x), "decaym1": lambda x: np.expm1(-x), "inverse1p": lambda x: 1 / (1 + x)}


def run(name, x):
    x = np.ascontiguousarray(x)
    out = np.empty_like(x)
    LOOPS[name](x, out)
    return out


def wide(name, x):
    """The function in the arithmetic of x; sine and cosine of pi x after exact reduction."""
    if name not in ("sinpi", "cospi"):
        with np.errstate(all="ignore"):
            return {**vars(np), **OURS}[name](x)
    n = np.rint(2 * x)
    r = (x - n / 2) * x.dtype.type("3.14159265358979323846264338327950288")
    quarter = (n.astype(np.int64) + (name == "cospi")) & 3
    s, c = np.sin(r), np.cos(r)
    # the quarter turn in which a value lies says which of the two it is, and n - or n + 1 - which sign it has
    return np.where(n.astype(np.int64) & 1 == (name == "cospi"), s, c) * np.where(quarter & 2, -1, 1)


def ulp_error(got, exact):
    """|got - exact| in units of the last place of exact; inf counts as the power of two above the largest number."""
    t = np.finfo(got.dtype)
    above = exact.dtype.type(2) ** t.maxexp
    g, e = np.clip(got.astype(exact.dtype), -above, above), np.clip(exact, -above, above)
    e_abs = np.minimum(np.abs(e), above * exact.dtype.type(0.75))  # the spacing of the very last number is no number
    spacing = np.spacing(e_abs.astype(got.dtype)).astype(exact.dtype)
    error = np.abs(g - e) / spacing
    return np.where(np.isnan(g) | np.isnan(e), np.where(np.isnan(g) & np.isnan(e), 0, np.inf), error)


def check(name, x, exact):
    got = run(name, x)
    if name == "decay":  # has no subnormal results, and the last x with another one is known to its last places only
        t = np.finfo(x.dtype)
        exact = np.where((got == 0) & (exact < t.smallest_normal * (1 + 99 * t.eps)), 0, exact)
    error = ulp_error(got, exact)
    worst = int(error.argmax())
    assert error[worst] <= BOUNDS[name], f"{name}({x[worst]!r}) is off by {error[worst]} ulp"


@pytest.mark.parametrize("every", thinned([5003, 509], lambda every: every == 5003))
@pytest.mark.parametrize("name", NAMES)
def test_float32_over_all_bit_patterns(name, every):
    """One of so many of all 2^32 floats, NaN, inf and subnormal included. (A full sweep by hand met the same bounds.)"""
    x = np.arange(0, 1 << 32, every, dtype=np.uint64).astype(np.uint32).view(np.float32)
    if name in ("sinpi", "cospi"):
        x = x[np.abs(x) < 2**20]
    if name in FOR:
        x = x[~((x < FOR[name][0]) | (x > FOR[name][1]))]  # NaN stays
    with np.errstate(invalid="ignore"):  # a signalling NaN, when it is converted
        exact = wide(name, x.astype(np.float64))
        check(name, x, exact)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("exp", -104.0, -87.0),  # subnormal results
        ("exp", -1.0, 1.0),
        ("exp", 88.0, 88.73),
        ("expm1", -0.75, 0.75),
        ("expm1", 0.3, 1.1),
        ("log", 0.66, 1.5),
        ("log", 0.0, 1.2e-38),
        ("log1p", -0.3, 0.5),
        ("log1p", -1e-6, 1e-6),
        ("decay", 0.0, 1.0),
        ("decay", 86.0, 89.0),  # where it ends
        ("decaym1", 0.0, 0.75),
        ("inverse1p", 0.0, 1.0),
        ("sinpi", 0.74, 1.26),
        ("cospi", 0.24, 0.76),
    ],
)
def test_float32_hard_regions(name, low, high):
    """All floats of a region up to 2^20 of them: where results cancel, vanish, or leave the normal numbers."""
    x = np.linspace(low, high, 1 << 20).astype(np.float32)
    check(name, x, wide(name, x.astype(np.float64)))


def hard_float64(name, n):
    rng = np.random.default_rng(5)
    sign = rng.choice([-1.0, 1.0], n)
    tiny = sign * 2.0 ** rng.uniform(-60, -1, n)
    middle = math.log(2) * (np.round(rng.uniform(-900, 900, n)) + 0.5) + rng.uniform(-1e-3, 1e-3, n)  # |r| largest
    regions = {
        "exp": (rng.uniform(-1, 1, n), rng.uniform(-745, 709.7, n), rng.uniform(-745.2, -708, n), middle, tiny),
        "expm1": (rng.uniform(-1, 1, n), rng.uniform(-40, 60, n), rng.uniform(0.3, 1.1, n), middle[middle > -40], tiny),
        "decay": (rng.uniform(0, 1, n), rng.uniform(0, 720, n), np.abs(middle), np.abs(tiny)),
        "decaym1": (rng.uniform(0, 1, n), rng.uniform(0, 60, n), np.abs(middle), np.abs(tiny)),
        "inverse1p": (rng.uniform(0, 1, n), np.abs(tiny)),
        "log": (rng.uniform(0, 2, n), 10 ** rng.uniform(-323, 308, n), 1 + tiny, math.sqrt(0.5) * (1 + tiny / 16)),
        "log1p": (rng.uniform(-1, 1, n), 10 ** rng.uniform(-308, 308, n), tiny, rng.uniform(0.35, 0.5, n)),
        "sinpi": (rng.uniform(-2, 2, n), np.round(rng.uniform(-2, 2, n)) + tiny, rng.uniform(-1000, 1000, n)),
        "cospi": (rng.uniform(-2, 2, n), np.round(rng.uniform(-2, 2, n)) + 0.5 + tiny, rng.uniform(-1000, 1000, n)),
    }
    return np.concatenate(regions[name])


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="no arithmetic wider than float64")
@pytest.mark.parametrize("name", NAMES)
def test_float64_dense(name):
    x = hard_float64(name, 40_000)
    check(name, x, wide(name, x.astype(np.longdouble)))


MPMATH = {
    "decay": lambda x: mpmath.exp(-x),
    "decaym1": lambda x: mpmath.expm1(-x),
    "inverse1p": lambda x: 1 / (1 + x),
}


@pytest.mark.parametrize("name", NAMES)
def test_float64_against_mpmath(name):
    x = hard_float64(name, 200)
    got = run(name, x)
    with mpmath.workdps(60):
        exact = [MPMATH.get(name, getattr(mpmath, name, None))(mpmath.mpf(float(v))) for v in x]
        if name == "decay":
            exact = [e if e >= sys.float_info.min else mpmath.mpf(0) for e in exact]  # no x lies at the end itself
        spacing = [mpmath.mpf(float(np.spacing(abs(float(e))))) for e in exact]
        error = [abs(mpmath.mpf(float(g)) - e) / s for g, e, s in zip(got, exact, spacing, strict=True)]
    assert max(error) <= BOUNDS[name]


@pytest.mark.parametrize("dtype", DTYPES)
def test_ends(dtype):
    t = np.finfo(dtype)
    inf, nan = np.inf, np.nan
    subnormal = t.smallest_subnormal
    ends = {
        "exp": [(-inf, 0), (inf, inf), (nan, nan), (0, 1), (-1e30, 0), (1e30, inf), (subnormal, 1)],
        "expm1": [(-inf, -1), (inf, inf), (nan, nan), (0, 0), (-1e30, -1), (1e30, inf), (subnormal, subnormal)],
        "decay": [(inf, 0), (nan, nan), (0, 1), (1e30, 0), (subnormal, 1)],
        "decaym1": [(inf, -1), (nan, nan), (0, 0), (1e30, -1), (subnormal, -subnormal)],
        "inverse1p": [(0, 1), (1, 0.5), (nan, nan), (subnormal, 1)],
        "log": [(-inf, nan), (inf, inf), (nan, nan), (0, -inf), (-0.0, -inf), (1, 0), (-1, nan), (-subnormal, nan)],
        "log1p": [(-inf, nan), (inf, inf), (nan, nan), (0, 0), (-1, -inf), (-2, nan), (subnormal, subnormal)],
        "sinpi": [(0, 0), (0.5, 1), (1, 0), (1.5, -1), (2, 0), (-0.5, -1), (nan, nan), (inf, nan), (-2, 0)],
        "cospi": [(0, 1), (0.5, 0), (1, -1), (1.5, 0), (2, 1), (-0.5, 0), (nan, nan), (inf, nan), (-1, -1)],
    }
    for name, pairs in ends.items():
        x, expected = np.array(pairs, dtype).T
        np.testing.assert_array_equal(run(name, x), expected, err_msg=name)
    np.testing.assert_array_equal(run("log", np.array([t.max, t.tiny, subnormal], dtype)) > 0, [True, False, False])


@pytest.mark.parametrize("dtype", DTYPES)
def test_composed_in_a_kernel(dtype):
    """The kernel around them may reassociate; the functions must not be pulled into that."""
    x = np.linspace(-30, 30, 100_001).astype(dtype)
    w = x.astype(np.longdouble)
    for loop, exact in ((loop_softplus, np.logaddexp(w, 0)), (loop_sigmoid, 1 / (1 + np.exp(-w)))):
        out = np.empty_like(x)
        loop(x, out)
        np.testing.assert_allclose(out.astype(np.longdouble), exact, rtol=3 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_runs_in_simd_lanes_without_calls(name, dtype):
    """LLVM has made vectors of the argument's type, nothing wider, and left no call into libm."""
    loop = type(LOOPS[name])(LOOPS[name].py_func, targetoptions=dict(LOOPS[name].targetoptions))  # not from the cache
    loop(np.ones(8, dtype), np.ones(8, dtype))
    (text,) = loop.inspect_llvm().values()
    assert f"x {'float' if dtype == np.float32 else 'double'}>" in text
    assert not (dtype == np.float32 and "x double>" in text)
    called = [line for line in text.splitlines() if " call " in line]
    assert not any(f"@{libm}" in line for line in called for libm in ("exp", "log", "sin", "cos", "expm1", "log1p"))


@kernel
def loop_scaled(x, m, n):
    for i in range(x.size):
        m[i], n[i] = _math.scaled(x[i])


@pytest.mark.parametrize("dtype", DTYPES)
def test_scaled_is_exact(dtype):
    """Also for subnormal numbers and at the ends of the range; inf and NaN come through in m."""
    t = np.finfo(dtype)
    x = np.exp2(np.random.default_rng(0).uniform(t.minexp - t.nmant, t.maxexp, size=10_000)).astype(dtype)
    x[:6] = t.smallest_subnormal, t.smallest_normal, np.nextafter(t.smallest_normal, dtype(0)), t.max, 1, 2
    m, n = np.empty_like(x), np.empty_like(x)
    loop_scaled(x, m, n)
    assert ((math.sqrt(0.5) * (1 - t.eps) <= m) & (m < math.sqrt(2) * (1 + t.eps))).all()
    np.testing.assert_array_equal(np.ldexp(m, n.astype(int)), x)
    loop_scaled(np.array([np.inf, np.nan], dtype), m, n)
    np.testing.assert_array_equal(m[:2], [np.inf, np.nan])


def test_outside_a_kernel():
    for name in _math.__all__:
        with pytest.raises(NotImplementedError, match="only inside kernels"):
            getattr(_math, name)(1.0)
