"""SGVB in full: weights with a prior, denoising, the plain autoencoder; each against its exact limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference as ref

import gvae
from gvae import random
from gvae.autodiff import gradient
from gvae.data import Table
from gvae.distributions import DenseGaussian, DiagonalGaussian
from gvae.errors import ConfigError
from gvae.evaluation import evaluate
from gvae.models import MAP, VAE, Autoencoder, Bayes, Denoising
from gvae.objectives import ELBO
from gvae.training import Trainer, train
from gvae.training.inputs import VALIDATE

NAMES = ["vae", "map", "bayes", "denoising", "autoencoder", "linear", "factor_analysis", "nlfa", "hierarchical"]
D, k, B = 12, 3, 5
SETTINGS = {"hidden": (7,), "activation": "tanh", "dtype": np.float64}


def prototypes(rows=200, seed=0):
    r = np.random.default_rng(seed)
    p = r.integers(0, 2, size=(3, D))
    return (p[r.integers(0, 3, rows)] ^ (r.uniform(size=(rows, D)) < 0.05)).astype(np.float64)


X = prototypes()
TABLE = Table(X)
BATCH = TABLE.batch(np.arange(B), random.key(0))


def made(cls, **settings):
    model = cls(D, k, "diagonal", **SETTINGS | settings)
    params = model.init(random.key(3))
    r = np.random.default_rng(0)  # biases are 0 at first
    moved = [name for name in params if name.endswith("bias") and "log_scale" not in name]
    return model, params | {name: 0.1 * r.normal(size=params[name].shape) for name in moved}


def likelihood(model, params, step=0):  # of a training step, or of scored rows: None
    noise = model.noise(random.key(1), BATCH, 4)
    return model.terms(params, {}, BATCH, noise, step).total_log_likelihood


@pytest.mark.parametrize("name", NAMES)
def test_every_model_trains_scores_and_samples(name, tmp_path):
    """By its name: through the estimator, which is what `gvae train --model` calls."""
    make = gvae.estimators()[name]
    own = {"factor_analysis": {"posterior": "full", "steps": 20}, "nlfa": {"steps": 60}}.get(name, {})
    settings = {"latent": k, "posterior": "chain", "hidden": (16,), "steps": 300, "learning_rate": 5e-3} | own
    settings = {name: value for name, value in settings.items() if name in make().get_params()}
    model = make(**settings, random_state=0).fit(X, validation=X[:50])
    first, last = (model.history_[i]["train_bound"] for i in (0, -1))
    assert last > first + 0.5, (first, last)
    assert np.isfinite(model.score(X[:20]))
    assert model.sample(3).shape == (3, D)
    model.save(tmp_path / "model")
    again = gvae.load(tmp_path / "model")
    assert (type(again), type(again.model_)) == (make, make.model)
    np.testing.assert_array_equal(again.score_samples(X[:20]), model.score_samples(X[:20]))
    np.testing.assert_array_equal(again.reconstruct(X[:20]), model.reconstruct(X[:20]))
    with pytest.raises(ConfigError, match="unknown model 'tree'; known are vae, map, bayes, denoising, autoenc"):
        gvae.VAE(model="tree").fit(X)


# ---- weights


def test_map_adds_the_prior_of_the_weights():
    model, params = made(MAP, n_rows=40, alpha=0.7)
    weights = np.concatenate([v.ravel() for n, v in params.items() if n.startswith("decoder.")])
    expected = -ref.gaussian_log_prob(weights, 0 * weights, 0.49 * np.eye(len(weights)))
    assert model.cost(params) == pytest.approx(expected, rel=1e-12)
    trained, scored = (
        ELBO()(model.terms(params, {}, BATCH, model.noise(random.key(1), BATCH, 4), step))[0] for step in (0, None)
    )
    assert trained == pytest.approx(scored - expected / 40, rel=1e-12)
    decay = gradient(lambda w: model.cost(params | {"decoder.0.weight": w}) / 40, params["decoder.0.weight"])
    np.testing.assert_allclose(decay, params["decoder.0.weight"] / 0.49 / 40, rtol=1e-12)  # 1 / 2N of each square
    np.testing.assert_array_equal(likelihood(model, params), likelihood(made(VAE)[0], params))


@pytest.mark.parametrize("cls", [MAP, Bayes])
def test_minibatches_add_up_to_the_objective_of_all_data(cls):
    """(N / M) of a batch's sum of L_i, less the price of the weights, has the mean sum_i L_i less that price: per row, the
    mean over the batches of an epoch is the full batch's bound."""
    model, params = made(cls, n_rows=40)

    def bound(index):
        batch = TABLE.batch(index, random.key(0))
        noise = {name: 0 * draws for name, draws in model.noise(random.key(1), batch, 1).items()}
        return ELBO()(model.terms(params, {}, batch, noise, 0))[0]

    batches = [bound(np.arange(40)[i::4]) for i in range(4)]
    assert np.mean(batches) == pytest.approx(bound(np.arange(40)), rel=1e-12)


