"""Objectives against the linear-Gaussian and one-dimensional oracles, where every quantity has a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference as ref

from gvae import bounds, objectives, ops, random
from gvae.autodiff import gradient, value_and_gradient
from gvae.distributions import BandedGaussian, BernoulliDistribution, DiagonalGaussian, Distribution
from gvae.errors import ConfigError
from gvae.objectives import ELBO, ImportanceWeighted, Layer, Terms

D, n, B = 7, 4, 3
rng = np.random.default_rng(0)
FA = ref.FactorAnalysis(rng.normal(size=(D, n)), rng.normal(size=D), rng.uniform(0.3, 1.5, D))
X = rng.normal(size=(B, D)) * 2
LOG_P = np.array([FA.log_prob(x) for x in X])
POSTERIOR_MEAN = np.array([FA.posterior_mean(x) for x in X])


def terms(q: Distribution, samples: int, key: int = 0) -> Terms:
    noise = q.noise(random.key(key), (samples, B) if q.batch_shape == () else (samples,))
    z = q.sample(noise)
    decoder = DiagonalGaussian(ops.add(ops.matmul(z, FA.W.T), FA.b), 0.5 * np.log(FA.psi))
    return Terms({"x": decoder.log_prob(X)}, [Layer(q, None, z, noise)])


def exact_posterior():
    """N(m, M⁻¹) as a full band: the family in which the gap is zero."""
    L = np.linalg.cholesky(FA.M)
    chol = np.stack([np.r_[np.diag(L, -k), np.zeros(k)] for k in range(n)])
    return BandedGaussian(POSTERIOR_MEAN, chol)


def best_diagonal():
    return DiagonalGaussian(POSTERIOR_MEAN, np.broadcast_to(-0.5 * np.log(np.diag(FA.M)), (B, n)).copy())


def expected_elbo(q, m):
    """E log p(x|z) - KL in closed form, from q's dense covariance."""
    C = np.broadcast_to(q.covariance(), (B, n, n))
    total = []
    for x, mu, c in zip(X, m, C, strict=True):
        e = x - FA.b - FA.W @ mu
        quadratic = (e**2 / FA.psi).sum() + np.trace(FA.W.T @ (FA.W / FA.psi[:, None]) @ c)
        likelihood = -0.5 * (D * math.log(2 * math.pi) + np.log(FA.psi).sum() + quadratic)
        total.append(likelihood - ref.gaussian_kl(mu, c))
    return np.array(total)


def test_the_gap_is_the_formulas():
    q = best_diagonal()
    np.testing.assert_allclose(LOG_P - expected_elbo(q, POSTERIOR_MEAN), FA.diagonal_gap(), rtol=1e-10)
    np.testing.assert_allclose(expected_elbo(exact_posterior(), POSTERIOR_MEAN), LOG_P, rtol=1e-12)


def posterior_on(M, offsets):
    """The model whose posterior precision is M (k = D), and the exact posterior as a band on these offsets."""
    psi = np.linspace(0.4, 1.2, n)
    root = np.linalg.cholesky(M - np.eye(n))
    fa = ref.FactorAnalysis(np.sqrt(psi)[:, None] * root.T, np.zeros(n), psi)
    np.testing.assert_allclose(fa.M, M, rtol=1e-12, atol=1e-12)
    return fa, ref.stored(np.linalg.cholesky(M), offsets)


@pytest.mark.parametrize("pattern", ["diagonal", "chain", "extended grid"])
def test_a_family_that_holds_the_posterior_has_no_gap(pattern):
    """M tridiagonal: a chain's gap is zero, a diagonal's is not; columns of W orthogonal in Psi: M is diagonal."""
    M = np.diag(np.linspace(2, 4, n))
    if pattern != "diagonal":
        L = np.diag(np.linspace(1.5, 2, n)) + np.diag(np.full(n - 1, 0.6), -1)
        if pattern == "extended grid":
            L = L + np.diag(np.full(n - 2, -0.4), -2)
        M = L @ L.T
    offsets = {"diagonal": (0,), "chain": (0, 1), "extended grid": (0, 1, 2)}[pattern]
    fa, chol = posterior_on(M, offsets)
    for x in np.random.default_rng(1).normal(size=(3, n)):
        q = BandedGaussian(fa.posterior_mean(x), chol, offsets)
        e = x - fa.W @ q.mean
        quadratic = (e**2 / fa.psi).sum() + np.trace(fa.W.T @ (fa.W / fa.psi[:, None]) @ q.covariance())
        elbo = -0.5 * (n * math.log(2 * math.pi) + np.log(fa.psi).sum() + quadratic) - q.kl()
        assert elbo == pytest.approx(fa.log_prob(x), rel=1e-12)
    assert (fa.diagonal_gap() > 0.05) == (pattern != "diagonal")


