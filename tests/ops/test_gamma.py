"""Gamma variables: the quantile and its derivative, the distribution of z and of log z, and a model solved exactly."""

from __future__ import annotations

import functools
import itertools

import mpmath
import numpy as np
import pytest
import scipy.stats
from gradcheck import check_vjp
from numpy.testing import assert_allclose
from scipy import special

from gvae import families, models, objectives, ops, random
from gvae.autodiff import gradient
from gvae.data import Table
from gvae.distributions import DiagonalGaussian, GammaDistribution, Support
from gvae.errors import ConfigError, DTypeError, ShapeError
from gvae.kernels.cpu import gamma as kernels
from gvae.training import Trainer

SHAPES = np.array([1e-3, 0.03, 0.399, 0.401, 0.7, 0.999, 1.0, 3.0, 7.999, 8.0, 20.0, 100.0, 3e3, 1e6])
LOW = np.array([1e-300, 1e-100, 1e-30, 1e-16, 1e-8, 1e-4, 2e-3, 0.01, 0.1, 0.25, 0.4, 0.5])
HIGH = 1 - np.array([0.45, 0.3, 0.21, 0.2, 0.1, 0.03, 0.01, 1e-3, 1e-5, 1e-8, 1e-12, 1e-15, 2.0**-53])
U = np.concatenate([LOW, HIGH])


def draw(shape, u):
    """Of every shape at every number, (shapes, numbers)."""
    shape, u = (a.copy() for a in np.broadcast_arrays(np.asarray(shape)[:, None], u))
    return ops.log_gamma_draw(shape, u)


def slopes(shape, u):
    """dy/da, (shapes, numbers)."""
    wide, u = (a.copy() for a in np.broadcast_arrays(np.asarray(shape)[:, None], u))
    return gradient(lambda a: ops.sum(ops.log_gamma_draw(a, u)), wide)


# ---- the quantile and its derivative


@functools.cache
def exact(a, y):
    """(P, Q, D, dy/da) at z = e^y in 60 digits, D = z^a e^-z / Gamma(a): the power series and its derivative."""
    with mpmath.workdps(60):
        a, y = mpmath.mpf(a), mpmath.mpf(y)
        z, k, small = mpmath.exp(y), a, mpmath.mpf(10) ** -55
        t = total = mpmath.mpf(1)
        s = slope = mpmath.mpf(0)
        while t > small * total or -s > -small * slope:
            k += 1
            s = (s - t / k) * z / k
            t *= z / k
            total += t
            slope += s
        D = mpmath.exp(a * y - z - mpmath.loggamma(a))
        P = D * total / a
        return P, 1 - P, D, -(total * (y - mpmath.psi(0, a + 1)) + slope) / a


def test_quantiles_and_derivatives_against_sixty_digits():
    """The distribution function at the quantile, divided by its derivative, is the error of y = log z."""
    for a, ys, found in zip(SHAPES, draw(SHAPES, U), slopes(SHAPES, U), strict=True):
        for v, y, slope in zip(U, ys, found, strict=True):
            P, Q, D, expected = exact(float(a), float(y))
            with mpmath.workdps(60):
                error = (P - mpmath.mpf(v)) / D if v < 0.5 else (1 - mpmath.mpf(v) - Q) / D
                assert abs(error) < 5e-12 + 4.4e-16 * abs(y), (a, v, float(error))
                assert abs(slope / expected - 1) < 5e-12, (a, v, float(slope / expected - 1))


def test_quantiles_are_scipys():
    """Where z is a normal number, and beyond in the logarithm; where u is near 1, of 1 - u. SciPy's own error reaches 6e-10
    at a shape of 1e6 and u = 1e-7, by the sixty digits of the test above."""
    y = draw(SHAPES, U)
    z = np.concatenate([special.gammaincinv(SHAPES[:, None], LOW), special.gammainccinv(SHAPES[:, None], 1 - HIGH)], axis=1)
    normal = z > 1e-290
    assert normal.sum() > 200
    apart = abs(y - np.log(np.where(normal, z, 1)))[normal]
    assert apart.max() < 1e-9
    assert np.quantile(apart, 0.98) < 1e-11
    tiny = np.log(LOW) + special.gammaln(1 + 1e-3)  # log P = a y - log Gamma(a + 1) where z is 0 but for its logarithm
    assert_allclose(y[0, : len(LOW)], tiny / 1e-3, rtol=1e-12)
    assert (np.diff(y, axis=1) > 0).all()