def test_bayes_without_spread_is_map():
    """s -> 0 with the log q term dropped: the same likelihoods and gradients, and the KL less the entropy is the cost."""
    bayes, params = made(Bayes, n_rows=40, alpha=0.7, initial_scale=1e-30)
    map_, _ = made(MAP, n_rows=40, alpha=0.7)
    shared = [n for n in params if not n.startswith("decoder_log_scale.")]
    np.testing.assert_allclose(likelihood(bayes, params), likelihood(map_, params), rtol=1e-13)

    def slopes(model):
        def bound(*values):
            given = params | dict(zip(shared, values, strict=True))
            noise = model.noise(random.key(1), BATCH, 4)
            return ELBO()(model.terms(given, {}, BATCH, noise))[0]

        return gradient(bound, *(params[n] for n in shared))

    for a, b in zip(slopes(bayes), slopes(map_), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14)
    n = sum(params[name].size for name in shared if name.startswith("decoder."))
    entropy = n * (0.5 * (1 + math.log(2 * math.pi)) + math.log(1e-30))
    assert bayes.cost(params) + entropy == pytest.approx(map_.cost(params), rel=1e-12)


def test_what_bayes_pays_is_the_kl():
    model, params = made(Bayes, n_rows=40, alpha=0.7, initial_scale=0.2)
    m = np.concatenate([v.ravel() for n, v in params.items() if n.startswith("decoder.")])
    expected = ref.gaussian_kl(m, 0.04 * np.eye(len(m)), 0 * m, 0.49 * np.eye(len(m)))
    assert model.cost(params) == pytest.approx(expected, rel=1e-10)
    # without data the optimum is the prior, and costs nothing
    prior = {n: np.full_like(v, math.log(0.7)) if "log_scale" in n else 0 * v for n, v in params.items()}
    assert model.cost(prior) == pytest.approx(0, abs=1e-12)


def test_local_reparameterization_has_the_moments_of_drawn_weights():
    """A linear decoder, where both are Gaussian given z: a_j ~ N(sum z_i m_ij + b_j, sum z_i² s_ij² + s_b²)."""
    model, params = made(Bayes, n_rows=1, hidden=(), observation="gaussian")
    r = np.random.default_rng(1)
    for name in params:
        if "log_scale" in name:
            params[name] = r.normal(size=params[name].shape) * 0.3
    z, K = r.normal(size=(1, k)), 200_000
    noise = {"decoder.0": r.normal(size=(K, 1, D))}
    a = model.decode(params, {}, {"z": z}, noise)["x"].mean[:, 0]
    s = {n: np.exp(params[f"decoder_log_scale.0.{n}"]) for n in ("weight", "bias")}
    W = params["decoder.0.weight"] + s["weight"] * r.normal(size=(K, k, D))
    drawn = z @ W + params["decoder.0.bias"] + s["bias"] * r.normal(size=(K, 1, D))
    scale = np.sqrt(z**2 @ s["weight"] ** 2 + s["bias"] ** 2)[0]
    assert np.abs((a.mean(0) - drawn.mean((0, 1))) / scale).max() < 5 * math.sqrt(2 / K)
    np.testing.assert_allclose(a.std(0), scale, rtol=0.01)  # 2 standard errors are 0.003
    np.testing.assert_allclose(drawn.std((0, 1)), scale, rtol=0.01)


