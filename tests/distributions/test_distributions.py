"""Every distribution against dense linear algebra, and its samples against its moments."""

from __future__ import annotations

import time

import numpy as np
import pytest
import reference as ref
import scipy.stats
from gradcheck import check_vjp

import gvae
from gvae import families, ops, random
from gvae.autodiff import gradient
from gvae.distributions import (
    AR1Gaussian,
    BandedGaussian,
    BernoulliDistribution,
    BetaDistribution,
    CategoricalDistribution,
    ContinuousBernoulliDistribution,
    DenseGaussian,
    DiagonalGaussian,
    GammaDistribution,
    GaussianMixture,
    LogitNormal,
    LowRankGaussian,
    NegativeBinomialDistribution,
    PoissonDistribution,
    PoissonProduct,
    Rescaled,
    Support,
    ZeroInflatedDistribution,
)
from gvae.errors import BoundsError, ConfigError, NotPositiveDefiniteError, ShapeError
from gvae.families import parse

N, B = 6, 3
rng = np.random.default_rng(5)


def factor(M):
    chol = rng.normal(size=(B, M, N)) * 0.4
    chol[:, 0] = rng.uniform(0.7, 1.6, size=(B, N))
    return chol


mean = rng.normal(size=(B, N))
lower = np.tril(rng.normal(size=(B, N, N)) * 0.3, -1) + np.eye(N) * rng.uniform(0.6, 1.5, size=(B, N))[:, None]
GAUSSIANS = {
    "diagonal": DiagonalGaussian(mean, rng.normal(size=(B, N)) * 0.5),
    "chain": BandedGaussian(mean, factor(2)),
    "extended grid": BandedGaussian(mean, factor(3), (0, 1, 3)),
    "ar1": AR1Gaussian(mean, rng.uniform(0.5, 2, B), rng.uniform(-0.8, 0.8, B)),
    "lowrank": LowRankGaussian(mean, rng.uniform(0.5, 2, (B, N)), rng.normal(size=(B, 2, N))),
    "dense": DenseGaussian(mean, lower),
}
every = pytest.mark.parametrize("d", list(GAUSSIANS.values()), ids=list(GAUSSIANS))


@every
def test_moments_and_densities(d):
    C = d.covariance()
    assert C.shape == (B, N, N)
    np.testing.assert_allclose(d.variance(), np.diagonal(C, axis1=1, axis2=2), rtol=1e-12)
    np.testing.assert_allclose(d.entropy(), [ref.gaussian_entropy(c) for c in C], rtol=1e-12)
    np.testing.assert_allclose(d.logdet_covariance(), np.linalg.slogdet(C)[1], atol=1e-12)
    x = rng.normal(size=(4, B, N))
    expected = [[ref.gaussian_log_prob(x[k, b], mean[b], C[b]) for b in range(B)] for k in range(4)]
    np.testing.assert_allclose(d.log_prob(x), expected, rtol=1e-12)
    np.testing.assert_allclose(d.kl(), [ref.gaussian_kl(m, c) for m, c in zip(mean, C, strict=True)], rtol=1e-12)
    assert (d.n, d.batch_shape, d.reparameterized) == (N, (B,), True)


@every
def test_the_density_of_a_draw_follows_from_its_noise(d):
    eps = d.noise(random.key(1), (7,))
    assert eps.shape == (7, B, N)
    np.testing.assert_allclose(d.log_prob_of_draw(eps, d.sample(eps)), d.log_prob(d.sample(eps)), rtol=1e-11)


@every
def test_kl_to_a_diagonal_and_to_itself(d):
    p = DiagonalGaussian(rng.normal(size=(B, N)), rng.normal(size=(B, N)) * 0.3)
    expected = [ref.gaussian_kl(mean[b], d.covariance()[b], p.mean[b], p.covariance()[b]) for b in range(B)]
    np.testing.assert_allclose(d.kl(p), expected, rtol=1e-12)
    np.testing.assert_allclose(d.kl(d.standard), d.kl(), rtol=1e-12)


def test_kl_between_banded_gaussians():
    for q in (GAUSSIANS["diagonal"], GAUSSIANS["chain"], GAUSSIANS["extended grid"]):
        for p in (GAUSSIANS["chain"], GAUSSIANS["extended grid"]):
            expected = [ref.gaussian_kl(q.mean[b], q.covariance()[b], p.mean[b], p.covariance()[b]) for b in range(B)]
            np.testing.assert_allclose(q.kl(p), expected, rtol=1e-11, atol=1e-12)
    q, p = GAUSSIANS["ar1"], GAUSSIANS["chain"]
    for a, b in ((q, p), (p, q), (q, q)):
        expected = [ref.gaussian_kl(a.mean[i], a.covariance()[i], b.mean[i], b.covariance()[i]) for i in range(B)]
        np.testing.assert_allclose(a.kl(b), expected, rtol=1e-11, atol=1e-12)
    assert GAUSSIANS["lowrank"].kl(p) is None
    assert p.kl(GAUSSIANS["dense"]) is None
    bad = p.chol.copy()
    bad[0, 0, 0] = -1.0
    unchecked = BandedGaussian(p.mean, p.chol, check=False)
    with pytest.raises(NotPositiveDefiniteError, match="prior_chol"):
        unchecked.kl(BandedGaussian(p.mean, bad))


