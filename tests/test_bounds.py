"""Bounds as functions of log-weights, and every gradient estimator against its own expectation.

The one-dimensional model p(z) = N(0, 1), p(x|z) = N(z, 1), x = 1.5 with q = N(0.2, e^-0.6) and K = 4: expectations by
Gauss-Hermite quadrature over the four draws (tests/reference.py), estimates from 10^6 draws of a fixed key.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import reference as ref
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from gvae import bounds, models, objectives, random
from gvae.autodiff import gradient, vjp
from gvae.data import Table
from gvae.distributions import BernoulliDistribution, CategoricalDistribution, DiagonalGaussian
from gvae.errors import ConfigError
from gvae.objectives import GRADIENTS, REST, ImportanceWeighted, Layer, Terms
from gvae.training import Trainer

K, ROWS, X = 4, 250_000, 1.5
BOUNDS = {
    "mean": bounds.Mean(),
    "iwae": bounds.IWAE,
    "vr_iwae": bounds.Renyi(0.5),
    "renyi above": bounds.Renyi(1.5),
    "renyi below": bounds.Renyi(-0.5),
    "ciwae": bounds.Mixture((0.3, 0.7), (bounds.Mean(), bounds.IWAE)),
    "miwae": bounds.Grouped(2),
}
LOG_WEIGHTS = np.random.default_rng(0).normal(size=(6, 3)) * 2


@pytest.mark.parametrize("name", BOUNDS)
def test_first_and_second_derivatives(name):
    """Against central differences of the value; weights sum to one."""
    bound, h = BOUNDS[name], 1e-4
    weights, curvature = (np.broadcast_to(f(LOG_WEIGHTS), LOG_WEIGHTS.shape) for f in (bound.weights, bound.curvature))
    np.testing.assert_allclose(weights.sum(axis=0), 1, rtol=1e-12)
    np.testing.assert_allclose(gradient(lambda l: bound(l).sum(), LOG_WEIGHTS), weights, rtol=1e-12, atol=1e-14)
    for k in range(len(LOG_WEIGHTS)):
        step = np.zeros_like(LOG_WEIGHTS)
        step[k] = h
        up, here, down = bound(LOG_WEIGHTS + step), bound(LOG_WEIGHTS), bound(LOG_WEIGHTS - step)
        np.testing.assert_allclose((up - down) / (2 * h), weights[k], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose((up - 2 * here + down) / h**2, curvature[k], rtol=1e-4, atol=1e-5)


def test_values_and_their_order():
    """Written out; ELBO <= VR-IWAE <= IWAE, and a Renyi bound falls with alpha."""
    w = np.exp(LOG_WEIGHTS)
    np.testing.assert_allclose(bounds.IWAE(LOG_WEIGHTS), np.log(w.mean(axis=0)), rtol=1e-13)
    np.testing.assert_allclose(bounds.Renyi(-2)(LOG_WEIGHTS), np.log((w**3).mean(axis=0)) / 3, rtol=1e-13)
    groups = [np.log(w[m::3].mean(axis=0)) for m in range(3)]
    np.testing.assert_allclose(bounds.Grouped(3)(LOG_WEIGHTS), np.mean(groups, axis=0), rtol=1e-12)
    np.testing.assert_allclose(bounds.Grouped(6)(LOG_WEIGHTS), bounds.Mean()(LOG_WEIGHTS), rtol=1e-12)
    np.testing.assert_allclose(bounds.Grouped(1)(LOG_WEIGHTS), bounds.IWAE(LOG_WEIGHTS), rtol=1e-12)
    np.testing.assert_allclose(bounds.Renyi(1 - 1e-7)(LOG_WEIGHTS), bounds.Mean()(LOG_WEIGHTS), rtol=1e-5)
    values = np.array([bounds.Renyi(a)(LOG_WEIGHTS) for a in (-3, -1, 0, 0.5, 0.9, 2)])
    assert (np.diff(values, axis=0) < 0).all()


def test_leave_one_out_of_a_weight_of_zero():
    log_weights = np.array([[-np.inf], [0.0], [1.0]])
    found = bounds.leave_one_out(bounds.IWAE, log_weights)
    others = np.array([0.5, 0.0, 1.0])  # draw 0 takes the geometric mean of the other two
    assert found[0, 0] == pytest.approx(np.log(np.exp(others).mean()))


@pytest.mark.parametrize("name", BOUNDS)
def test_leave_one_out(name):
    """One draw at a time, by a loop; a weight of exactly 0 among the others is no accident."""
    bound = BOUNDS[name]
    got = bounds.leave_one_out(bound, LOG_WEIGHTS)
    for k in range(len(LOG_WEIGHTS)):
        replaced = LOG_WEIGHTS.copy()
        replaced[k] = np.delete(LOG_WEIGHTS, k, axis=0).mean(axis=0)
        np.testing.assert_allclose(got[k], bound(replaced), rtol=1e-12)


@st.composite
def log_weights(draw):
    """2 to 8 of them, between -1000 and 1000, some of them equal."""
    values = draw(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8))
    return np.array(draw(st.lists(st.sampled_from(values), min_size=2, max_size=8)))


@given(l=log_weights(), data=st.data())
def test_iwae_of_all_draws_is_at_least_the_mean_over_subsets_of_each_size(l, data):
    """Burda et al.'s theorem 1 rests on this, which is true of every set of weights and not of expectations alone: the mean
    weight is the mean over subsets of theirs, and the logarithm is concave. Equal at m = K, and where all weights are alike.
    A bound is off by a few roundings of the largest log-weight and of log K: 8 eps (max |l| + log K) is ample."""
    K = len(l)
    m = data.draw(st.integers(1, K))
    subsets = l[np.array(list(itertools.combinations(range(K), m)))].T
    whole, mean, top = bounds.IWAE(l[:, None])[0], bounds.IWAE(subsets).mean(), l.max()
    rounding = 8 * np.finfo(np.float64).eps * (np.abs(l).max() + math.log(K))
    assert abs(whole - (top + np.log(np.exp(l - top).mean()))) <= rounding
    assert whole >= mean - rounding
    if m == K or np.ptp(l) == 0:
        assert abs(whole - mean) <= rounding
    if m == 1:
        assert abs(mean - bounds.Mean()(l[:, None])[0]) <= rounding


@given(seed=seeds, N=st.integers(1, 6), C=st.integers(2, 5))
def test_the_parts_of_the_kl_of_tables_add_up(seed, N, C):
    """The mean of KL(q(z|x) ‖ p(z)) is I(x; z) + KL(q(z) ‖ p(z)), by enumeration, whatever the probabilities of the rows."""
    r = np.random.default_rng(seed)
    p_x, q, p = r.dirichlet(np.ones(N)), r.dirichlet(np.ones(C), size=N), r.dirichlet(np.ones(C))
    q_z = p_x @ q
    information, marginal = (p_x[:, None] * q * np.log(q / q_z)).sum(), (q_z * np.log(q_z / p)).sum()
    layer = Layer(CategoricalDistribution(np.log(q)[:, None]), CategoricalDistribution(np.log(p)[None]), np.zeros((1, N, 1)))
    _, metrics = objectives.ELBO("B")(Terms({"x": np.zeros((1, N))}, [layer]), 0, p_x)
    np.testing.assert_allclose(metrics["kl"], information + marginal, rtol=1e-11, atol=1e-13)
    assert min(information, marginal) >= -1e-14
    assert information <= math.log(min(N, C)) + 1e-12


def test_what_bounds_refuse():
    with pytest.raises(ConfigError, match="a bound of 4 groups needs samples divisible by 4, got 6"):
        bounds.Grouped(4)(LOG_WEIGHTS)
    with pytest.raises(ConfigError, match="leave-one-out baseline needs at least two samples, got 1"):
        bounds.leave_one_out(bounds.IWAE, LOG_WEIGHTS[:1])
    for alpha in (1, 1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="Renyi: alpha is"):
            bounds.Renyi(alpha)


# ---- gradient estimators


def estimates(objective, mean=0.2, log_scale=-0.3, rows=ROWS, key=7):
    """d/d mean of q and d/d bias of p(x|z) = N(z + bias, 1): one estimate of each per row, (rows,)."""
    noise = random.normal(random.key(key), (K, rows, 1), np.float64)
    x = np.array([X])

    def f(p):
        q = DiagonalGaussian(p["encoder.mean"], np.array([log_scale]))
        z = q.sample(noise)
        likelihood = DiagonalGaussian(z + p["decoder.bias"], np.zeros(1)).log_prob(x)
        return objective(Terms({"x": likelihood}, [Layer(q, None, z, noise)]))[0]

    value, pull = vjp(f, {"encoder.mean": np.full((rows, 1), mean), "decoder.bias": np.zeros((rows, 1))})
    if isinstance(value, dict):
        phi = pull({"encoder": 1.0, REST: None}, only=["encoder.mean"])["encoder.mean"]
        theta = pull({"encoder": None, REST: 1.0}, only=["decoder.bias"])["decoder.bias"]
    else:
        phi, theta = pull().values()
    return rows * phi[:, 0], rows * theta[:, 0]


ORACLE = {name: ref.OneDimensionalEstimators(X, 0.2, -0.3, K, bound) for name, bound in BOUNDS.items()}
EXPECTATION = {  # of each estimator, in the oracle's terms
    "reparameterized": "gradient",
    "stl": "path",
    "dreg": "gradient",
    "vimco": "gradient",
    "rws": "score",
    "rws_dreg": "score",
}


@pytest.mark.parametrize(("name", "estimator"), list(itertools.product(BOUNDS, GRADIENTS)))
def test_every_estimator_has_its_expectation(name, estimator):
    """Within 4 standard errors; stl is the bound's gradient for the mean only, rws never."""
    phi, theta = estimates(ImportanceWeighted(BOUNDS[name], estimator))
    oracle = ORACLE[name]
    for got, expected in ((phi, getattr(oracle, EXPECTATION[estimator])), (theta, oracle.theta)):
        error = got.std() / math.sqrt(ROWS)
        assert abs(got.mean() - expected) < 4 * error + 1e-9, (got.mean(), expected, error)
    same = abs(oracle.path - oracle.gradient) < 1e-6
    assert same == (name == "mean")