def test_bayesian_linear_regression():
    """At fixed z: the best factorized q misses the evidence by 1/2 (sum log A_ii - log |A|), A the posterior's precision."""
    r, N, noise_scale = np.random.default_rng(2), 30, 0.5
    model = Bayes(1, k, "diagonal", "gaussian", (), n_rows=N, alpha=1.3, dtype=np.float64)
    z = r.normal(size=(N, k))
    y = z @ r.normal(size=k) + 0.3 + noise_scale * r.normal(size=N)
    design = np.concatenate([z, np.ones((N, 1))], axis=1)
    A = design.T @ design / noise_scale**2 + np.eye(k + 1) / 1.3**2
    m, s = np.linalg.solve(A, design.T @ y / noise_scale**2), np.diag(A) ** -0.5
    params = {
        "decoder.0.weight": m[:k, None],
        "decoder.0.bias": m[k:],
        "decoder_log_scale.0.weight": np.log(s[:k, None]),
        "decoder_log_scale.0.bias": np.log(s[k:]),
        "decoder.shared": gvae.families.LOG_SCALE * np.arctanh(np.log([noise_scale]) / gvae.families.LOG_SCALE),
    }
    draws = {"decoder.0": np.array([1.0, -1.0])[:, None, None] * np.ones((2, N, 1))}  # means of quadratics are exact

    def bound(p):
        return model.decode(p, {}, {"z": z}, draws)["x"].log_prob(y[:, None]).mean(axis=0).sum() - model.cost(p)

    evidence = ref.gaussian_log_prob(y, 0 * y, design @ design.T * 1.3**2 + noise_scale**2 * np.eye(N))
    gap = 0.5 * (np.log(np.diag(A)).sum() - np.linalg.slogdet(A)[1])
    assert bound(params) == pytest.approx(evidence - gap, rel=1e-10)
    # with a full covariance q is the conjugate posterior, and the bound the evidence
    full = DenseGaussian(np.r_[m], np.linalg.cholesky(np.linalg.inv(A)))
    e = y - design @ m
    quadratic = (e @ e + np.trace(design.T @ design @ full.covariance())) / noise_scale**2
    likelihood = -0.5 * (N * math.log(2 * math.pi * noise_scale**2) + quadratic)
    prior = DiagonalGaussian(np.zeros(k + 1), np.full(k + 1, math.log(1.3)))
    assert likelihood - full.kl(prior) == pytest.approx(evidence, rel=1e-10)
    for name in list(params)[:4]:  # and it is the best
        for sign in (-1, 1):
            assert bound(params | {name: params[name] + sign * 0.02}) < bound(params)


@pytest.mark.parametrize("cls", [MAP, Bayes])
def test_rows_are_scored_without_the_price_of_the_weights(cls):
    """In evaluation and in validation; a training step pays."""
    model, params = made(cls, n_rows=4)
    elbo: list = []
    for i, batch in enumerate(TABLE.batches(random.key(0), 100)):  # as the evaluation takes them
        terms = VAE.terms(model, params, {}, batch, model.noise(random.fold_in(random.key(0), 1, i, 0), batch, 3))
        elbo.extend(terms.total_log_likelihood.mean(axis=0) - terms.layers[0].kl)
    np.testing.assert_allclose(evaluate(model, params, TABLE, samples=3).elbo, elbo, rtol=1e-12)
    trainer = Trainer(model, parameters=params)
    batch = TABLE.batch(np.arange(len(X)), random.fold_in(random.fold_in(trainer.key, VALIDATE), 0, 0))
    noise = model.noise(random.fold_in(trainer.key, VALIDATE, 1, 0), batch)
    free = ELBO()(VAE.terms(model, params, {}, batch, noise))[1]
    assert trainer.validate(TABLE) == pytest.approx(free, rel=1e-12)
    paid = ELBO()(model.terms(params, {}, batch, trainer.model.noise(trainer.inputs().noise, batch), 0))[1]
    assert trainer.step(batch) == pytest.approx(paid, rel=1e-12)
    assert paid["kl"] > free["kl"] + 0.5 * model.cost(params) / 4


# ---- denoising


@pytest.mark.parametrize("corruption", ["masking", "gaussian"])
def test_no_corruption_is_the_vae(corruption):
    plain, params = made(VAE)
    model, _ = made(Denoising, corruption=corruption, levels=(0.0, 0.0))
    np.testing.assert_array_equal(likelihood(model, params), likelihood(plain, params))
    corrupt, _ = made(Denoising, corruption=corruption, levels=(0.5, 0.1))
    assert (likelihood(corrupt, params) != likelihood(plain, params)).any()
    np.testing.assert_array_equal(likelihood(corrupt, params, None), likelihood(plain, params))
    np.testing.assert_array_equal(
        evaluate(corrupt, params, TABLE, samples=3).log_likelihood, evaluate(plain, params, TABLE, samples=3).log_likelihood
    )
    assert Trainer(corrupt, parameters=params).validate(TABLE) == Trainer(plain, parameters=params).validate(TABLE)


