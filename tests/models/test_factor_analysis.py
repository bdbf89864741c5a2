"""Factor analysis against dense algebra, its linear twins, and the two parts of the inference gap."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference as ref
from sklearn.base import clone
from sklearn.decomposition import FactorAnalysis as ScikitLearns

import gvae
from gvae import random
from gvae.autodiff import gradient
from gvae.data import Batch, Table
from gvae.errors import ConfigError, DataError, NonFiniteError, StoppedError
from gvae.evaluation import Subject, evaluate, inference_gaps
from gvae.models import FactorAnalysis, NonlinearFactorAnalysis
from gvae.objectives import ELBO
from gvae.training import Trainer, infer, train

D, k, N = 8, 3, 400
rng = np.random.default_rng(0)
TRUE = FactorAnalysis(rng.normal(size=(D, k)), rng.normal(size=D), rng.uniform(0.3, 1.5, D))
X = TRUE.sample(random.key(1), N)
DENSE = ref.FactorAnalysis(TRUE.W, TRUE.b, TRUE.psi)


@pytest.fixture(scope="module")
def fitted():
    return FactorAnalysis.fit(X, k, iterations=10_000)


def rows_of(x):
    """Some rows, as the model protocol has them."""
    return Batch({"x": x}, np.arange(len(x)))


def sigma_points(rows):
    """Draws +-sqrt(k) e_i: mean 0 and covariance I, so that means of quadratics are exact."""
    eps = np.sqrt(k) * np.concatenate([np.eye(k), -np.eye(k)])
    return {"z": np.broadcast_to(eps[:, None], (2 * k, rows, k)).copy()}


def exact_elbo(model, params, x):
    terms = model.terms(params, {}, rows_of(x), sigma_points(len(x)))
    return terms.total_log_likelihood.mean(axis=0) - terms.layers[0].kl


def test_densities_and_posteriors_are_the_dense_ones():
    np.testing.assert_allclose(TRUE.log_prob(X[:20]), [DENSE.log_prob(x) for x in X[:20]], rtol=1e-12)
    q = TRUE.posterior(X[:20])
    np.testing.assert_allclose(q.mean, [DENSE.posterior_mean(x) for x in X[:20]], rtol=1e-11)
    np.testing.assert_allclose(q.covariance(), np.linalg.inv(DENSE.M), rtol=1e-11)
    assert TRUE.mean_field_gap() == pytest.approx(DENSE.diagonal_gap(), rel=1e-12)
    many = TRUE.sample(random.key(2), 200_000)
    np.testing.assert_allclose(np.cov(many.T), TRUE.W @ TRUE.W.T + np.diag(TRUE.psi), atol=0.15)  # entries up to 10


def test_em_climbs_to_scikit_learns_optimum(fitted):
    steps = np.diff(fitted.history)
    assert (steps > -1e-12).all()
    assert fitted.history[-1] == pytest.approx(fitted.log_prob(X).mean(), rel=1e-12)
    theirs = ScikitLearns(k, tol=1e-7, max_iter=20_000, svd_method="lapack").fit(X)
    assert fitted.history[-1] == pytest.approx(theirs.score(X), abs=1e-5)
    np.testing.assert_allclose(fitted.W @ fitted.W.T + np.diag(fitted.psi), theirs.get_covariance(), atol=0.02)


def test_em_ends_where_the_gradient_is_zero(fitted):
    """Of the VAE with the exact posterior, whose bound is log p(x): by the tape, with respect to decoder and noise."""
    exact = FactorAnalysis.fit(X, k, tolerance=1e-13, iterations=5000)
    model, params = exact.as_vae()
    moved = [name for name in params if name.startswith("decoder")]

    def bound(*values):
        given = params | dict(zip(moved, values, strict=True))
        return ELBO("B")(model.terms(given, {}, rows_of(X), sigma_points(N)))[0]

    for slope in gradient(bound, *(params[name] for name in moved)):
        assert np.abs(slope).max() < 1e-4
    elsewhere = gradient(bound, *(params[name] + 0.1 for name in moved))
    assert min(np.abs(slope).max() for slope in elsewhere) > 1e-2


def test_two_codes_that_correlate_cost_a_diagonal_posterior_its_formula():
    """M = [[a, c], [c, b]]: the gap is -1/2 log(1 - c² / ab), here 0.7410131 nats: of the ELBO, and by the formula."""
    gap, a, b = 0.7410131, 20.0, 30.0
    c = math.sqrt(a * b * -math.expm1(-2 * gap))
    psi = np.array([0.5, 2.0])
    W = np.sqrt(psi)[:, None] * np.linalg.cholesky(np.array([[a - 1, c], [c, b - 1]])).T
    model = FactorAnalysis(W, np.array([1.0, -1.0]), psi)
    np.testing.assert_allclose(model.M, [[a, c], [c, b]], rtol=1e-12)
    assert model.mean_field_gap() == pytest.approx(gap, rel=1e-9)
    x = model.sample(random.key(5), 20)
    vae, params = model.as_vae("diagonal")
    eps = math.sqrt(2) * np.concatenate([np.eye(2), -np.eye(2)])
    terms = vae.terms(params, {}, rows_of(x), {"z": np.broadcast_to(eps[:, None], (4, 20, 2)).copy()})
    elbo = terms.total_log_likelihood.mean(axis=0) - terms.layers[0].kl
    np.testing.assert_allclose(model.log_prob(x) - elbo, gap, rtol=1e-9)


def test_the_best_linear_encoder_is_the_posteriors_matrix(fitted):
    """M⁻¹ Wᵀ Psi⁻¹: there the exact bound of all rows has no slope, and beside it one."""
    model, params = fitted.as_vae("diagonal")
    encoder = ["encoder.0.weight", "encoder.0.bias"]
    np.testing.assert_allclose(params["encoder.0.weight"][:, :k], (np.linalg.inv(fitted.M) @ fitted.W.T / fitted.psi).T)

    def bound(*values):
        return ELBO("B")(model.terms(params | dict(zip(encoder, values, strict=True)), {}, rows_of(X), sigma_points(N)))[0]

    for slope in gradient(bound, *(params[name] for name in encoder)):
        assert np.abs(slope).max() < 1e-9
    assert min(np.abs(slope).max() for slope in gradient(bound, *(params[name] + 0.01 for name in encoder))) > 1e-3


@pytest.mark.parametrize("posterior", ["full", "diagonal"])
def test_a_linear_decoder_is_factor_analysis(fitted, posterior):
    """With the exact posterior every draw of estimator A is log p(x), to 1e-10; a diagonal one misses the formula's gap."""
    model, params = fitted.as_vae(posterior)
    log_p = fitted.log_prob(X)
    gap = fitted.mean_field_gap() if posterior == "diagonal" else 0.0
    np.testing.assert_allclose(exact_elbo(model, params, X), log_p - gap, rtol=1e-10)
    if posterior == "full":
        terms = model.terms(params, {}, rows_of(X), model.noise(random.key(0), rows_of(X), 5))
        per_draw = terms.total_log_likelihood - terms.layers[0].log_q + terms.layers[0].log_p
        np.testing.assert_allclose(per_draw, np.broadcast_to(log_p, per_draw.shape), rtol=1e-10)
    with pytest.raises(ConfigError, match="expected 'full' or 'diagonal'"):
        fitted.as_vae("chain")