def test_published_figures_of_this_oracle():
    """K = 4: true gradient 0.340, stl 1.032, rws 0.692, VR-IWAE at 1/2 0.674; dreg's standard deviation is about 1/16."""
    oracle = ORACLE["iwae"]
    assert oracle.gradient == pytest.approx(0.340, abs=1e-3)
    assert oracle.path == pytest.approx(1.032, abs=5e-4)
    assert oracle.score == pytest.approx(0.692, abs=5e-4)
    assert ORACLE["vr_iwae"].gradient == pytest.approx(0.673, abs=1.5e-3)
    naive, dreg = (estimates(ImportanceWeighted(gradient=g))[0].std() for g in ("reparameterized", "dreg"))
    assert naive == pytest.approx(0.903, rel=0.01)
    assert dreg == pytest.approx(0.055, rel=0.03)
    assert 14 < naive / dreg < 19


def test_the_path_has_no_variance_at_the_posterior():
    posterior = {"mean": X / 2, "log_scale": -0.5 * math.log(2), "rows": 1000}
    for estimator in ("stl", "dreg"):
        assert estimates(ImportanceWeighted(bounds.Mean(), estimator), **posterior)[0].std() < 1e-12
    assert estimates(ImportanceWeighted(bounds.Mean()), **posterior)[0].std() > 0.1