def test_quantiles_where_one_form_takes_over_from_another():
    """Just below and above each limit of the method, u by u: monotone, and of one value."""
    u = np.linspace(0.001, 0.999, 4001)
    for limit in (0.4, 1.0, 8.0):
        below, above = draw(np.array([limit * (1 - 1e-12), limit * (1 + 1e-12)]), u)
        assert_allclose(below, above, rtol=0, atol=5e-11)
        assert (np.diff(below) > 0).all()
    for a in (0.05, 0.3, 0.7, 2.5, 9.0):
        step = np.diff(draw(np.array([a]), u)[0], n=2) / np.diff(u)[0] ** 2
        smooth = np.diff(np.log(special.gammaincinv(a, u)), n=2) / np.diff(u)[0] ** 2
        assert_allclose(step, smooth, rtol=1e-3, atol=1e-4 * abs(smooth).max())


def test_derivatives_are_those_of_differences():
    """By Richardson's extrapolation of SciPy's quantile, to 1e-9, which is what differences give."""
    u = np.linspace(0.02, 0.98, 25)
    for a in (0.3, 2.0, 30.0):
        h = 1e-3 * a
        f = [np.log(special.gammaincinv(a + k * h, u)) for k in (-2, -1, 1, 2)]
        fine, coarse = (f[2] - f[1]) / (2 * h), (f[3] - f[0]) / (4 * h)
        assert_allclose(slopes([a], u)[0], (4 * fine - coarse) / 3, rtol=1e-8)