@every
def test_samples_have_the_moments(d):
    """10^5 draws; an entry of the sample covariance has standard error sqrt((C_ij² + C_ii C_jj) / n). False alarms: the
    six families make 6 x 3 x 27 comparisons at 5.5 standard errors, below 2e-5 in all, and the key is fixed."""
    n = 100_000
    z = d.sample(d.noise(random.key(2), (n,)))
    C = d.covariance()
    variances = np.diagonal(C, axis1=1, axis2=2)
    assert np.abs((z.mean(axis=0) - mean) / np.sqrt(variances / n)).max() < 5.5
    e = z - mean
    sample = np.einsum("kbi,kbj->bij", e, e) / n
    error = np.sqrt((C**2 + variances[:, :, None] * variances[:, None, :]) / n)
    assert np.abs((sample - C) / error).max() < 5.5


def test_rows_that_share_a_mean_draw_noise_of_their_own():
    one, chol = np.zeros(N), factor(2)
    shared = [
        BandedGaussian(one, chol),
        DiagonalGaussian(one, np.zeros((B, N))),
        AR1Gaussian(one, np.ones(B), np.float64(0.5)),
        LowRankGaussian(one, np.ones((B, N)), np.ones((2, N))),
        DenseGaussian(one, lower),
    ]
    for d in shared:
        assert d.batch_shape == (B,)
        eps = d.noise(random.key(0), (4,))
        assert eps.shape == (4, B, N)
        assert d.sample(eps).shape == (4, B, N)
        assert repr(d) == f"{type(d).__name__}(batch_shape=({B},), n={N})"


def test_terms_of_a_density():
    x = rng.normal(size=(B, N))
    for name in ("diagonal", "chain", "extended grid"):
        d = GAUSSIANS[name]
        np.testing.assert_allclose(d.log_prob(x, reduce=False).sum(axis=-1), d.log_prob(x), rtol=1e-12)
    with pytest.raises(ConfigError, match="reduce=False"):
        GAUSSIANS["ar1"].log_prob(x, reduce=False)


def test_bernoulli():
    a = rng.normal(size=(B, N)) * 2
    d, p = BernoulliDistribution(a), BernoulliDistribution(rng.normal(size=(B, N)))
    q = 1 / (1 + np.exp(-a))
    x = (rng.uniform(size=(4, B, N)) < 0.5).astype(float)
    dense = np.where(x == 1, np.log(q), np.log(1 - q))
    np.testing.assert_allclose(d.log_prob(x), dense.sum(-1), rtol=1e-12)
    np.testing.assert_allclose(d.log_prob(x, reduce=False), dense, rtol=1e-12)
    np.testing.assert_allclose(d.entropy(), -(q * np.log(q) + (1 - q) * np.log(1 - q)).sum(-1), rtol=1e-12)
    r = p.mean
    expected = (q * np.log(q / r) + (1 - q) * np.log((1 - q) / (1 - r))).sum(-1)
    np.testing.assert_allclose(d.kl(p), expected, rtol=1e-12)
    np.testing.assert_allclose(d.kl(), d.kl(d.standard), rtol=1e-12)
    np.testing.assert_allclose(d.variance(), q * (1 - q), rtol=1e-12)
    np.testing.assert_allclose(d.covariance()[0], np.diag(q[0] * (1 - q[0])), rtol=1e-12)
    assert d.kl(GAUSSIANS["chain"]) is None
    assert not d.reparameterized
    n = 100_000
    draws = d.sample(d.noise(random.key(3), (n,)))
    assert set(np.unique(draws)) == {0.0, 1.0}
    assert np.abs((draws.mean(axis=0) - q) / np.sqrt(q * (1 - q) / n)).max() < 5  # 18 comparisons, below 1e-5


# ---- what is not Gaussian, against scipy.stats


log_scales = rng.normal(size=(3, B, N)) * 0.8
logits = rng.normal(size=(B, N)) * 2
SCIPY = {
    "poisson": (PoissonDistribution(1 + logits), scipy.stats.poisson(np.exp(1 + logits))),
    "negative binomial": (
        NegativeBinomialDistribution(1 + log_scales[0], log_scales[1]),
        scipy.stats.nbinom(np.exp(log_scales[1]), 1 / (1 + np.exp(1 + log_scales[0] - log_scales[1]))),
    ),
    "beta": (
        BetaDistribution(1 + log_scales[0], 1 + log_scales[1]),
        scipy.stats.beta(np.exp(1 + log_scales[0]), np.exp(1 + log_scales[1])),
    ),
    # e^(a x) on [0, 1]: an exponential with rate -a, cut off at 1; turned round where a > 0
    "continuous Bernoulli": (
        ContinuousBernoulliDistribution(-np.abs(logits) - 1e-3),
        scipy.stats.truncexpon(np.abs(logits) + 1e-3, scale=1 / (np.abs(logits) + 1e-3)),
    ),
    "categorical": (
        CategoricalDistribution(np.stack([logits[..., None] * 0, 2 * logits[..., None]], -1)[..., 0, :] / 3),
        scipy.stats.bernoulli(1 / (1 + np.exp(-2 * logits / 3))),
    ),
}
others = pytest.mark.parametrize(("d", "oracle"), list(SCIPY.values()), ids=list(SCIPY))