def test_phi_and_theta_may_ascend_different_bounds():
    """PIWAE: the model's gradient is IWAE's, the posterior's is MIWAE's, with the same draws."""
    for estimator in ("reparameterized", "dreg", "vimco"):
        both = estimates(ImportanceWeighted(bounds.IWAE, estimator, bounds.Grouped(2)), rows=500)
        theta = estimates(ImportanceWeighted(bounds.IWAE, estimator), rows=500)[1]
        phi = estimates(ImportanceWeighted(bounds.Grouped(2), estimator), rows=500)[0]
        np.testing.assert_allclose(both[0], phi, rtol=1e-12)
        np.testing.assert_allclose(both[1], theta, rtol=1e-12)


@pytest.mark.parametrize("estimator", ["reparameterized", "dreg", "vimco"])
def test_warm_up_keeps_an_estimator_unbiased(estimator):
    """At step 1 of 4 the weight of log q - log p is 1/2: the means agree with the chain rule's, within 4 standard errors."""

    def halfway(gradient):
        objective = ImportanceWeighted(gradient=gradient, warmup=4)
        return lambda terms: objective(terms, 1)

    naive, other = estimates(halfway("reparameterized"), key=1)[0], estimates(halfway(estimator), key=2)[0]
    error = math.hypot(naive.std(), other.std()) / math.sqrt(ROWS)
    assert abs(naive.mean() - other.mean()) < 4 * error