def test_the_gap_in_two_parts(fitted):
    """A linear encoder at its best costs nothing; one that is off costs, and optimisation wins it back."""
    model, params = fitted.as_vae("diagonal")
    few = Table(X[:60])
    gaps = inference_gaps(Subject(model, params, few), samples=400, steps=200)
    assert abs(gaps.amortization.mean()) < 0.01
    assert gaps.approximation.mean() == pytest.approx(fitted.mean_field_gap(), abs=0.05)
    off = params | {"encoder.0.weight": params["encoder.0.weight"] * 0.7}
    worse = inference_gaps(Subject(model, off, few), samples=400, steps=600)
    expected = (exact_elbo(model, params, X[:60]) - exact_elbo(model, off, X[:60])).mean()
    assert expected > 0.2
    assert worse.amortization.mean() == pytest.approx(expected, rel=0.05)
    assert worse.approximation.mean() == pytest.approx(fitted.mean_field_gap(), abs=0.05)


def test_variational_em_of_a_linear_model_reaches_factor_analysis(fitted):
    """Depth 1 with identity is factor analysis: with a free posterior per row, the bound comes close to its likelihood."""
    model = NonlinearFactorAnalysis(D, k, "full", hidden=(), dtype=np.float64, row_rate=1.0)
    trainer, history = train(model, Table(X), epochs=40, learning_rate=0.02, samples=4)
    bounds = [row["train_bound"] for row in history.rows]
    assert bounds[-1] > bounds[0] + 1
    rows = trainer.rows["encoder.raw"]
    assert (rows.steps == 40 * 6).all()
    held = evaluate(model, trainer.parameters, Table(X[:100]), samples=50)
    assert held.elbo.mean() == pytest.approx(fitted.log_prob(X[:100]).mean(), abs=0.15)
    assert held.log_likelihood.mean() > held.elbo.mean() - 0.01