@others
def test_log_prob_and_moments_are_scipys(d, oracle):
    x = oracle.rvs(size=(5, B, N), random_state=1).astype(float)
    terms = oracle.logpmf(x) if d.support.whole else oracle.logpdf(x)
    assert d.support.contains(x).all()
    np.testing.assert_allclose(d.log_prob(x), terms.sum(-1), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(d.log_prob(x, reduce=False), terms, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(d.mean, oracle.mean(), rtol=1e-9)
    np.testing.assert_allclose(d.variance(), oracle.var(), rtol=1e-6)
    np.testing.assert_allclose(d.covariance()[1], np.diag(oracle.var()[1]), rtol=1e-6)
    assert (d.n, d.batch_shape, d.reparameterized) == (N, (B,), False)
    if (entropy := d.entropy()) is not None:
        np.testing.assert_allclose(entropy, oracle.entropy().sum(-1), rtol=1e-7, atol=1e-9)


@others
def test_draws_invert_the_distribution_function(d, oracle):
    u = d.noise(random.key(4), (200,))
    assert u.shape == (200, B, N)
    expected = oracle.ppf(u)
    agree = np.isclose(d.sample(u), expected, rtol=1e-9, atol=1e-9)
    assert agree.mean() == 1.0
    narrow = d.sample(u.astype(np.float32))
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(d.sample(np.zeros((*d.batch_shape, N))), np.maximum(oracle.ppf(0.0), 0), atol=1e-300)


@others
def test_kl_is_the_expected_log_ratio(d, oracle):
    """By 20,000 draws; |mean - KL| below 5 standard errors in 2 x 3 comparisons: a false alarm in 4e-6 of keys."""
    z = d.sample(d.noise(random.key(5), (20_000,)))
    for p in (d.standard, perturbed(d)):
        closed = d.kl(p)
        assert (closed is None) == isinstance(d, NegativeBinomialDistribution)
        if closed is not None:
            ratio = d.log_prob(z) - p.log_prob(z)
            assert (np.abs(ratio.mean(0) - closed) < 5 * ratio.std(0) / np.sqrt(len(z)) + 1e-12).all()
    if (closed := d.kl()) is not None:
        np.testing.assert_allclose(closed, d.kl(d.standard), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(d.kl(d), 0, atol=1e-10)
    assert d.kl(GAUSSIANS["chain"]) is None


def perturbed(d):
    """Another distribution of its kind, with one row of parameters for all."""
    return type(d)(*(0.5 * v[0] + 0.1 for v in vars(d).values()))


@others
def test_gradients_of_log_prob_and_kl(d, oracle):
    x = oracle.rvs(size=(2, B, N), random_state=2).astype(float)
    p, raw = perturbed(d), list(vars(d).values())

    def f(*parameters):
        q = type(d)(*parameters)
        total = ops.sum(q.log_prob(x)) + ops.sum(q.log_prob(x, reduce=False))
        for closed in (q.kl(), q.kl(p), p.kl(q), q.entropy()):
            total = total if closed is None else total + ops.sum(closed)
        return total + ops.sum(q.mean)

    check_vjp(f, tuple(raw), np.random.default_rng(3))


class Inflated:
    """scipy's distribution of counts with more zeros, for `others`."""

    def __init__(self, base, pi):
        self.base, self.pi = base, pi

    def pmf(self, x):
        return (1 - self.pi) * self.base.pmf(x) + self.pi * (x == 0)

    def ppf(self, u):
        """The smallest k whose distribution function reaches u."""
        k = np.zeros(np.shape(u))
        while (short := self.pi + (1 - self.pi) * self.base.cdf(k) < u).any():
            k += short
        return k


ZERO_INFLATED = {
    name: (ZeroInflatedDistribution(d, 1.5 * logits[::-1]), Inflated(oracle, 1 / (1 + np.exp(-1.5 * logits[::-1]))))
    for name, (d, oracle) in SCIPY.items()
    if name in ("poisson", "negative binomial")
}
zero_inflated = pytest.mark.parametrize(("d", "oracle"), list(ZERO_INFLATED.values()), ids=list(ZERO_INFLATED))


@zero_inflated
def test_zero_inflated_density_and_moments(d, oracle):
    counts = np.arange(4000.0)[:, None, None]
    p = oracle.pmf(counts)
    np.testing.assert_allclose(p.sum(0), 1, rtol=1e-12)
    np.testing.assert_allclose(d.mean, (counts * p).sum(0), rtol=1e-9)
    np.testing.assert_allclose(d.mean, (1 - oracle.pi) * oracle.base.mean(), rtol=1e-12)
    np.testing.assert_allclose(d.variance(), (counts**2 * p).sum(0) - d.mean**2, rtol=1e-8)
    np.testing.assert_allclose(d.covariance()[1], np.diag(d.variance()[1]), rtol=1e-12)
    x = np.broadcast_to(counts[:30], (30, B, N))
    np.testing.assert_allclose(d.log_prob(x, reduce=False), np.log(p[:30]), rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(d.log_prob(x), np.log(p[:30]).sum(-1), rtol=1e-11)
    narrow = type(d)(type(d.base)(*(v.astype(np.float32) for v in vars(d.base).values())), d.logits.astype(np.float32))
    found = narrow.log_prob(x.astype(np.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, d.log_prob(x), rtol=1e-5)
    assert (d.n, d.batch_shape, d.reparameterized, str(d.support)) == (N, (B,), False, "0, 1, ..")
    assert d.kl() is None
    assert d.kl(d.standard) is None
    assert d.entropy() is None
    of_base = np.exp(d.base.standard.log_prob(np.zeros(N), reduce=False))
    np.testing.assert_allclose(d.standard.log_prob(np.zeros(N), reduce=False), np.log((1 + of_base) / 2))


@zero_inflated
def test_zero_inflated_draws_invert_the_distribution_function(d, oracle):
    """And their shares of 0, 1, 2, 3 are the density's: 4 x 18 comparisons at 5 standard errors, false alarms below 1e-4."""
    u = d.noise(random.key(4), (2000,))
    draws = d.sample(u)
    np.testing.assert_array_equal(draws, oracle.ppf(u))
    n = 100_000
    many = d.sample(d.noise(random.key(6), (n,)).astype(np.float32))
    assert many.dtype == np.float32
    for k in range(4):
        p = oracle.pmf(np.full((B, N), float(k)))
        assert np.abs(((many == k).mean(0) - p) / np.sqrt(p * (1 - p) / n)).max() < 5
    np.testing.assert_array_equal(d.sample(np.zeros((B, N))), 0)
    for a, share in ((1e4, 1.0), (-1e4, 0.0)):
        sure = type(d)(d.base, np.full((B, N), a))
        np.testing.assert_array_equal(sure.sample(u), np.where(share, 0, d.base.sample(u)))


@zero_inflated
def test_zero_inflated_gradients(d, oracle):
    """Of zeros and of other counts, with a row of logits for all rows; and where both terms of the sum are equal."""
    names = list(vars(d.base))
    x = np.concatenate([np.zeros((1, B, N)), oracle.base.rvs(size=(2, B, N), random_state=2)])
    equal = d.base.log_prob(np.zeros((B, N)), reduce=False)
    for a in (d.logits, d.logits[0], equal):

        def f(a, *parameters):
            q = type(d)(type(d.base)(*parameters), a)
            return ops.sum(q.log_prob(x)) + ops.sum(q.log_prob(x, reduce=False)) + ops.sum(q.mean) + ops.sum(q.variance())

        check_vjp(f, (a, *(vars(d.base)[name] for name in names)), np.random.default_rng(3))


def test_zero_inflated_far_out():
    """Where the base gives 0 hardly any probability, or all of it, and where there is hardly any excess, or nothing else."""
    for dtype in (np.float32, np.float64):
        log_mean, log_r = (np.array(v, dtype) for v in ([13.0, -13.0, 13.0, -13.0], [6.9, 6.9, -6.9, -6.9]))
        base = NegativeBinomialDistribution(log_mean, log_r)
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            for a in (-1e4, -30.0, 0.0, 30.0, 1e4):
                d = ZeroInflatedDistribution(base, np.full(4, a, dtype))
                zero, one = (d.log_prob(np.full(4, x, dtype), reduce=False) for x in (0, 1))
                wide = [v.astype(np.float64) for v in (log_mean, log_r)]
                base_zero, base_one = (
                    NegativeBinomialDistribution(*wide).log_prob(np.full(4, x), reduce=False) for x in (0.0, 1.0)
                )
                expected = np.logaddexp(a, base_zero) - np.logaddexp(0, a)
                rtol = 1e-12 if dtype == np.float64 else 3e-6
                np.testing.assert_allclose(zero, expected, rtol=rtol, atol=10 * rtol)
                np.testing.assert_allclose(one, base_one - np.logaddexp(0, a), rtol=rtol)
                if a >= 0:  # an excess of zeros by half at least, though the base may draw none
                    np.testing.assert_array_equal(d.sample(np.full(4, 0.25, dtype)), 0)


def test_continuous_bernoulli_where_it_turns():
    """Near logit 0 and beyond +-700, against quadrature and by symmetry."""
    x = np.array([0.0, 0.2, 1.0])
    for a in (1e-12, 1e-4, 0.59, 0.61, 30.0, 800.0, 5000.0):
        d, m = (ContinuousBernoulliDistribution(np.full(3, s * a)) for s in (1, -1))
        expected = a * (x - 1) - np.log(-np.expm1(-a) / a)  # e^(a x) a / (e^a - 1)
        np.testing.assert_allclose(d.log_prob(x, reduce=False), expected, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(m.log_prob(1 - x, reduce=False), d.log_prob(x, reduce=False), rtol=1e-12, atol=1e-12)
        grid = (np.arange(200_000) + 0.5) / 200_000
        p = np.exp(a * (grid - 1))
        p /= p.mean()
        np.testing.assert_allclose(d.mean[0], (grid * p).mean(), rtol=1e-5)
        np.testing.assert_allclose(d.variance()[0], (grid**2 * p).mean() - (grid * p).mean() ** 2, rtol=1e-2)
        u = np.array([1e-6, 0.3, 1 - 1e-9])
        expected = 1 + (np.log(u + (1 - u) * np.exp(-a)) if a > 1 else np.log1p((1 - u) * np.expm1(-a))) / a
        np.testing.assert_allclose(d.sample(u), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_continuous_bernoulli_draws_invert_the_distribution_function(dtype):
    """F(x) = (e^(a x) - 1) / (e^a - 1), at logits from nearly 0 to where e^a overflows."""
    a = np.array([1e-300, 1e-16, 1e-8, 1e-6, 1e-4, 0.1, 1.0, 10.0, 100.0])
    a = np.concatenate([-a, a]).astype(dtype)
    u = np.array([0.1, 0.3, 0.5, 0.6, 0.75, 0.9], dtype)[:, None] + np.zeros_like(a)
    x, exact = ContinuousBernoulliDistribution(a).sample(u).astype(np.float64), a.astype(np.float64)
    below = np.where(np.abs(exact) < 1e-12, x, np.expm1(exact * x) / np.expm1(np.where(exact == 0, 1.0, exact)))
    slope = np.where(
        np.abs(exact) < 1e-12, 1.0, exact * np.exp(exact * (x - 1)) / -np.expm1(np.where(exact == 0, -1.0, -exact))
    )
    error = np.abs(below - u) / np.maximum(slope, 1)  # of x, where F is steep
    assert error.max() < 30 * np.finfo(dtype).eps


def test_events_of_probability_zero():
    """0 log 0 = 0: values, and the gradient of a rate of 0."""
    none = CategoricalDistribution(np.array([[0.0, -np.inf], [0.0, 0.0]]))
    x = np.array([0.0, 1.0])
    assert none.log_prob(x) == pytest.approx(np.log(0.5))
    assert none.entropy() == pytest.approx(np.log(2))
    assert none.kl() == pytest.approx(np.log(2))
    assert none.kl(none) == 0
    assert none.log_prob(np.array([1.0, 1.0])) == -np.inf
    assert PoissonDistribution(np.array([-np.inf])).log_prob(np.zeros(1)) == 0
    z, w, x = np.array([[1.0, 0.0]]), np.array([[0.5, 0.25], [0.0, 1.0]]), np.array([[1.0, 0.0]])
    assert PoissonProduct(z, w).log_prob(x) == pytest.approx(np.log(0.5) - 0.5)
    slope = gradient(lambda w: ops.sum(PoissonProduct(z, w).log_prob(x)), w)
    np.testing.assert_allclose(slope, [[1.0, 0.0], [-1.0, 0.0]])
    with np.errstate(divide="ignore"):
        assert PoissonProduct(z, w).kl() == pytest.approx(0.5 * np.log(0.5) + 0.5 + 1)


def test_large_counts_in_float32():
    """x log rate - rate - log x! is a difference of numbers of 10⁷ here; rounded to float32, those are off by up to 1.

    What remains for a product is the rounding of the log rate, up to 5e-7, times x - rate.
    """
    rate = np.float32([3.0, 1e3, 1e5, 9e5, 9e5, 1e6])
    x = np.float32([2.0, 1010.0, 1e5 + 300, 9e5, 8.95e5, 0.0])
    log_rate = np.log(rate)
    found = PoissonDistribution(log_rate).log_prob(x, reduce=False)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, scipy.stats.poisson.logpmf(x, np.exp(np.float64(log_rate))), rtol=1e-6)
    found = PoissonProduct(np.ones((1, 1), np.float32), rate[:, None]).log_prob(x[None], reduce=False)
    np.testing.assert_allclose(found[0], scipy.stats.poisson.logpmf(x, np.float64(rate)), rtol=1e-6, atol=2.5e-3)


def test_kl_of_small_rates():
    assert PoissonDistribution(np.log(np.float32([1e-40, 1e-30]))).kl() == pytest.approx(2)
    assert PoissonDistribution(np.array([-800.0])).kl() == pytest.approx(1)
    q, p = np.array([-1.0, 0.3, 2.0]), np.array([0.5, 0.3, -1.0])
    expected = np.exp(q) * (q - p) - np.exp(q) + np.exp(p)
    np.testing.assert_allclose(PoissonDistribution(q).kl_by_unit(PoissonDistribution(p)), expected, rtol=1e-13, atol=1e-15)
    check_vjp(lambda q, p: PoissonDistribution(q).kl(PoissonDistribution(p)), (q, p + 0.1), rng)


def test_variance_of_a_mixture_far_from_zero():
    """Means 3000 and 3001: squares in float32 are multiples of 1 there."""
    mean = np.array([[3000.0], [3001.0]], np.float32)
    mixture = GaussianMixture(np.zeros(2, np.float32), mean, np.log(np.full((2, 1), 0.1, np.float32)))
    np.testing.assert_allclose(mixture.variance(), [0.26], rtol=1e-6)
    np.testing.assert_allclose(mixture.covariance(), [[0.26]], rtol=1e-6)


@pytest.mark.parametrize("kl", ["kl", "kl_by_unit"])
def test_kl_of_other_sizes(kl):
    one, three = (DiagonalGaussian(np.zeros(n), np.zeros(n)) for n in (1, 3))
    for q, p in ((one, three), (three, one)):
        with pytest.raises(ShapeError, match=rf"^DiagonalGaussian.kl: p has n={p.n} variables, expected n={q.n}$"):
            getattr(q, kl)(p)


def test_categorical_draws_and_moments():
    a = rng.normal(size=(B, N, 4))
    d = CategoricalDistribution(a)
    p = np.exp(a) / np.exp(a).sum(-1, keepdims=True)
    n = 100_000
    draws = d.sample(d.noise(random.key(3), (n,)))
    for c in range(4):
        error = np.sqrt(p[..., c] * (1 - p[..., c]) / n)
        assert np.abs((draws == c).mean(0) - p[..., c]).max() < 5 * error.max()
    np.testing.assert_allclose(d.mean, p @ np.arange(4), rtol=1e-12)
    np.testing.assert_allclose(d.variance(), p @ np.arange(4) ** 2 - d.mean**2, rtol=1e-10)
    np.testing.assert_allclose(d.entropy(), -(p * np.log(p)).sum((-1, -2)), rtol=1e-12)
    assert str(d.support) == "0, 1, .., 3"
    with pytest.raises(BoundsError, match=r"x has values 0 .. 4, expected 0 .. 3"):
        d.log_prob(np.array([0, 1, 2, 3, 4, 0.0]))
    with pytest.raises(BoundsError, match=r"x has values that are not whole numbers, expected 0 .. 3"):
        d.log_prob(np.array([0, 1, 1.5, 3, 2, 0.0]))


@pytest.mark.parametrize("name", ["diagonal", "chain", "extended grid", "ar1"])
def test_logit_normal_is_the_change_of_variables(name):
    base = GAUSSIANS[name]
    for squeeze in (0.0, 0.02):
        d = LogitNormal(base, squeeze)
        x = rng.uniform(0.05, 0.95, size=(4, B, N))
        inside = squeeze + (1 - 2 * squeeze) * x
        y = np.log(inside / (1 - inside))
        slope = (1 - 2 * squeeze) / (inside * (1 - inside))
        np.testing.assert_allclose(d.log_prob(x), base.log_prob(y) + np.log(slope).sum(-1), rtol=1e-12)
        if name != "ar1":
            np.testing.assert_allclose(d.log_prob(x, reduce=False).sum(-1), d.log_prob(x), rtol=1e-12)
        eps = d.noise(random.key(1), (6,))
        z = d.sample(eps)
        np.testing.assert_allclose(z, (1 / (1 + np.exp(-base.sample(eps))) - squeeze) / (1 - 2 * squeeze), rtol=1e-12)
        np.testing.assert_allclose(d.log_prob_of_draw(eps, z), d.log_prob(z), rtol=1e-9)
        np.testing.assert_allclose(d.kl(), base.kl(), rtol=1e-12)
        np.testing.assert_allclose(d.kl(LogitNormal(GAUSSIANS["diagonal"], squeeze)), base.kl(GAUSSIANS["diagonal"]))
        assert d.kl(base) is None
        assert d.kl(LogitNormal(base, 0.03)) is None


def test_logit_normal_integrates_to_one_and_its_mean_is_the_integral():
    grid = (np.arange(1_000_000) + 0.5) / 1_000_000
    for m, s in ((0.4, 1.3), (-2.0, 0.1), (1.0, 2.5)):
        d = LogitNormal(DiagonalGaussian(np.array([m]), np.array([np.log(s)])), 0.0)
        p = np.exp(d.log_prob(grid[:, None]))
        assert p.mean() == pytest.approx(1, abs=1e-5)
        assert d.mean[0] == pytest.approx((grid * p).mean(), abs=1e-4)
        assert d.median[0] == pytest.approx(1 / (1 + np.exp(-m)))
        assert p[grid < d.median[0]].sum() / len(grid) == pytest.approx(0.5, abs=1e-4)


def test_the_mean_of_a_logit_normal_by_a_scaled_sigmoid():
    """sigma(m / sqrt(1 + pi s² / 8)) is 2e-3 off at m = 0.4, s = 1.3: near enough to draw, not to compute with."""
    d = LogitNormal(DiagonalGaussian(np.array([0.4]), np.log([1.3])), 0.0)
    scaled = 1 / (1 + np.exp(-0.4 / np.sqrt(1 + np.pi * 1.3**2 / 8)))
    assert 5e-4 < abs(scaled - d.mean[0]) < 3e-3


def test_mixture():
    """Against the sum over components; draws against the moments."""
    C = 3
    a, m, l = rng.normal(size=(B, C)), 2 * rng.normal(size=(B, C, N)), 0.4 * rng.normal(size=(B, C, N))
    d, w = GaussianMixture(a, m, l), np.exp(a) / np.exp(a).sum(-1, keepdims=True)
    x = rng.normal(size=(4, B, N))
    expected = sum(w[:, c] * np.exp(DiagonalGaussian(m[:, c], l[:, c]).log_prob(x)) for c in range(C))
    np.testing.assert_allclose(d.log_prob(x), np.log(expected), rtol=1e-12)
    mu = (w[..., None] * m).sum(1)
    C_ = sum(
        w[:, c, None, None]
        * (np.exp(2 * l[:, c])[..., None] * np.eye(N) + np.einsum("bi,bj->bij", m[:, c] - mu, m[:, c] - mu))
        for c in range(C)
    )
    np.testing.assert_allclose(d.mean, mu, rtol=1e-12)
    np.testing.assert_allclose(d.covariance(), C_, rtol=1e-12)
    np.testing.assert_allclose(d.variance(), np.diagonal(C_, axis1=1, axis2=2), rtol=1e-10)
    eps = d.noise(random.key(0), (100_000,))
    assert eps.shape == (100_000, B, N + 1)
    z = d.sample(eps)
    assert np.abs((z.mean(0) - mu) / np.sqrt(d.variance() / len(z))).max() < 5
    np.testing.assert_allclose(np.einsum("kbi,kbj->bij", z - mu, z - mu) / len(z), C_, atol=0.15)
    assert (d.n, d.batch_shape, d.kl(), d.entropy()) == (N, (B,), None, None)
    assert GAUSSIANS["chain"].kl(d) is None
    one = GaussianMixture(a[:, :1], m[:, :1], l[:, :1])
    np.testing.assert_allclose(one.log_prob(x), DiagonalGaussian(m[:, 0], l[:, 0]).log_prob(x), rtol=1e-12)
    check_vjp(lambda *p: GaussianMixture(*p).log_prob(x), (a, m, l), np.random.default_rng(0))


def test_terms_of_a_mixture_are_conditional_densities():
    """log p(x_j | x_1 .. x_(j-1)): first the marginal's, then the ratio of two joint densities; and they add up."""
    C = 3
    a, m, l = rng.normal(size=(B, C)), 2 * rng.normal(size=(B, C, N)), 0.4 * rng.normal(size=(B, C, N))
    d, x = GaussianMixture(a, m, l), rng.normal(size=(4, B, N))
    terms = d.log_prob(x, reduce=False)
    assert terms.shape == (4, B, N)
    np.testing.assert_allclose(terms.sum(axis=-1), d.log_prob(x), rtol=1e-12)
    first, two = (GaussianMixture(a, m[..., :k], l[..., :k]).log_prob(x[..., :k]) for k in (1, 2))
    np.testing.assert_allclose(terms[..., 0], first, rtol=1e-12)
    np.testing.assert_allclose(terms[..., 1], two - first, rtol=1e-10)
    check_vjp(lambda *p: GaussianMixture(*p).log_prob(x, reduce=False), (a, m, l), np.random.default_rng(0))


def test_what_is_known_of_variables():
    """Independence and discreteness, of every family; maps of each variable keep what their base is."""
    text = {"shared": "shared:chain", "logit": "logit:chain", "grid": "grid:2x3", "extended_grid": "extended_grid:2x3"}
    found = {name: families.parse(text.get(name, name), 6) for name in families.FAMILIES}
    found |= {name: families.parse(name, 6) for name in ("logit:diagonal", "shared:diagonal")}
    made = {name: family(np.zeros(family.n_params)) for name, family in found.items()}
    counts = {"bernoulli", "categorical", "poisson", "negative_binomial", "zero_inflated"}
    found, bits = {name for name, d in made.items() if d.discrete}, {"autoregressive", "nade"}
    assert found >= counts | bits
    assert all(made[name].support.whole for name in found - counts - bits)  # of families that have no row here
    independent = (
        counts
        | {"gamma", "log_gamma"}
        | {"diagonal", "gaussian", "beta", "continuous_bernoulli", "logit:diagonal", "shared:diagonal"}
    )
    found = {name for name, d in made.items() if d.independent}
    assert independent <= found
    for name in found - independent:  # of families that have no row here
        covariance = made[name].covariance()
        np.testing.assert_array_equal(covariance, np.diag(np.diag(covariance)))


def test_supports():
    assert [str(Support(0, 1)), str(Support(0, 1, open=True)), str(Support()), str(Support(0, whole=True))] == [
        "[0, 1]",
        "(0, 1)",
        "all real numbers",
        "0, 1, ..",
    ]
    x = np.array([-1.0, 0.0, 0.5, 1.0, 2.0, np.nan])
    np.testing.assert_array_equal(Support(0, 1).contains(x), [0, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(Support(0, 1, open=True).contains(x), [0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(Support(0, whole=True).contains(x), [0, 1, 0, 1, 1, 0])
    for support in (Support(0, 1), Support(0, 1, open=True), Support(0, whole=True), Support()):
        for part in (x, x[:0], *(x[i : i + n] for i in range(6) for n in (1, 2, 3))):
            assert support.holds(part) is bool(support.contains(part).all()), (support, part)


def test_gradients_through_a_distribution():
    r = np.random.default_rng(0)
    eps, x = r.normal(size=(2, B, N)), r.normal(size=(2, B, N))

    def f(m, chol, log_scale):
        q = BandedGaussian(m, chol, (0, 1, 3))
        p = DiagonalGaussian(m * 0.5, log_scale)
        z = q.sample(eps)
        return ops.sum(q.kl(p)) + ops.sum(q.log_prob(x)) + ops.sum(p.log_prob(z)) + ops.sum(q.log_prob_of_draw(eps, z))

    check_vjp(f, (r.normal(size=(B, N)), factor(3), r.normal(size=(B, N)) * 0.3), r)


def test_a_pivot_that_is_not_positive_is_named():
    chol = factor(2)
    chol[1, 0, 4] = 0.0
    d = BandedGaussian(mean, chol)
    for use in (
        d.kl,
        d.variance,
        d.entropy,
        d.covariance,
        lambda: d.sample(mean),
        lambda: d.log_prob(mean),
        lambda: d.log_prob(mean, reduce=False),
    ):
        with pytest.raises(NotPositiveDefiniteError, match=r"row \(1,\), column 4") as caught:
            use()
        assert (caught.value.rows, caught.value.minors) == ([(1,)], [5])


def test_a_moment_without_closed_form_is_named():
    """A logit-normal has a density, draws and a mean by quadrature, but no variance: the message says what to do."""
    family = parse("logit:chain", 4)
    d = family(np.zeros(family.n_params))
    for moment in (d.variance, d.covariance):
        with pytest.raises(
            NotImplementedError, match=r"LogitNormal has no (co)?variance in closed form: average over draws"
        ):
            moment()


@pytest.mark.parametrize(
    "make",
    [
        lambda one, n: DiagonalGaussian(n, one),
        lambda one, n: BetaDistribution(one, n),
        lambda one, n: GammaDistribution(one, n),
        lambda one, n: NegativeBinomialDistribution(n, one),
        lambda one, n: ZeroInflatedDistribution(PoissonDistribution(n), one),
        lambda one, n: BandedGaussian(one, 1 + np.stack([n, 0 * n], axis=-2)),
        lambda one, n: LowRankGaussian(one, 1 + n, n[..., None, :]),
        lambda one, n: DenseGaussian(one, n[..., None] + np.eye(3)),
        lambda one, n: GaussianMixture(one, n[..., None], n[..., None]),
        lambda one, n: Rescaled(DiagonalGaussian(n, n), 1 + one),
    ],
)
def test_parameters_of_another_number_of_variables_are_refused(make):
    """One value for all variables would share their noise, or be counted once in a determinant."""
    with pytest.raises(ShapeError, match=r"\w+Distribution|\w*Gaussian|Rescaled"):
        make(np.zeros(1), np.zeros(3))
    assert make(np.zeros(3), np.zeros((2, 3))).n in (1, 3)


def test_rows_of_another_number_of_variables_are_refused():
    with pytest.raises(ShapeError, match=r"^PoissonDistribution\.log_prob: x has shape \(2, 3\), expected \(\.\.\., n=1\)"):
        PoissonDistribution(np.zeros(1)).log_prob(np.zeros((2, 3)))


def test_divergences_by_variable_add_up():
    r = np.random.default_rng(0)
    a, b = r.normal(size=(2, 4, 3))
    for make in (
        BernoulliDistribution,
        ContinuousBernoulliDistribution,
        PoissonDistribution,
        lambda x: BetaDistribution(x, 0.5 * x),
        lambda x: CategoricalDistribution(np.stack([x, x**2], axis=-1)),
    ):
        q, p = make(a), make(b)
        for other in (None, p):
            units = q.kl_by_unit(other)
            assert units.shape == (4, 3)
            np.testing.assert_allclose(units.sum(axis=-1), q.kl(other), rtol=1e-12)
            first = make(a[:, :1]).kl(None if other is None else make(b[:, :1]))
            np.testing.assert_allclose(units[:, 0], first, rtol=1e-10)


@pytest.mark.parametrize(
    "make",
    [
        BernoulliDistribution,
        PoissonDistribution,
        ContinuousBernoulliDistribution,
        lambda x: CategoricalDistribution(np.stack([x, x], axis=-1)),
        lambda x: BetaDistribution(x, x),
        lambda x: GammaDistribution(x, x),
    ],
)
def test_a_divergence_is_of_as_many_variables(make):
    with pytest.raises(ShapeError, match=r"\.kl: p has n=3 variables, expected n=1"):
        make(np.zeros(1)).kl(make(np.zeros(3)))
    if not isinstance(make(np.zeros(1)), GammaDistribution):
        with pytest.raises(ShapeError, match=r"\.kl: p has n=3 variables, expected n=1"):
            make(np.zeros(1)).kl_by_unit(make(np.zeros(3)))


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_a_logit_keeps_the_density_of_its_draws(scale):
    """In float32 too, where a draw rounds to an end of the interval: from the noise, and not from the draw."""
    log_scale = np.full(16, np.log(scale))
    noise = random.normal(random.key(0), (200, 16), np.float64)
    exact = LogitNormal(DiagonalGaussian(np.zeros(16), log_scale))
    expected = exact.log_prob_of_draw(noise, exact.sample(noise))
    if scale == 1.0:
        np.testing.assert_allclose(expected, exact.log_prob(exact.sample(noise)), rtol=1e-12)
    assert np.isfinite(expected).all()
    q = LogitNormal(DiagonalGaussian(np.zeros(16, np.float32), log_scale.astype(np.float32)))
    few = noise.astype(np.float32)
    np.testing.assert_allclose(q.log_prob_of_draw(few, q.sample(few)), expected, rtol=1e-5, atol=1e-5)


# ---- widths and edges


def of_width(n):
    """Distributions of n variables, by name."""
    zero, d = np.zeros(n), gvae.distributions
    chol = np.stack([np.ones(n), np.append(np.full(n - 1, -0.5), 0.0)])
    found = [
        d.DiagonalGaussian(zero, zero),
        d.BandedGaussian(zero, chol),
        d.GaussianMixture(np.zeros(2), np.zeros((2, n)), np.zeros((2, n))),
        d.BernoulliDistribution(zero),
        d.LogitNormal(d.DiagonalGaussian(zero, zero)),
        d.NADEDistribution(zero, np.zeros(2), np.zeros((n, 2)), np.zeros((n, 2))),
        d.BetaDistribution(zero, zero),
        d.ContinuousBernoulliDistribution(zero),
        d.PoissonDistribution(zero),
        d.NegativeBinomialDistribution(zero, zero),
        d.ZeroInflatedDistribution(d.PoissonDistribution(zero), zero),
        d.Rescaled(d.DiagonalGaussian(zero, zero), np.ones(n)),
    ]
    return {type(p).__name__: p for p in found}


@pytest.mark.parametrize("name", of_width(3))
def test_x_and_noise_of_one_variable_are_not_shared_by_all(name):
    p = of_width(3)[name]
    for x in (np.full((2, 1), 0.5), np.full((2, 4), 0.5), np.full(1, 0.5)):
        for reduce in (True, False):
            with pytest.raises(ShapeError):
                p.log_prob(x, reduce=reduce)
    if name in (
        "BetaDistribution",
        "ContinuousBernoulliDistribution",
        "NegativeBinomialDistribution",
        "ZeroInflatedDistribution",
    ):
        with pytest.raises(ShapeError, match=rf"{name}.sample: noise has shape \(1, 1\), expected \(..., n=3\)"):
            p.sample(np.full((1, 1), 0.3))


def test_a_density_of_inverse_flows_has_a_width():
    d = gvae.distributions
    r = d.InversePlanarGaussian(d.DiagonalGaussian(np.zeros(3), np.zeros(3)), np.ones((1, 3)), np.ones((1, 3)), np.zeros(1))
    with pytest.raises(ShapeError):
        r.log_prob(np.full((1, 1), 0.3))


@pytest.mark.parametrize(("m", "r"), [(1e-12, 1e8), (3.0, 1e18), (1e6, 1e3), (1e4, 1e3), (1e-3, 1e-3)])
def test_negative_binomials_at_the_edges(m, r):
    p = gvae.distributions.NegativeBinomialDistribution(np.log([m]), np.log([r]))
    u = np.array([0.0, 2.0**-53, 0.3, 0.9, 0.999999])
    of = scipy.stats.poisson(m) if r / (r + m) == 1 else scipy.stats.nbinom(r, r / (r + m))
    expected = of.ppf(np.where(u == 0, 2.0**-54, u))  # a 0 counts as half of the least number
    np.testing.assert_allclose(p.sample(u[:, None]).ravel(), expected, rtol=1e-9)


def test_draws_of_large_means_take_no_longer():
    """Those of a Poisson variable, which stands in where p is 1, would take 10⁵ times as long at a mean of 1e10."""
    p = gvae.distributions.NegativeBinomialDistribution(np.log(np.full(50, 1e10)), np.log(np.full(50, 2.0)))
    noise = p.noise(random.key(0), (20,))
    started = time.perf_counter()
    k = p.sample(noise)
    assert time.perf_counter() - started < 5
    np.testing.assert_allclose(k, scipy.stats.nbinom(2.0, 2.0 / (2.0 + 1e10)).ppf(noise), rtol=1e-6)