def test_float32_is_float64_rounded():
    shape, u = np.broadcast_arrays(SHAPES[:, None].astype(np.float32), np.linspace(0.01, 0.99, 60, dtype=np.float32))
    shape, u = shape.copy(), u.copy()
    y = ops.log_gamma_draw(shape, u)
    wide = ops.log_gamma_draw(shape.astype(np.float64), u.astype(np.float64))
    assert y.dtype == np.float32
    assert_allclose(y, wide, rtol=6e-8)
    slope = gradient(lambda a: ops.sum(ops.log_gamma_draw(a, u)), shape)
    exactly = gradient(lambda a: ops.sum(ops.log_gamma_draw(a, u.astype(np.float64))), shape.astype(np.float64))
    assert slope.dtype == np.float32
    assert_allclose(slope, exactly, rtol=2e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ends(dtype):
    """A uniform 0 counts as half the smallest one, and 1 is infinite; what is no shape or no probability gives NaN."""
    shape = np.full(4, 0.5, dtype)
    half = dtype(2.0**-25 if dtype == np.float32 else 2.0**-54)
    y = ops.log_gamma_draw(shape, np.array([0, half, 1, -0.5], dtype))
    assert y[0] == y[1]
    assert y[2] == np.inf
    assert np.isnan(y[3])
    assert_allclose(y[1], np.log(special.gammaincinv(0.5, float(half))), rtol=1e-6)
    slope = gradient(lambda a: ops.sum(ops.log_gamma_draw(a, np.zeros(4, dtype))), SHAPES[:4].astype(dtype))
    assert np.isfinite(slope).all()
    wrong = ops.log_gamma_draw(np.array([0, -1, np.nan, np.inf], dtype), np.full(4, 0.5, dtype))
    assert np.isnan(wrong).all()
    assert np.isnan(ops.log_gamma_draw(shape, np.full(4, np.nan, dtype))).all()
    beyond = np.array([1e-30, 1e-8, 1e8, 1e15], dtype)
    for u in (1e-30, 1e-7, 0.5, 0.999999):
        y = ops.log_gamma_draw(beyond, np.full(4, u, dtype))
        assert np.isfinite(y).all()
        assert_allclose(y[2:], np.log(beyond[2:]), atol=2e-3)


def test_shared_shapes_are_not_copied(monkeypatch):
    """A shape per column against draws of many rows: the kernel gets one row of shapes, and the derivative is summed."""
    from gvae.runtime import device

    seen, launch = [], device.launch
    monkeypatch.setattr(device, "launch", lambda *args, **kw: (seen.append(args), launch(*args, **kw)))
    shape, u = np.array([0.3, 4.0, 90.0]), np.random.default_rng(0).random((5, 2, 3))
    y = ops.log_gamma_draw(shape, u)
    assert (y.shape, seen[0][2].shape, seen[0][4].shape) == ((5, 2, 3), (1, 3), (10, 3))
    per_row = gradient(lambda a: ops.sum(ops.log_gamma_draw(a, u)), np.broadcast_to(shape, u.shape).copy())
    assert_allclose(gradient(lambda a: ops.sum(ops.log_gamma_draw(a, u)), shape), per_row.sum(axis=(0, 1)), rtol=1e-13)
    with pytest.raises(ShapeError, match="log_gamma_draw: uniform has shape"):
        ops.log_gamma_draw(shape, u[..., :2])
    with pytest.raises(DTypeError, match="log_gamma_draw: "):
        ops.log_gamma_draw(shape.astype(np.float32), u)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("N", [1, 3, 50, 130])
def test_bits_do_not_depend_on_the_draws_beside(N, dtype):
    """Any split of the rows: draws are computed in blocks, sorted by shape, and a block's end is no other place."""
    r, R = np.random.default_rng(N), 40
    shape, u = np.exp(r.uniform(-5, 8, (R, N))).astype(dtype), r.random((R, N)).astype(dtype)
    bar, rows = r.normal(size=(R, N)).astype(dtype), np.arange(R)
    ends = []
    for cuts in ((0, R), (0, 1, 7, 8, 23, R)):
        y, slope = np.empty_like(u), np.empty_like(u)
        for lo, hi in itertools.pairwise(cuts):
            kernels.quantile(shape, rows, u, dtype(1e-9), y, lo, hi)
            kernels.quantile_vjp(bar, shape, rows, y, slope, lo, hi)
        ends.append((y, slope))
    np.testing.assert_array_equal(ends[0], ends[1])


# ---- integrals over u, whose nodes accumulate at both ends


def tanh_sinh(h=1 / 64, reach=3.4):
    """Nodes and weights on (0, 1); the last nodes are 1e-20 from 0, and as near to 1 as a float64 is."""
    t = np.arange(-reach, reach + h / 2, h)
    u = special.expit(np.pi * np.sinh(t))
    weight = h * np.pi * np.cosh(t) * u * special.expit(-np.pi * np.sinh(t))
    return u[u < 1], weight[u < 1]


NODES, WEIGHTS = tanh_sinh()


@pytest.mark.parametrize("a", [0.05, 0.3, 0.9, 1.0, 2.0, 7.9, 8.1, 40.0, 1e4])
def test_means_along_the_path(a):
    """E z = a and E log z = psi(a), so that the pathwise rule integrates to 1 and to psi'(a)."""
    y, slope = draw([a], NODES)[0], slopes([a], NODES)[0]
    assert_allclose(WEIGHTS @ np.exp(y), a, rtol=1e-9)
    assert_allclose(WEIGHTS @ y, special.digamma(a), rtol=1e-8)
    assert_allclose(WEIGHTS @ (np.exp(y) * slope), 1, rtol=1e-8)
    assert_allclose(WEIGHTS @ slope, special.polygamma(1, a), rtol=1e-8)


# ---- the distribution

rng = np.random.default_rng(0)
B, N = 3, 4
LOG_SHAPE, LOG_MEAN = 1.2 * rng.normal(size=(B, N)), rng.normal(size=(B, N))
LAW = scipy.stats.gamma(np.exp(LOG_SHAPE), scale=np.exp(LOG_MEAN - LOG_SHAPE))
kinds = pytest.mark.parametrize("log", [False, True], ids=["gamma", "log_gamma"])


@kinds
def test_densities_and_moments_are_scipys(log):
    q = GammaDistribution(LOG_SHAPE, LOG_MEAN, log)
    law = scipy.stats.loggamma(np.exp(LOG_SHAPE), loc=LOG_MEAN - LOG_SHAPE) if log else LAW
    x = law.rvs(size=(5, B, N), random_state=1)
    assert_allclose(q.log_prob(x, reduce=False), law.logpdf(x), rtol=1e-10, atol=1e-11)
    assert_allclose(q.log_prob(x), law.logpdf(x).sum(-1), rtol=1e-10)
    assert_allclose(q.log_prob_of_draw(None, x), q.log_prob(x), rtol=0)
    assert_allclose(q.mean, law.mean(), rtol=1e-9)
    assert_allclose(q.variance(), law.var(), rtol=1e-9)
    assert_allclose(q.covariance()[1], np.diag(law.var()[1]), rtol=1e-9)
    assert_allclose(q.entropy(), law.entropy().sum(-1), rtol=1e-7, atol=1e-9)
    u = q.noise(random.key(4), (200,))
    assert_allclose(q.sample(u), law.ppf(u), rtol=1e-9, atol=1e-9)
    for j, cdf in q.conditionals(x[0]):
        assert_allclose(cdf(x[0][:, j]), law.cdf(x[0])[:, j], rtol=1e-9)
    assert (q.n, q.batch_shape, q.path, q.independent, q.discrete) == (N, (B,), "exact", True, False)
    assert q.support == (Support() if log else Support(0, np.inf, open=True))
    assert q.standard.kl() == pytest.approx(0, abs=1e-15)
    assert_allclose(q.standard.mean, special.digamma(1) if log else 1)
    assert q.stopped().reparameterized


@kinds
def test_the_density_of_a_large_shape_in_float32(log):
    """Terms of 1e5 nats would cancel: their rounding alone is 1e-2."""
    log_shape, log_mean = np.log([[1e4, 3e3]]), np.array([[2.0, -1.0]])
    q = GammaDistribution(log_shape, log_mean, log)
    x = q.sample(np.array([[0.3, 0.8]]))
    narrow = GammaDistribution(log_shape.astype(np.float32), log_mean.astype(np.float32), log)
    assert_allclose(narrow.log_prob(x.astype(np.float32)), q.log_prob(x), atol=2e-3)
    assert_allclose(narrow.kl(), q.kl(), rtol=1e-4)
    assert_allclose(narrow.kl(narrow), 0, atol=1e-6)


def test_probabilities_where_a_draw_would_underflow():
    """P(a, e^t) = e^(a t) / Gamma(a + 1) for e^t -> 0: of log z, a small shape puts 2 % below -745, where e^t is 0."""
    q = GammaDistribution(np.log([5e-3]), np.zeros(1), log=True)
    log_z = np.array([-1000.0, -800.0, -745.0, -100.0, -46.0, -45.0, -10.0, 0.0])
    found = q._cdf()(0, log_z)
    with mpmath.workdps(30):
        a = mpmath.mpf(float(q.shape[0]))
        expected = [float(mpmath.gammainc(a, 0, a * mpmath.exp(float(v)), regularized=True)) for v in log_z]
    assert_allclose(found, expected, rtol=1e-12)


@kinds
def test_kl_and_entropy_are_integrals(log):
    q = GammaDistribution(LOG_SHAPE[0], LOG_MEAN[0], log)
    p = GammaDistribution(0.5 * LOG_SHAPE[1] + 0.1, LOG_MEAN[1], log)
    z = q.sample(np.broadcast_to(NODES[:, None], (len(NODES), N)).copy())
    log_q = q.log_prob(z, reduce=False)
    for prior in (p, q.standard):
        by_unit = WEIGHTS @ (log_q - prior.log_prob(z, reduce=False))
        assert_allclose(q.kl_by_unit(prior), by_unit, rtol=1e-7)
        assert_allclose(q.kl(prior), by_unit.sum(), rtol=1e-7)
    assert_allclose(q.kl(), q.kl(q.standard), rtol=1e-13)
    assert_allclose(q.entropy(), -(WEIGHTS @ log_q).sum(), rtol=1e-7)
    assert_allclose(q.kl(q), 0, atol=1e-12)
    assert q.kl(GammaDistribution(LOG_SHAPE[0], LOG_MEAN[0], not log)) is None
    assert q.kl(DiagonalGaussian(np.zeros(N), np.zeros(N))) is None
    a, a_p = np.exp(LOG_SHAPE[0]), np.exp(0.5 * LOG_SHAPE[1] + 0.1)
    b, b_p = a / np.exp(LOG_MEAN[0]), a_p / np.exp(LOG_MEAN[1])
    textbook = (a - a_p) * special.digamma(a) - special.gammaln(a) + special.gammaln(a_p)
    textbook = textbook + a_p * np.log(b / b_p) + a * (b_p - b) / b
    assert_allclose(q.kl_by_unit(p), textbook, rtol=1e-10)


@kinds
def test_gradients(log):
    x = (np.log if log else np.asarray)(LAW.rvs(size=(2, B, N), random_state=2))
    p, u = GammaDistribution(0.5 * LOG_SHAPE[0], LOG_MEAN[0], log), rng.uniform(0.05, 0.95, (2, B, N))

    def f(log_shape, log_mean):
        q = GammaDistribution(log_shape, log_mean, log)
        z = q.sample(u)
        total = ops.sum(q.log_prob(x)) + ops.sum(z * np.cos(u)) + ops.sum(q.log_prob_of_draw(u, z) - p.log_prob(z))
        for closed in (q.kl(), q.kl(p), p.kl(q), q.entropy(), q.mean):
            total = total + ops.sum(closed)
        return total

    check_vjp(f, (LOG_SHAPE, LOG_MEAN), np.random.default_rng(3))


@kinds
def test_the_score_and_the_path_have_one_mean(log):
    """d E f(z) for f(z) = sin(log z), by both: the score function's mean is within 5 standard errors of the path's."""
    raw, u = np.array([0.3, -0.2]), random.uniform(random.key(1), (100_000, 1), np.float64)

    def by_path(raw):
        q = GammaDistribution(raw[:1], raw[1:], log)
        z = q.sample(u)
        return ops.mean(ops.tanh(z if log else ops.log(z)))

    def score(k):
        q = GammaDistribution(raw[:1], raw[1:], log, path=None)
        z = q.sample(u)
        step = np.eye(2)[k] * 1e-5
        ends = [
            GammaDistribution((raw + s * step)[:1], (raw + s * step)[1:], log).log_prob(z, reduce=False) for s in (-1, 1)
        ]
        return (np.tanh(z if log else np.log(z)) * (ends[1] - ends[0]) / 2e-5)[:, 0]

    found = gradient(by_path, raw)
    for k in (0, 1):
        each = score(k)
        assert abs(each.mean() - found[k]) < 5 * each.std() / np.sqrt(len(each)) + 2e-3
    silent = gradient(lambda raw: ops.sum(1.0 * GammaDistribution(raw[:1], raw[1:], log, path=None).sample(u) + raw), raw)
    assert_allclose(silent, len(u))


def test_log_gamma_does_not_underflow():
    """At shape 0.001 half of the draws are below the smallest float64, and all logarithms are as they should be."""
    u = np.linspace(0.01, 0.99, 99)[:, None]
    log_shape, zero = np.log([0.001]), np.zeros(1)
    y, z = (GammaDistribution(log_shape, zero, log).sample(u) for log in (True, False))
    assert (y < np.log(np.finfo(float).tiny)).mean() > 0.3
    assert_allclose(z, np.maximum(np.exp(y), np.finfo(float).tiny), rtol=1e-12)
    assert_allclose(special.gammainc(0.001, 0.001 * np.exp(y[y > -600])), u[y > -600], rtol=1e-9)
    small = y < -20
    assert_allclose(0.001 * (y[small] + np.log(0.001)) - special.gammaln(1.001), np.log(u[small]), rtol=1e-10, atol=1e-12)


def test_mistakes():
    with pytest.raises(ConfigError, match="GammaDistribution: path is 'score', expected 'exact' or None"):
        GammaDistribution(np.zeros(2), np.zeros(2), path="score")
    with pytest.raises(ConfigError, match="log_gamma: path is 'taylor', expected 'exact' or None"):
        families.Gamma(2, log=True, path="taylor")


# ---- families and models


@kinds
def test_raw_numbers_are_bounded(log):
    family = families.Gamma(2, log)
    q = family(np.array([-1e4, 1e4, -1e4, 1e4]))
    assert_allclose(np.exp(q.log_shape), [5e-3, 1e4])
    assert_allclose(np.exp(q.log_mean), [1e-6, 1e6])
    assert_allclose(family(np.zeros(4)).kl(), 0, atol=1e-15)
    near = 1e-4 * np.array([1.0, -1.0, 1.0, -1.0])
    assert_allclose(np.concatenate([family(near).log_shape, family(near).log_mean]), near, rtol=1e-6)
    check_vjp(lambda raw: family(raw).log_shape, (np.array([0.5, -0.5, 0.0, 0.0]),), np.random.default_rng(0))
    assert gradient(lambda raw: ops.sum(family(raw).log_shape), np.zeros(4)).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("text", ["gamma:score", "log_gamma:score"])
def test_codes_without_a_path_train_and_are_captured(text):
    """By VIMCO, and the ELBO's score terms; a captured step gives the bits of Python's."""
    x = (np.random.default_rng(0).random((60, 12)) < 0.4).astype(np.float32)
    model = models.VAE(12, 2, posterior=text, prior=text, hidden=(8,))
    assert model.has_closed_kl
    for objective in (objectives.parse("elbo"), objectives.parse("iwae", gradient="vimco")):
        ends = []
        for programs in (True, False):
            trainer = Trainer(model, objective=objective, samples=2, seed=1, programs=programs)
            for i in range(4):
                trainer.step(Table(x).batch(np.arange(20) + 5 * i, random.key(i)))
            ends.append(trainer.parameters.flat.copy())
        np.testing.assert_array_equal(*ends)
        assert np.isfinite(ends[0]).all()


def conjugate(a=0.7, b=1.3):
    """Counts x_i ~ Poisson(z w_i), z ~ Gamma(a, b): (w, x, the posterior's shape and rate, log p(x))."""
    r = np.random.default_rng(5)
    w = r.uniform(0.2, 3.0, 6)
    x = r.poisson(1.5 * w).astype(float)
    shape, rate = a + x.sum(), b + w.sum()
    log_p = a * np.log(b) - special.gammaln(a) + special.gammaln(shape) - shape * np.log(rate)
    return w, x, shape, rate, log_p + (x * np.log(w) - special.gammaln(x + 1)).sum()


@kinds
def test_the_conjugate_posterior_leaves_no_variance(log):
    """With q the posterior, log p(x, z) - log q(z) is log p(x) for every draw, and so is the bound."""
    a, b = 0.7, 1.3
    w, x, shape, rate, log_p = conjugate(a, b)
    prior = GammaDistribution(np.log([a]), np.log([a / b]), log)
    q = GammaDistribution(np.log([shape]), np.log([shape / rate]), log)
    u = q.noise(random.key(0), (50,))

    def log_weights(q):
        z = q.sample(u)
        log_z = z if log else ops.log(z)
        likelihood = ops.sum(x * (log_z + np.log(w)) - ops.exp(log_z) * w - special.gammaln(x + 1), axis=-1)
        return likelihood + prior.log_prob(z) - q.log_prob_of_draw(u, z)

    assert_allclose(log_weights(q), log_p, rtol=1e-11)
    expected = (
        x @ (special.digamma(shape) - np.log(rate) + np.log(w)) - shape / rate * w.sum() - special.gammaln(x + 1).sum()
    )
    assert_allclose(expected - q.kl(prior), log_p, rtol=1e-11)

    def bound(raw):  # the sticking-the-landing gradient vanishes draw by draw
        p = GammaDistribution(raw[:1], raw[1:], log)
        z = p.sample(u)
        log_z = z if log else ops.log(z)
        likelihood = ops.sum(x * (log_z + np.log(w)) - ops.exp(log_z) * w, axis=-1)
        return ops.sum(likelihood + prior.log_prob(z) - p.stopped().log_prob(z))

    slope = gradient(bound, np.array([np.log(shape), np.log(shape / rate)]))
    assert_allclose(slope, 0, atol=1e-9)