def test_what_the_bound_lacks_is_the_kl_to_the_posterior():
    """-ELBO = -log p(x) + KL(q ‖ p(z|x)): with the minus sign that the lecture's stochastic objective has lost."""
    q = DiagonalGaussian(POSTERIOR_MEAN + 0.3, np.full((B, n), -0.2))
    exact = np.linalg.inv(FA.M)
    lacking = [ref.gaussian_kl(m, q.covariance()[0], best, exact) for m, best in zip(q.mean, POSTERIOR_MEAN, strict=True)]
    np.testing.assert_allclose(LOG_P - expected_elbo(q, q.mean), lacking, rtol=1e-10)


@pytest.mark.parametrize("estimator", ["A", "B", "auto"])
def test_estimators_share_the_mean(estimator):
    """200,000 draws; |mean - expectation| below 5 standard errors: a false alarm in 2e-6 of keys, and the key is fixed."""
    q, K = best_diagonal(), 200_000
    t = terms(q, K)
    value, metrics = ELBO(estimator)(t)
    penalty = t.layers[0].kl if estimator != "A" else t.layers[0].log_q - t.layers[0].log_p
    error = (t.total_log_likelihood - penalty).mean(axis=1).std() / math.sqrt(K)
    assert abs(value - expected_elbo(q, POSTERIOR_MEAN).mean()) < 5 * error
    assert metrics["bound"] == pytest.approx(metrics["log_likelihood"] - metrics["kl"])
    assert metrics["bound"] == pytest.approx(float(value))


def test_a_prior_of_its_own_counts_in_every_estimator():
    """p = a chain instead of N(0, I): estimator A's penalty has the closed-form KL to p as its mean (5 standard errors of
    100,000 draws, fixed key), and A, B and one-sample IWAE see that p."""
    chol = np.stack([np.full(n, 1.4), np.full(n, -0.6)])
    q, p = best_diagonal(), BandedGaussian(np.full(n, 0.5), chol)
    t = terms(q, 100_000)
    layer = Layer(q, p, t.layers[0].z, t.layers[0].noise)
    ratio = layer.log_q - layer.log_p
    assert (np.abs(ratio.mean(axis=0) - layer.kl) < 5 * ratio.std(axis=0) / math.sqrt(100_000)).all()
    assert (np.abs(layer.kl - q.kl()) > 0.05).all()
    few = Terms({"x": t.log_likelihood["x"][:1]}, [Layer(q, p, layer.z[:1], layer.noise[:1])])
    expected = (few.total_log_likelihood - ratio[:1]).mean()
    assert ELBO("A")(few)[0] == pytest.approx(expected, rel=1e-12)
    assert ImportanceWeighted()(few)[0] == pytest.approx(expected, rel=1e-12)
    assert ELBO("B")(few)[0] == pytest.approx((few.total_log_likelihood - layer.kl).mean(), rel=1e-12)


def test_at_the_exact_posterior_estimator_a_has_no_variance_and_b_has():
    t = terms(exact_posterior(), 50)
    per_draw = t.total_log_likelihood - (t.layers[0].log_q - t.layers[0].log_p)
    np.testing.assert_allclose(per_draw, np.broadcast_to(LOG_P, per_draw.shape), rtol=1e-11)
    assert (t.total_log_likelihood - t.layers[0].kl).std(axis=0).min() > 0.1


def test_the_importance_weighted_bound_climbs_to_log_p():
    """L_K grows with K and its gap closes as Var(w) / 2K (means over 2,000 repetitions, 5 standard errors)."""
    q = best_diagonal()
    q.log_scale = q.log_scale + 0.3
    bounds, errors = [], []
    for K in (1, 4, 16, 64, 256):
        t = terms(q, K * 2000, key=K)
        log_w = t.total_log_likelihood - (t.layers[0].log_q - t.layers[0].log_p)
        L = ops.log_mean_exp(log_w.reshape(2000, K, B), axis=1)
        bounds.append(L.mean(axis=0))
        errors.append(L.std(axis=0) / math.sqrt(2000))
    for lower, higher, e in zip(bounds, bounds[1:], errors, strict=False):
        assert (higher > lower - 5 * e).all()
    gaps = LOG_P - np.array(bounds)
    assert (gaps[0] > 0.1).all()
    assert (np.abs(gaps[-1]) < 0.02 * gaps[0] + 5 * errors[-1]).all()
    value, _ = ImportanceWeighted()(terms(exact_posterior(), 7))
    assert value == pytest.approx(LOG_P.mean(), rel=1e-12)


