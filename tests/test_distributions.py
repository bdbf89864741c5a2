"""Every distribution against dense linear algebra, and its samples against its moments."""

from __future__ import annotations

import numpy as np
import pytest
import reference as ref
from gradcheck import check_vjp

from gvae import ops, random
from gvae.distributions import (
    AR1Gaussian,
    BandedGaussian,
    BernoulliDistribution,
    DenseGaussian,
    DiagonalGaussian,
    LowRankGaussian,
)
from gvae.errors import ConfigError, NotPositiveDefiniteError

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
    assert GAUSSIANS["ar1"].kl(GAUSSIANS["chain"]) is None


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