def test_the_e_step_alone_moves_no_decoder():
    """Six steps of the batch's rows and one of all; the rows of others stay, and the decoder's step is the seventh's."""
    model = NonlinearFactorAnalysis(D, k, hidden=(5,), dtype=np.float64, row_steps=6)
    trainer = Trainer(model, n_rows=N, learning_rate=1e-3)
    start = trainer.parameters.flat.copy()
    index = np.array([3, 17, 200])
    trainer.step(Table(X).batch(index, random.key(0)))
    rows = trainer.rows["encoder.raw"]
    np.testing.assert_array_equal(rows.steps[index], 7)
    assert (rows.steps > 0).sum() == 3
    assert np.abs(rows.values[index]).max() > 0.08  # 7 steps of at most 0.02
    assert 0 < np.abs(trainer.parameters.flat - start).max() <= 1.01e-3


def test_what_is_inferred_of_a_row_is_its_best_posterior_and_its_own(monkeypatch):
    """Of a linear decoder, diagonal q: mean M^-1 W' Psi^-1 (x - b), variances 1 / M_ii; whatever rows are beside it."""
    model, params = TRUE.as_vae("diagonal")
    per_datum = NonlinearFactorAnalysis(D, k, "diagonal", hidden=(), dtype=np.float64)
    decoder = {name: params[name] for name in per_datum.init(random.key(0))}
    monkeypatch.setattr(gvae.training.rows, "ROWS", 150)
    key = random.key(4)
    found = infer(per_datum, decoder, {}, rows_of(X), key)
    q = per_datum.encoder(found, None)
    np.testing.assert_allclose(q.mean, TRUE.posterior(X).mean, atol=0.05)
    np.testing.assert_allclose(q.variance(), np.broadcast_to(1 / np.diag(TRUE.M), (N, k)), rtol=0.2)
    alone = infer(per_datum, decoder, {}, rows_of(X)[320:323], key)
    np.testing.assert_allclose(alone["encoder.raw"], found["encoder.raw"][320:323], rtol=1e-6, atol=1e-8)
    gaps = inference_gaps(Subject(per_datum, decoder, Table(X[:50])), samples=400, steps=50)
    assert abs(gaps.amortization.mean()) < 0.02  # nothing is amortized
    assert gaps.approximation.mean() == pytest.approx(TRUE.mean_field_gap(), abs=0.05)
    assert infer(model, params, {}, rows_of(X[:5]), key) == {}


def test_wider_families_miss_less():
    """Nested families: the gap of the best diagonal q, of the best chain and of the best q at all, which is 0."""
    params = TRUE.as_vae()[1]
    gaps = []
    for family in ("diagonal", "chain", "full"):
        model = NonlinearFactorAnalysis(D, k, family, hidden=(), dtype=np.float64)
        decoder = {name: params[name] for name in model.init(random.key(0))}
        gaps.append((TRUE.log_prob(X[:100]) - evaluate(model, decoder, Table(X[:100]), samples=400).elbo).mean())
    assert gaps[0] == pytest.approx(TRUE.mean_field_gap(), abs=0.03)
    assert gaps[0] > gaps[1] + 0.05
    assert gaps[1] > gaps[2] + 0.05
    assert 0 < gaps[2] < 0.03


def test_nlfa_goes_on_where_it_stopped(tmp_path):
    """Bit for bit, rows and their optimiser included; its validation is of other rows than it trains on."""
    model = gvae.NonlinearFactorAnalysis(latent=2, hidden=(6,), epochs=3, random_state=1)
    given = {"validation": X[300:], "run": tmp_path / "run"}
    straight = clone(model).fit(X[:300], validation=X[300:])
    asked = iter(range(100))
    with pytest.raises(StoppedError):
        model.fit(X[:300], **given, stop=lambda: next(asked) == 4)
    resumed = clone(model).fit(X[:300], **given, resume=True)
    np.testing.assert_array_equal(resumed.parameters_.flat, straight.parameters_.flat)
    assert resumed.history_[-1]["validation_bound"] == straight.history_[-1]["validation_bound"]
    loaded = gvae.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.transform(X[300:]), straight.transform(X[300:]))