def test_the_level_falls_and_is_that_of_the_data():
    model, _ = made(Denoising, levels=(0.8, 0.2), anneal=10)
    assert [model.corruption.level(step) for step in (0, 5, 10, 500)] == pytest.approx([0.8, 0.5, 0.2, 0.2])
    ones = Table(np.ones((500, D))).batch(np.arange(500), random.key(0))
    noise = model.noise(random.key(1), ones, 20)["corruption"]
    for step in (0, 5, 10):
        nu, n = model.corruption.level(step), noise.size
        masked = 1 - model.corruption(ones.x, noise, step).mean()
        assert abs(masked - nu) < 5 * math.sqrt(nu * (1 - nu) / n)
    model, _ = made(Denoising, corruption="gaussian", levels=(0.8, 0.2), anneal=10)
    noise = model.noise(random.key(1), ones, 20)["corruption"]
    assert model.corruption(ones.x, noise, 5).std() == pytest.approx(0.5, rel=0.02)
    for bad, message in (
        ({"corruption": "salt"}, "corruption is 'salt'; known are masking, gaussian"),
        ({"levels": (0.5, 1.5)}, r"levels is \(0.5, 1.5\), expected 2 values, each a number from 0 to 1"),
        ({"levels": (0.5,)}, r"levels is \(0.5,\), expected 2 values, each a number from 0 to 1"),
        ({"anneal": 0}, "anneal is 0, expected a whole number of at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            made(Denoising, **bad)


def test_the_denoising_bound_is_a_bound():
    """E_c E_q(z|x~) [log p(x, z) - log q(z|x~)] is at most log p(x), here by importance sampling with many draws."""
    plain, _ = made(VAE)
    trainer, _ = train(plain, TABLE, steps=300, learning_rate=1e-2, batch_size=50)
    clean = evaluate(plain, trainer.parameters, TABLE, samples=2000)
    model, _ = made(Denoising, levels=(0.5, 0.5))
    batch = TABLE.batch(np.arange(len(X)), random.key(0))
    terms = model.terms(trainer.parameters, {}, batch, model.noise(random.key(1), batch, 2000), 0)
    corrupted = (terms.total_log_likelihood - (terms.layers[0].log_q - terms.layers[0].log_p)).mean(axis=0)
    assert (corrupted < clean.log_likelihood).mean() > 0.98
    assert corrupted.mean() < clean.elbo.mean() < clean.log_likelihood.mean()


# ---- the autoencoder


def test_the_autoencoder_is_the_vaes_limit():
    """No variance and no weight of the KL: the reconstruction term alone."""
    model, params = made(Autoencoder)
    plain, _ = made(VAE)
    narrow = params | {"encoder.1.bias": params["encoder.1.bias"] - np.repeat([0.0, 1e4], k)}  # s at its floor, 1e-3
    gaps = likelihood(plain, narrow) - likelihood(model, params)
    assert np.abs(gaps).max() < 0.02
    value, metrics = ELBO()(model.terms(params, {}, BATCH, model.noise(random.key(1), BATCH, 1)))
    assert value == metrics["bound"] == pytest.approx(likelihood(model, params).mean())
    assert metrics["kl"] == 0


def test_an_autoencoder_reconstructs_better_and_codes_no_worse_than_a_vae():
    """At equal latent size, cross-entropy and squared error from the mean code, and from a draw of the VAE's: what the VAE
    gives up for its prior."""
    losses = {}
    for name, cls in (("vae", VAE), ("autoencoder", Autoencoder)):
        model = cls(D, k, **SETTINGS)
        trainer, _ = train(model, TABLE, steps=600, learning_rate=1e-2, batch_size=50, seed=2)
        test = prototypes(seed=0)[:100]
        q = model.encoder(trainer.parameters, test)
        for code, z in (("mean", q.mean), ("draw", q.sample(q.noise(random.key(0))))):
            decoded = model.decoder(trainer.parameters, z)
            losses[name, code] = -decoded.log_prob(test).mean(), ((decoded.mean - test) ** 2).sum(axis=1).mean()
    for best, worse in ((("autoencoder", "mean"), ("vae", "mean")), (("vae", "mean"), ("vae", "draw"))):
        assert losses[best][0] < losses[worse][0]
        assert losses[best][1] < losses[worse][1]


def test_names():
    assert list(gvae.estimators())[: len(NAMES)] == NAMES
    for cls in (MAP, Bayes):
        with pytest.raises(
            ConfigError, match=f"{cls.__name__}: n_rows is 0, expected the number of rows that share the weights"
        ):
            cls(D, k, n_rows=0)
        with pytest.raises(ConfigError, match=r"alpha is 0\.0, expected a positive number"):
            cls(D, k, n_rows=5, alpha=0.0)
    with pytest.raises(ConfigError, match="initial_scale is 0, expected a positive number"):
        Bayes(D, k, n_rows=5, initial_scale=0)