def test_one_sample_iwae_is_estimator_a():
    def bound(objective):
        def f(m, s):
            return objective(terms(DiagonalGaussian(m, s), 1))[0]

        return value_and_gradient(f, POSTERIOR_MEAN + 0.3, np.full((B, n), -0.2))

    (a, grad_a), (b, grad_b) = bound(ELBO("A")), bound(ImportanceWeighted())
    assert a == pytest.approx(b, rel=1e-13)
    for x, y in zip(grad_a, grad_b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12)


def test_one_dimensional_oracle():
    """p(z) = N(0, 1), p(x|z) = N(z, 1), x = 1.5, q = N(0.2, e^-0.6): L_1 = -2.132, L_2 = -1.986, L_4 = -1.908."""
    x = np.array([[1.5]])
    q = DiagonalGaussian(np.array([[0.2]]), np.array([[-0.3]]))
    z = q.sample(noise := q.noise(random.key(4), (400_000,)))
    t = Terms({"x": DiagonalGaussian(z, np.zeros(1)).log_prob(x)}, [Layer(q, None, z, noise)])
    log_w = t.total_log_likelihood - (t.layers[0].log_q - t.layers[0].log_p)
    for K, expected in ((1, -2.132), (2, -1.986), (4, -1.908)):
        L = ops.log_mean_exp(log_w.reshape(-1, K), axis=1)
        assert L.mean() == pytest.approx(expected, abs=5e-4 + 5 * L.std() / math.sqrt(len(L)))
    log_p = -0.5 * math.log(4 * math.pi) - 1.5**2 / 4
    assert ops.log_mean_exp(log_w[:, 0]) == pytest.approx(log_p, abs=3e-3)


def test_warm_up_weighs_the_kl():
    t = terms(best_diagonal(), 5)
    likelihood, kl = t.total_log_likelihood.mean(), t.layers[0].kl.mean()
    for step, beta in ((0, 0.1), (4, 0.5), (9, 1.0), (500, 1.0)):
        value, metrics = ELBO(warmup=10)(t, step)
        assert value == pytest.approx(likelihood - beta * kl)
        assert metrics["bound"] == pytest.approx(likelihood - kl)  # what is reported is the bound itself
    assert ImportanceWeighted(warmup=10)(t, 9)[0] == pytest.approx(ImportanceWeighted()(t)[0])


@pytest.mark.parametrize(
    ("text", "gradient"),
    [
        (text, "reparameterized")
        for text in ("elbo", "elbo:beta=2", "iwae", "miwae:5", "wake_sleep", "info:alpha=0,lambda=10")
    ]
    + [("elbo", "stl"), ("iwae", "stl"), ("iwae", "dreg"), ("miwae:5", "dreg")],
)
def test_every_objective_passes_on_what_groups_outside_of_the_bound_ascend(text, gradient):
    objective, t = objectives.parse(text, gradient=gradient), terms(best_diagonal(), 5)
    value, plain = objective(t)
    t = terms(best_diagonal(), 5)
    t.auxiliary, t.figures = {"probe": np.float64(-3.0)}, {"size": np.float64(7.0)}
    with_probe, metrics = objective(t)
    assert with_probe["probe"] == -3
    assert metrics == plain | {"size": 7}
    expected = value if isinstance(value, dict) else {"*": value}
    assert with_probe == expected | {"probe": -3}