def test_rows_that_are_not_finite_are_named_within_an_e_step():
    model = NonlinearFactorAnalysis(D, k, hidden=(5,), dtype=np.float64)
    bad = X[:20].copy()
    bad[7, 2] = 1e200
    trainer = Trainer(model, n_rows=20)
    with pytest.raises(NonFiniteError) as caught, np.errstate(all="ignore"):
        trainer.step(Table(bad).batch(np.arange(20), random.key(0)))
    assert caught.value.rows == [7]
    assert (trainer.rows["encoder.raw"].steps == 0).all()
    for name, value, expected in (
        ("row_steps", -1, "a whole number of at least 0"),
        ("row_steps", 1.5, "a whole number of at least 0"),
        ("row_rate", 0, "a positive number"),
    ):
        with pytest.raises(ConfigError, match=f"{name} is {value}, expected {expected}"):
            NonlinearFactorAnalysis(D, k, **{name: value})


def test_exact_em_by_name(fitted):
    """As a model that trains: the reported bounds are log p(x) of all rows, they never fall, and end where `fit` ends; rows
    are scored without error by a single draw."""
    settings = {"latent": k, "epochs": 300, "dtype": "float64", "random_state": 0, "standardize": False}
    model = gvae.FactorAnalysis(**settings).fit(X)
    bounds = [row["train_bound"] for row in model.history_]
    assert (np.diff(bounds) > -1e-12).all()
    assert bounds[-1] == pytest.approx(fitted.history[-1], abs=1e-3)
    assert model.config_["settings"]["posterior"] == "full"
    begun = model.model_.init(random.key(3))
    start = ref.FactorAnalysis(begun["decoder.0.weight"].T, np.zeros(D), np.ones(D))
    first = evaluate(model.model_, begun, Table(X[:5]), samples=1).log_likelihood
    np.testing.assert_allclose(first, [start.log_prob(x) for x in X[:5]], rtol=1e-10)
    W, psi = model.parameters_["decoder.0.weight"].T, model.model_.decoder(model.parameters_, np.zeros(k)).variance()
    exact = ref.FactorAnalysis(W, X.mean(axis=0), psi)
    np.testing.assert_allclose(model.score_samples(X[:10], samples=1), [exact.log_prob(x) for x in X[:10]], rtol=1e-10)
    np.testing.assert_allclose(model.transform(X[:10]), [exact.posterior_mean(x) for x in X[:10]], rtol=1e-9, atol=1e-12)


def test_data_beyond_the_families_range_are_named():
    with np.errstate(invalid="ignore"), pytest.raises(DataError, match=r"outside \(1e-3, 1e3\): scale the data"):
        gvae.FactorAnalysis(latent=2, epochs=5, random_state=0, standardize=False).fit(X * 1e5)


def test_the_linear_vae_climbs_to_it(fitted):
    """By gradients, from `gvae train --model linear`: within 0.1 nats of EM's optimum."""
    settings = {"latent": k, "epochs": 150, "learning_rate": 2e-2, "dtype": "float64", "random_state": 0}
    model = gvae.LinearVAE(**settings).fit(X)  # whose posterior is full, and its observation gaussian
    assert model.model_.decoder.network.sizes == (k, D)
    score = model.score_samples(X, samples=50).mean()
    assert fitted.history[-1] - 0.1 < score < fitted.history[-1] + 0.02


def test_what_is_refused():
    with pytest.raises(DataError, match="expected at least two rows of finite numbers"):
        FactorAnalysis.fit(np.full((5, 2), np.nan), 1)
    for latent in (0, 9, 1.0):
        with pytest.raises(ConfigError, match="expected an integer from 1 to 8"):
            FactorAnalysis.fit(X, latent)
    constant = X.copy()
    constant[:, 2] = 5
    model = FactorAnalysis.fit(constant, 2, iterations=20)
    assert model.psi[2] == 1e-6
    assert np.isfinite(model.history[-1])