class TwoLayers:
    """x <- z1 <- z2, all one-dimensional and linear; q(z1|x) = N(a, 1), q(z2|z1) = N(b z1, 1)."""

    def __init__(self, rows):
        self.noise = random.normal(random.key(3), (2, K, rows, 1), np.float64)
        self.rows = rows

    def terms(self, p, again=True):
        one = np.zeros(1)

        def q1(params):
            return DiagonalGaussian(params["encoder.a"], one)

        def q2(params, z1):
            return DiagonalGaussian(params["encoder.b"] * z1, one)

        z1 = q1(p).sample(self.noise[0])
        z2 = q2(p, z1).sample(self.noise[1])
        layers = [
            Layer(
                q1(p), DiagonalGaussian(0.8 * z2, one), z1, self.noise[0], True, (lambda f, g: q1(f(p))) if again else None
            ),
            Layer(q2(p, z1), None, z2, self.noise[1], False, (lambda f, g: q2(f(p), g(z1))) if again else None),
        ]
        return Terms({"x": DiagonalGaussian(z1, one).log_prob(np.array([X]))}, layers)

    def estimates(self, objective):
        start = {"encoder.a": np.full((self.rows, 1), 0.3), "encoder.b": np.full((self.rows, 1), 0.6)}
        value, pull = vjp(lambda p: objective(self.terms(p))[0], start)
        bars = pull({"encoder": 1.0, REST: None}) if isinstance(value, dict) else pull()
        return self.rows * np.stack([bars["encoder.a"][:, 0], bars["encoder.b"][:, 0]])


@pytest.mark.parametrize("estimator", ["dreg", "vimco", "rws"])
def test_two_layers(estimator):
    """A path through two stochastic layers: dreg and vimco agree with the chain rule within 4 standard errors, rws with
    rws_dreg, in the parameters of either layer."""
    model = TwoLayers(100_000)
    other = {"dreg": "reparameterized", "vimco": "reparameterized", "rws": "rws_dreg"}[estimator]
    got, expected = (model.estimates(ImportanceWeighted(gradient=g)) for g in (estimator, other))
    difference = got - expected  # of the same draws
    assert (np.abs(difference.mean(axis=1)) < 4 * difference.std(axis=1) / math.sqrt(model.rows)).all()
    assert (np.abs(expected.mean(axis=1)) > 0.01).all()
    with pytest.raises(ConfigError, match="needs `again`"):
        ImportanceWeighted(gradient=estimator)(model.terms({"encoder.a": np.zeros(1), "encoder.b": np.zeros(1)}, False))


def test_discrete_draws_have_no_path():
    q = BernoulliDistribution(np.zeros((2, 3)))
    z = q.sample(q.noise(random.key(0), (4,)))
    terms = Terms({"x": np.zeros((4, 2))}, [Layer(q, None, z)])
    for estimator in ("stl", "dreg", "rws_dreg"):
        with pytest.raises(ConfigError, match="draws from a BernoulliDistribution are not differentiable; use vimco or rws"):
            ImportanceWeighted(gradient=estimator)(terms)
    with pytest.raises(ConfigError, match="unknown gradient 'naive'"):
        ImportanceWeighted(gradient="naive")(terms)


@pytest.mark.parametrize("estimator", GRADIENTS)
def test_training_under_every_estimator(estimator):
    """Of the model protocol: it learns, and a step by launches has the bits of one by Python."""
    x = (np.random.default_rng(0).uniform(size=(200, 12)) < 0.2 + 0.6 * np.tile([0, 1], 6)).astype(np.float64)
    trained = []
    for programs in (True, False):
        model = models.VAE(12, 4, posterior="chain", hidden=(8,), dtype=np.float64)
        objective = objectives.parse("iwae", gradient=estimator)
        trainer = Trainer(model, objective=objective, samples=3, learning_rate=5e-3, seed=3, programs=programs)
        table = Table(x)
        before = trainer.validate(table)["bound"]
        for step in range(60):
            for batch in itertools.islice(table.batches(random.fold_in(trainer.key, step), 50), 1):
                trainer.step(batch)
        assert trainer.validate(table)["bound"] > before + 0.3
        trained.append(trainer)
    assert any(known.verified for known in trained[0].programs.known.values())
    np.testing.assert_array_equal(trained[0].parameters.flat, trained[1].parameters.flat)