def test_rows_can_be_weighted():
    t = terms(best_diagonal(), 5)
    for objective in (ELBO("A"), ELBO("B"), ImportanceWeighted()):
        first, _ = objective(t, weight=np.array([1.0, 0.0, 0.0]))
        rest, _ = objective(t, weight=np.array([0.0, 1.0, 1.0]))
        both, _ = objective(t, weight=np.array([2.0, 1.0, 1.0]))
        assert both == pytest.approx((2 * first + 2 * rest) / 4)
        equal, _ = objective(t, weight=np.ones(B))
        assert equal == pytest.approx(objective(t)[0])


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("objective", [ELBO("A"), ELBO("auto"), ImportanceWeighted()], ids=str)
def test_the_score_function_is_unbiased(objective, K):
    """Bernoulli draws, two units, ELBO and IWAE by enumeration; 40,000 rows of one datum; 5 standard errors, fixed key."""
    weights, x = np.array([1.3, -0.7]), 0.4

    def log_joint(z):
        return -0.5 * (x - (z * weights).sum(-1)) ** 2 - 2 * math.log(2)

    def exact(logits):
        codes = np.array([[a, b] for a in (0.0, 1.0) for b in (0.0, 1.0)])
        grids = np.stack([g.ravel() for g in np.meshgrid(*[np.arange(4)] * K, indexing="ij")])  # all K-tuples of codes
        log_q_code = ops.sum(codes * logits - ops.softplus(logits), axis=1)
        log_joint_code = log_joint(codes)
        probability = ops.exp(ops.sum(log_q_code[grids], axis=0))
        log_w = ops.subtract(log_joint_code[grids], log_q_code[grids])
        f = ops.log_mean_exp(log_w, axis=0) if isinstance(objective, ImportanceWeighted) else ops.mean(log_w, axis=0)
        return ops.sum(probability * f)

    logits = np.array([0.3, -0.8])
    rows = 40_000

    def estimate(wide):
        q = BernoulliDistribution(wide)
        noise = random.uniform(random.key(11), (K, rows, 2), np.float64)
        z = q.sample(noise)
        t = Terms({"x": log_joint(z) + 2 * math.log(2)}, [Layer(q, BernoulliDistribution(np.zeros(2)), z, noise)])
        return objective(t)[0]

    value, expected = value_and_gradient(exact, logits)
    per_row = gradient(estimate, np.tile(logits, (rows, 1))) * rows
    error = per_row.std(axis=0) / math.sqrt(rows)
    assert (np.abs(per_row.mean(axis=0) - expected) < 5 * error).all()
    assert estimate(np.tile(logits, (rows, 1))) == pytest.approx(value, abs=0.02)


def test_names():
    names = ["elbo", "elbo_a", "elbo_b", "iwae", "vr_iwae", "renyi", "ciwae", "miwae", "piwae", "info", "wake_sleep"]
    assert list(objectives.OBJECTIVES)[: len(names)] == names
    assert objectives.parse("elbo_a", 5) == ELBO("A", 5)
    assert objectives.parse("iwae", 5, "dreg") == ImportanceWeighted(gradient="dreg", warmup=5)
    assert objectives.parse("elbo", gradient="stl") == ImportanceWeighted(bounds.Mean(), "stl")
    assert objectives.parse("renyi:-1.5") == ImportanceWeighted(bounds.Renyi(-1.5))
    assert objectives.parse("vr_iwae:0") == objectives.parse("iwae")
    ciwae = bounds.Mixture((0.25, 0.75), (bounds.Mean(), bounds.IWAE))
    assert objectives.parse("ciwae:0.25") == ImportanceWeighted(ciwae)
    assert objectives.parse("miwae:8") == ImportanceWeighted(bounds.Grouped(8))
    assert objectives.parse("piwae:8") == ImportanceWeighted(bounds.IWAE, inference_bound=bounds.Grouped(8))
    assert objectives.parse(ImportanceWeighted()) == ImportanceWeighted()
    for bad in ("evidence", "elbo:", "iwae:", "miwae:"):
        with pytest.raises(ConfigError, match=f"unknown objective '{bad}'; known are elbo, elbo_a"):
            objectives.parse(bad)
    with pytest.raises(ConfigError, match=r"unknown objective \[\]"):
        objectives.parse([])
    for bad in ("vr_iwae:1", "vr_iwae:-0.1", "vr_iwae:x", "renyi:nan", "renyi:inf", "ciwae:1.5", "miwae:0", "piwae:2.5"):
        with pytest.raises(ConfigError, match=f"{bad.partition(':')[0]}: its number is '.*', expected"):
            objectives.parse(bad)
    with pytest.raises(ConfigError, match="Renyi: alpha is 1"):
        objectives.parse("renyi:1")
    for bad in (-1, 1.5, True):
        with pytest.raises(ConfigError, match="warmup is"):
            objectives.parse("elbo", bad)
    with pytest.raises(ConfigError, match="unknown gradient 'adam'; known are reparameterized, stl"):
        objectives.parse("iwae", gradient="adam")
    with pytest.raises(ConfigError, match="elbo_b: gradient 'stl' needs log q by sampling"):
        objectives.parse("elbo_b", gradient="stl")
    q, p = best_diagonal(), BernoulliDistribution(np.zeros(n))
    with pytest.raises(ConfigError, match="has no closed form"):
        ELBO("B")(Terms({"x": np.zeros((1, B))}, [Layer(exact_posterior(), p, np.zeros((1, B, n)))]))
    assert q.kl() is not None
