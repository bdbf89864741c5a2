"""Evaluation against the linear-Gaussian oracle, where log p(x), the posterior and every gap have closed forms."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import threading
import time
import tracemalloc

import numpy as np
import pytest
import reference as ref
import scipy.stats

import gvae
from gvae import models, objectives, random
from gvae.data import Table
from gvae.distributions import DiagonalGaussian, Distribution
from gvae.errors import ConfigError, DataError, NonFiniteError, RunError
from gvae.evaluation import (
    MEASURES,
    Partial,
    Subject,
    active_units,
    annealed,
    annealed_importance_sampling,
    bidirectional,
    codes,
    evaluate,
    importance,
    importance_sampling,
    inference_gaps,
    pareto_k,
    rate_distortion,
    reconstruction,
    surgery,
    table,
)
from gvae.evaluation import subject as streams
from gvae.evaluation.pareto import Tail
from gvae.families import LOG_SCALE, Conditional, Diagonal, Gaussian
from gvae.objectives import Layer, Terms

D, n, B = 7, 4, 12
rng = np.random.default_rng(0)
FA = ref.FactorAnalysis(rng.normal(size=(D, n)), rng.normal(size=D), rng.uniform(0.3, 1.5, D))
X = FA.b + rng.normal(size=(B, n)) @ FA.W.T + rng.normal(size=(B, D)) * np.sqrt(FA.psi)
LOG_P = np.array([FA.log_prob(x) for x in X])
KEY = random.key(5)


def raw_of(bounded, limit=LOG_SCALE):
    """The raw number that a family bounds to this one."""
    return limit * np.arctanh(bounded / limit)


def linear_gaussian(log_scale=0.0, shift=0.0):
    """(model, parameters) of the oracle as a VAE without hidden layers: its encoder is the best diagonal one, unless its
    standard deviations are multiplied by e^log_scale and its means moved."""
    model = models.VAE(D, n, "diagonal", "gaussian", hidden=(), dtype=np.float64)
    to_mean = np.linalg.solve(FA.M, FA.W.T / FA.psi)
    log_scales = -0.5 * np.log(np.diag(FA.M)) + log_scale
    return model, {
        "encoder.0.weight": np.concatenate([to_mean.T, np.zeros((D, n))], axis=1),
        "encoder.0.bias": np.r_[-to_mean @ FA.b + shift, raw_of(log_scales)],
        "decoder.0.weight": FA.W.T.copy(),
        "decoder.0.bias": FA.b.copy(),
        "decoder.shared": raw_of(0.5 * np.log(FA.psi)),
    }


def subject(log_scale=0.0, shift=0.0, x=X, **settings):
    model, parameters = linear_gaussian(log_scale, shift)
    return Subject(model, parameters, Table(x), key=KEY, **settings)


# ---- importance sampling


def test_the_weights_have_mean_p_of_x():
    """100 repetitions: mean of w / p(x) within 4.5 standard errors of 1 for each of 12 rows (fixed key; 1e-4 by chance), and
    log p(x) within bias + 2 standard errors on most rows, which the errors themselves say."""
    model, parameters = linear_gaussian(log_scale=0.3)
    results = [evaluate(model, parameters, Table(X), samples=50, key=random.fold_in(KEY, r)) for r in range(100)]
    ratio = np.exp([r.log_likelihood - LOG_P for r in results])
    assert (np.abs(ratio.mean(axis=0) - 1) < 4.5 * ratio.std(axis=0, ddof=1) / 10).all()
    spread = np.std([r.log_likelihood for r in results], axis=0, ddof=1)
    claimed = np.sqrt(np.mean([r.standard_error**2 for r in results], axis=0))
    np.testing.assert_allclose(claimed, spread, rtol=0.25)
    many = evaluate(model, parameters, Table(X), samples=20_000, key=KEY)
    assert (np.abs(many.log_likelihood - LOG_P) < many.standard_error**2 / 2 + 3 * many.standard_error).all()
    summary = many.summary()
    assert summary["log_likelihood_sampling_error"] == pytest.approx(np.sqrt((many.standard_error**2).sum()) / B)
    assert summary["elbo"] == pytest.approx(-summary["distortion"] - summary["kl"])


def test_an_exact_posterior_has_no_error():
    """With a full posterior the weights are constant up to rounding."""
    model = models.VAE(D, n, "full", "gaussian", hidden=(), dtype=np.float64)
    _, parameters = linear_gaussian()
    R = np.linalg.cholesky(np.linalg.inv(FA.M))
    to_mean = parameters["encoder.0.weight"][:, :n]
    numbers = model.posterior.unconstrained(R)
    parameters["encoder.0.weight"] = np.concatenate([to_mean, np.zeros((D, len(numbers)))], axis=1)
    parameters["encoder.0.bias"] = np.r_[parameters["encoder.0.bias"][:n], numbers]
    result = evaluate(model, parameters, Table(X), samples=200, key=KEY)
    np.testing.assert_allclose(result.log_likelihood, LOG_P, rtol=1e-10)
    np.testing.assert_allclose(result.effective_sample_size, 200, rtol=1e-10)
    assert result.standard_error.max() < 1e-10


def test_pareto_k_is_that_of_the_reference():
    for scale in (0.3, 1.0, 2.5):
        log_weights = scale * rng.normal(size=(400, 3))
        tail = math.ceil(min(400 / 5, 3 * math.sqrt(400)))
        stream = Tail(400, 3)
        for part in np.array_split(log_weights, 37):
            stream.add(part)
        expected = [ref.pareto_k(column, tail) for column in log_weights.T]
        np.testing.assert_allclose(stream.k(), expected, rtol=1e-9)
    for k in (-0.3, 0.2, 0.8):  # a generalised Pareto sample, 50,000 strong, within what the prior and 4 errors allow
        u = rng.uniform(size=(50_000, 2))
        assert np.abs(pareto_k(np.log(1 + (u**-k - 1) / k)) - k).max() < 0.03
    assert (pareto_k(np.full((31, 2), 1.5)) == -np.inf).all()
    assert np.isnan(Tail(20, 3).k()).all()


def test_pareto_k_of_ties_and_of_weights_that_underflow():
    """Weights equal to the smallest are no part of the tail; where fewer than five remain, no mean can be trusted."""
    excesses = np.linspace(0.01, 1.0, 57)
    tied = np.concatenate([np.zeros(40), excesses])
    spread = np.linspace(-3000.0, -2000.0, 96)  # all 0 beside e^0
    k = pareto_k(np.stack([tied, np.append(np.zeros(96), 1.0), np.append(spread, 0.0), np.full(97, np.nan)], axis=1))
    assert k[0] == pytest.approx(pareto_k(np.concatenate([[0.0], excesses])[:, None])[0])
    assert (k[1:3] == np.inf).all()
    assert np.isnan(k[3])


def test_weights_that_are_equal_but_for_rounding_have_no_tail():
    """Those of an exact posterior: one or two units in the last place apart, many of them tied."""
    for unit, level in ((np.finfo(np.float64).eps, 0.0), (np.finfo(np.float32).eps, -20.0)):
        ranks = np.r_[3, np.repeat([2, 1, 0], [9, 9, 4])]
        assert (pareto_k(level - unit * max(1, -level) * ranks[:, None]) == -np.inf).all()
    ranks = np.r_[3, np.repeat([2, 1, 0], [9, 9, 4])]  # a point of the grid is 0: an exponential
    assert pareto_k(np.log(1 - 0.25 * ranks)[:, None]) == pytest.approx(-0.7439, abs=1e-4)
    fa = gvae.FactorAnalysis(latent=2, dtype="float64", random_state=0).fit(X)
    summary = fa.evaluate(X, samples=100).summary()
    assert (summary["pareto_k"], summary["pareto_k_unreliable"]) == (-np.inf, 0)


def test_pareto_k_warns_where_q_is_too_narrow():
    """Weights of q = N(m, s² C) with s < 1 have a tail of shape 1 - s² in each direction (Gaussian tails)."""
    model, parameters = linear_gaussian(log_scale=-0.8)
    narrow = evaluate(model, parameters, Table(X), samples=2000, key=KEY).summary()
    wide = evaluate(*linear_gaussian(log_scale=0.3), Table(X), samples=2000, key=KEY).summary()
    assert narrow["pareto_k_unreliable"] > 0.5
    assert wide["pareto_k_unreliable"] == 0
    few = evaluate(*linear_gaussian(), Table(X), samples=20, key=KEY).summary()
    assert few["pareto_k"] is few["pareto_k_unreliable"] is None


class Stops:
    """The model, until it has been asked so many times."""

    def __init__(self, model, after):
        self.model, self.left = model, after

    def __getattr__(self, name):
        return getattr(self.model, name)

    def terms(self, *arguments):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return self.model.terms(*arguments)


@pytest.mark.sharing
def test_batches_are_evaluated_by_threads_with_the_same_bits(monkeypatch):
    model, parameters = linear_gaussian()
    results, seen = [], set()
    terms = model.terms

    def slow_terms(*arguments):
        seen.add(threading.get_ident())
        time.sleep(0.01)  # which leaves the others time to begin
        return terms(*arguments)

    monkeypatch.setattr(model, "terms", slow_terms)
    for count in (1, 2, 3):
        monkeypatch.setenv("GVAE_NUM_THREADS", str(count))
        seen.clear()
        results.append(evaluate(model, parameters, Table(np.tile(X, (3, 1))), samples=300, batch_size=3))
        assert len(seen) == 1 if count == 1 else 1 < len(seen) <= count
    for other in results[1:]:
        for name in importance.COLUMNS:
            np.testing.assert_array_equal(getattr(other, name), getattr(results[0], name))


def test_an_interrupted_evaluation_resumes(tmp_path, caplog):
    model, parameters = linear_gaussian()
    settings = {"samples": 30, "key": KEY, "batch_size": 4}
    expected = evaluate(model, parameters, Table(X), **settings)
    path = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        evaluate(Stops(model, 2), parameters, Table(X), partial=Partial(path, {}), **settings)
    kept = path.read_bytes()
    rest = Stops(model, 1)  # of three batches, two are done
    resumed = Partial(path, {})
    result = evaluate(rest, parameters, Table(X), partial=resumed, **settings)
    assert rest.left == 0
    for name in importance.COLUMNS:
        np.testing.assert_array_equal(getattr(result, name), getattr(expected, name))
    assert [p.name for p in tmp_path.iterdir()] == ["part"]
    resumed.remove()
    assert not list(tmp_path.iterdir())
    assert not caplog.records

    others = {
        "parameters": (parameters | {"decoder.0.bias": FA.b + 1e-9}, X, settings, {}),
        "data": (parameters, X + 1e-9, settings, {}),
        "samples": (parameters, X, settings | {"samples": 31}, {}),
        "key": (parameters, X, settings | {"key": random.key(6)}, {}),
        "about": (parameters, X, settings, {"activation": "tanh"}),
    }
    for name, (other, x, changed, about) in others.items():
        path.write_bytes(kept)
        caplog.clear()
        all_of_it = Stops(model, 3)
        evaluate(all_of_it, other, Table(x), partial=Partial(path, about), **changed)
        assert all_of_it.left == 0, name
        assert "of another evaluation: ignored" in caplog.text, name
    for damaged in (b"", kept[:-20], kept[:9] + b"!" + kept[10:]):
        path.write_bytes(damaged)
        caplog.clear()
        result = evaluate(model, parameters, Table(X), partial=Partial(path, {}), **settings)
        np.testing.assert_array_equal(result.elbo, expected.elbo)
        assert "damaged" in caplog.text
        assert "ignored" in caplog.text
    for foreign in (b"x" * 100, b"1.5,2.5"):
        path.write_bytes(foreign)
        with pytest.raises(RunError, match="part, which holds something else; name a new file"):
            Partial(path, {})
        assert path.read_bytes() == foreign
    with pytest.raises(RunError, match="Is a directory"):
        Partial(tmp_path, {})


def test_a_partial_that_cannot_be_written_is_a_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("gvae.evaluation.partial.SECONDS", 0.0)
    caplog.set_level(logging.WARNING)
    evaluate(*linear_gaussian(), Table(X), samples=2, partial=Partial(tmp_path / "nowhere" / "part", {}))
    assert "cannot be written" in caplog.text


def test_evaluation_refuses():
    model, parameters = linear_gaussian()
    with pytest.raises(DataError, match="the table has no rows"):
        evaluate(model, parameters, Table(X[:0]))
    with pytest.raises(
        ConfigError, match=r"of another model: encoder.0.bias is float64 of shape \(3,\), expected float64 of"
    ):
        evaluate(model, parameters | {"encoder.0.bias": np.zeros(3)}, Table(X))
    with pytest.raises(ConfigError, match=r"decoder.0.bias is missing"):
        evaluate(model, {k: v for k, v in parameters.items() if k != "decoder.0.bias"}, Table(X))
    x = X.copy()
    x[3, 2] = np.nan
    with pytest.raises(NonFiniteError, match=r"row 3 of .*: the log-weight of a sample is nan \(log p\(x\|z\) = nan, log q"):
        evaluate(model, parameters, Table(x), batch_size=2)
    x[3, 2] = 1e200
    with np.errstate(over="ignore"), pytest.raises(NonFiniteError, match=r"row 3 of .*: p\(x, z\) is zero at every draw"):
        evaluate(model, parameters | {"encoder.0.weight": np.zeros((D, 2 * n))}, Table(x), batch_size=2)
    for bad in (0, -1, 2.5, True):
        with pytest.raises(ConfigError, match="samples is"):
            importance_sampling(subject(), samples=bad)


# ---- annealed importance sampling


POOR = {"log_scale": -0.5, "shift": 0.4}  # of an encoder


@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_annealing_finds_log_p(start):
    """Each row within bias + 3.5 standard errors of log p(x); 65 % of the steps are accepted, on rows apart."""
    result = annealed_importance_sampling(subject(**POOR), start=start, chains=100, temperatures=80, leapfrogs=4)
    error = result.standard_error
    assert (np.abs(result.log_likelihood - LOG_P) < error**2 / 2 + 3.5 * error).all()
    assert error.max() < 0.3
    assert (np.abs(result.acceptance - 0.68) < 0.1).all()
    assert result.summary()["log_likelihood"] == pytest.approx(LOG_P.mean(), abs=0.1)


def test_annealing_is_a_function_of_the_key_and_starts_are_checked():
    quick = {"chains": 3, "temperatures": 4, "leapfrogs": 2}
    first, same = (annealed_importance_sampling(subject(), **quick) for _ in range(2))
    np.testing.assert_array_equal(first.log_likelihood, same.log_likelihood)
    assert len(annealed_importance_sampling(subject(), rows=5, **quick).log_likelihood) == 5
    with pytest.raises(ConfigError, match="annealing starts at 'nowhere', expected one of posterior, prior"):
        annealed_importance_sampling(subject(), start="nowhere")
    for name in ("chains", "temperatures", "leapfrogs", "rows"):
        with pytest.raises(ConfigError, match=f"{name} is 0"):
            annealed_importance_sampling(subject(), **{name: 0})
    binary = models.VAE(D, n, "bernoulli", "gaussian", hidden=(), dtype=np.float64)
    coins = Subject(binary, binary.init(KEY), Table(X), key=KEY)
    for start, what in (("posterior", "q"), ("prior", "prior")):
        with pytest.raises(ConfigError, match=f"a layer's {what} is a BernoulliDistribution, whose draws are not made of"):
            annealed_importance_sampling(coins, start=start)

    class NoGenerator(models.VAE):
        generate = property()

    none = Subject(NoGenerator(D, n, "diagonal", "gaussian", hidden=(), dtype=np.float64), linear_gaussian()[1], Table(X))
    with pytest.raises(ConfigError, match="rate_distortion: NoGenerator has no method `generate`"):
        rate_distortion(none)
    with pytest.raises(ConfigError, match="betas are"):
        rate_distortion(subject(), betas=(1.0, 0.5))


def test_step_sizes_come_from_other_noise():
    """The pilot's steps are the same whatever the run's own noise is."""
    one, other = (annealed._Path(subject(), Table(X).batch(np.arange(B), KEY), "prior", 5, 3, KEY) for _ in range(2))
    other.initial = np.zeros_like(one.initial)
    betas = np.linspace(0, 1, 9)
    np.testing.assert_array_equal(one.pilot(betas, KEY), other.pilot(betas, KEY))
    assert (one.pilot(betas, KEY) != one.pilot(betas, random.key(1))).any()


class Blurred(models.VAE):
    """Its q sees the data through noise of its own, as in a denoising autoencoder; it draws its noise from the data."""

    def noise(self, key, batch, samples=1):
        blur = 0.3 * random.normal(random.fold_in(key, 9), (samples, *batch.x.shape), np.float64)
        return {"blur": blur} | super().noise(key, batch, samples)

    def terms(self, params, state, batch, noise, step=0):
        q = self.encoder(params, batch.x + noise["blur"])
        z = q.sample(noise["z"])
        return Terms({"x": self.decoder(params, z).log_prob(batch.x)}, [Layer(q, None, z, noise["z"])])


def test_what_is_random_beside_the_layers_stays_as_it_is():
    blurred = Subject(
        Blurred(D, n, "diagonal", "gaussian", hidden=(), dtype=np.float64), linear_gaussian()[1], Table(X), key=KEY
    )
    result = annealed_importance_sampling(blurred, chains=100, temperatures=80, leapfrogs=4)
    error = result.standard_error
    assert (np.abs(result.log_likelihood - LOG_P) < error**2 / 2 + 3.5 * error).all()
    assert error.max() < 0.3
    assert len(bidirectional(blurred, rows=2 * B, chains=2, temperatures=3).lower) == 2 * B  # more than the table has


def test_weights_that_a_model_defines():
    """Half of each weight: every estimate of log p(x) is lower by log 2, the objective's too, and the draws are the same."""

    class Halved(models.VAE):
        def terms(self, params, state, batch, noise, step=None):
            terms = super().terms(params, state, batch, noise, step)
            return dataclasses.replace(terms, weights=terms.log_weights - math.log(2))

    model, parameters = linear_gaussian(log_scale=0.3)
    halved = Halved(D, n, "diagonal", "gaussian", hidden=(), dtype=np.float64)
    sides = [Subject(which, parameters, Table(X), key=KEY) for which in (model, halved)]
    for estimate in (
        lambda side: importance_sampling(side, samples=50),
        lambda side: annealed_importance_sampling(side, chains=4, temperatures=10, leapfrogs=2),
    ):
        whole, half = (estimate(side) for side in sides)
        np.testing.assert_allclose(half.log_likelihood, whole.log_likelihood - math.log(2), rtol=1e-12)
        np.testing.assert_allclose(half.effective_sample_size, whole.effective_sample_size, rtol=1e-9)
    batch = sides[0].table.batch(np.arange(B), KEY)
    noise = model.noise(KEY, batch, 6)
    for text in ("iwae", "renyi:0.5", "miwae:2"):
        objective = objectives.parse(text)
        whole, half = (objective(side.model.terms(parameters, {}, batch, noise))[1]["bound"] for side in sides)
        assert half == pytest.approx(whole - math.log(2), rel=1e-12), text


class Certain(Distribution):
    """Draws that are always the same, and nothing else."""

    reparameterized = True

    def sample(self, noise):
        return noise * 0

    def log_prob(self, x, reduce=True):
        return np.zeros(x.shape[:-1])

    log_prob_of_draw = log_prob
    kl = log_prob


def test_a_q_that_lacks_what_a_measure_needs():
    class Plain(models.VAE):
        def terms(self, params, state, batch, noise, step=0):
            terms = super().terms(params, state, batch, noise, step)
            return Terms(terms.log_likelihood, [Layer(Certain(), None, terms.layers[0].z, noise["z"])])

    plain = Subject(
        Plain(D, n, "diagonal", "gaussian", hidden=(), dtype=np.float64), linear_gaussian()[1], Table(X), key=KEY
    )
    with pytest.raises(ConfigError, match="active units: Certain, a layer's q, has no mean"):
        active_units(plain)
    with pytest.raises(ConfigError, match=r"surgery: draws: Plain lacks what it needs, Distribution\._leads"):
        surgery(plain)
    with pytest.raises(ConfigError, match=r"annealed importance sampling: Plain lacks .* Distribution\.draw_noise"):
        annealed_importance_sampling(plain)
    with pytest.raises(ConfigError, match="reconstruction: the Terms of Plain have no `views`"):
        reconstruction(plain)


def test_bidirectional_bounds_hold_log_p_between_them():
    """The model simulates its own rows, so the exact log p(x) is known; lower <= log p <= upper on the mean over 60 rows
    within 3 standard errors, and within 0.1 nats of each other."""
    simulated = []

    class Watched(models.VAE):
        def terms(self, *arguments):
            raise AssertionError("the encoder plays no part")

        def generate(self, params, state, noise):
            terms = super().generate(params, state, noise)
            if noise["z"].shape[0] == 1 and not simulated:
                x = terms.views["x"]
                view_sample = x.sample
                x.sample = lambda e: simulated.append(view_sample(e)) or simulated[0]
            return terms

    model, parameters = Watched(D, n, "diagonal", "gaussian", hidden=(), dtype=np.float64), linear_gaussian()[1]
    result = bidirectional(Subject(model, parameters, Table(X), key=KEY), rows=60, chains=30, temperatures=80, leapfrogs=4)
    exact = np.array([FA.log_prob(x) for x in simulated[0][0]])
    below, above = exact - result.lower, result.upper - exact
    for gap in (below, above):
        assert gap.mean() > -3 * gap.std() / math.sqrt(60)
        assert gap.mean() < 0.1
    assert result.summary()["gap"] == pytest.approx(below.mean() + above.mean())
    few = bidirectional(Subject(model, parameters, Table(X), key=KEY), rows=60, chains=2, temperatures=4, leapfrogs=4)
    assert few.summary()["gap"] > 10 * result.summary()["gap"]
    assert few.lower.mean() < exact.mean() < few.upper.mean()


def drawn_weights():
    return models.Bayes(D, n, posterior="diagonal", observation="gaussian", hidden=(), n_rows=B, dtype="float64"), {}


def drawn_function():
    settings = {"latent": (1,), "unsupervised": True, "inducing": 3, "bound": "sampled", "observation": "bernoulli"}
    fitted = gvae.DeepGP(**settings, epochs=1, random_state=0).fit(X > 0)
    return fitted.model_, {"parameters": fitted.parameters_, "state": fitted.state_}


@pytest.mark.parametrize("make", [drawn_weights, drawn_function])
def test_bidirectional_bounds_are_refused_where_more_than_codes_is_drawn(make):
    """Weights or functions are drawn, too: codes alone are no draw of their posterior, and the bound is no upper one."""
    model, given = make()
    given = {"parameters": model.init(KEY), "state": {}} | given
    x = X if model.dtype == np.float64 and not given["state"] else (X > 0).astype(model.dtype)
    simulated = Subject(model, given["parameters"], Table(x), state=given["state"], key=KEY)
    with pytest.raises(ConfigError, match=r"bidirectional: \w+ draws x with noise other than that of its codes"):
        bidirectional(simulated, rows=B, chains=2, temperatures=3)


@pytest.mark.parametrize("variables", [2, 4])
def test_a_prior_whose_draws_take_other_noise_than_those_of_q(variables):
    """A mixture's component is a number more: the measures that start at the prior say that it is not normal noise."""
    model = models.VAE(D, variables, "diagonal", "gaussian", hidden=(3,), prior="mixture:3", dtype="float64")
    of_mixture = Subject(model, model.init(KEY), Table(X), key=KEY)
    assert model.noise(KEY, Table(X).batch(np.arange(B), KEY))["z"].shape[-1] == variables
    with pytest.raises(ConfigError, match="a layer's prior is a GaussianMixture, whose draws are not made of normal"):
        annealed_importance_sampling(of_mixture, start="prior", chains=2, temperatures=3)
    for start in (bidirectional, rate_distortion):
        with pytest.raises(ConfigError, match="a layer's prior is a GaussianMixture, whose draws are not made of normal"):
            start(of_mixture, chains=2, temperatures=3)


def test_a_stream_of_codes_that_cannot_be_drawn_in_turn():
    hvm = gvae.HVM(latent=2, hidden=(3,), steps=1, random_state=0).fit(X > 0)
    with pytest.raises(ConfigError, match=r"bits: HVM lacks what it needs, Distribution\.sample"):
        hvm.evaluate(X > 0, samples=2, measures="bits")


def test_the_rate_distortion_curve_is_the_formulas():
    """p_b(z) is Gaussian with precision I + b WᵀΨ⁻¹W: rate, distortion and the latter's variance in closed form. Each row
    within 5 standard errors, for chains worth two thirds of independent draws."""
    betas, chains = (0.2, 1.0, 4.0), 300
    result = rate_distortion(subject(), chains=chains, temperatures=90, leapfrogs=4, betas=betas)
    A = FA.W.T @ (FA.W / FA.psi[:, None])
    for p, b in enumerate(betas):
        C = np.linalg.inv(np.eye(n) + b * A)
        for i, x in enumerate(X):
            m = b * C @ FA.W.T @ ((x - FA.b) / FA.psi)
            residual = x - FA.b - FA.W @ m
            quadratic = (residual**2 / FA.psi).sum() + np.trace(A @ C)
            distortion = 0.5 * (D * math.log(2 * math.pi) + np.log(FA.psi).sum() + quadratic)
            slope = FA.W.T @ (residual / FA.psi)
            error = math.sqrt((0.5 * np.trace(A @ C @ A @ C) + slope @ C @ slope) / chains * 1.5)
            assert abs(result.distortion[p, i] - distortion) < 5 * error
            assert abs(result.rate[p, i] - ref.gaussian_kl(m, C)) < 5 * b * error + 0.3
    one = result.summary()["points"][1]
    assert one["beta"] == 1
    assert one["rate"] + one["distortion"] == pytest.approx(-LOG_P.mean(), abs=0.05)
    assert all(a["rate"] < b["rate"] for a, b in itertools.pairwise(result.summary()["points"]))
    assert all(a["distortion"] > b["distortion"] for a, b in itertools.pairwise(result.summary()["points"]))


# ---- codes


def posterior_means(x, shift=0.0):
    return np.array([FA.posterior_mean(row) + shift for row in x])


def test_active_units_and_their_kl():
    """Means of q and variances are known: activity, KL per unit, and, q being diagonal, its sum."""
    result = active_units(subject(batch_size=5))
    np.testing.assert_allclose(result.activity[0], posterior_means(X).var(axis=0, ddof=1), rtol=1e-10)
    variance = 1 / np.diag(FA.M)
    kl = 0.5 * (posterior_means(X) ** 2 + variance - 1 - np.log(variance)).mean(axis=0)
    np.testing.assert_allclose(result.kl[0], kl, rtol=1e-10)
    assert result.kl[0].sum() == pytest.approx(evaluate(*linear_gaussian(), Table(X), key=KEY).summary()["kl"])
    model, parameters = linear_gaussian()
    for k in (1, 3):  # collapsed units
        parameters["encoder.0.weight"][:, k] = 0
        parameters["encoder.0.bias"][[k, n + k]] = 0
    summary = active_units(Subject(model, parameters, Table(X))).summary()
    assert (summary["active"], summary["units"], summary["collapsed"]) == (2, 4, 0.5)
    np.testing.assert_allclose(np.array(summary["layers"][0]["kl"])[[1, 3]], 0, atol=1e-12)


@pytest.mark.parametrize("family", ["chain", "band:2", "ar1", "lowrank:1", "full"])
def test_units_whose_densities_are_in_different_orders(family):
    """A factor of the precision gives log q(z_j | z_later), a mixture log p(z_j | z_earlier)."""
    rng = np.random.default_rng(6)
    model = models.VAE(D, n, family, "gaussian", hidden=(5,), prior="mixture:3", dtype=np.float64)
    parameters = {k: v + 0.3 * rng.normal(size=v.shape) for k, v in model.init(KEY).items()}
    q = model.encoder(parameters, X)
    z = q.sample(q.noise(KEY, (7,)))
    terms = codes._terms_in_order(q, z)
    np.testing.assert_allclose(terms.sum(axis=-1), q.log_prob(z), rtol=1e-7, atol=1e-7)
    covariance, mean = q.covariance(), q.mean
    first = scipy.stats.norm.logpdf(z[..., 0], mean[:, 0], np.sqrt(covariance[:, 0, 0]))
    np.testing.assert_allclose(terms[..., 0], first, rtol=1e-7, atol=1e-7)
    weight = covariance[:, 1, 0] / covariance[:, 0, 0]
    spread = np.sqrt(covariance[:, 1, 1] - weight * covariance[:, 0, 1])
    second = scipy.stats.norm.logpdf(z[..., 1], mean[:, 1] + weight * (z[..., 0] - mean[:, 0]), spread)
    np.testing.assert_allclose(terms[..., 1], second, rtol=1e-7, atol=1e-7)
    result = evaluate(model, parameters, Table(X), samples=50, measures="units").measures["units"]
    assert result.kl[0].shape == (n,)
    swapped = models.VAE(D, n, "mixture:2", "gaussian", hidden=(5,), prior=family, dtype=np.float64)
    assert active_units(Subject(swapped, swapped.init(KEY), Table(X))).kl[0].shape == (n,)


def test_units_of_layers_that_are_inferred_upwards_add_up_to_their_share_of_the_bound():
    """p(z_1 | z_2) is at a draw of z_2 given z_1: KL(q(z_1 | x) || p(z_1 | z_2)) is not the layer's share of the bound."""
    model = models.Hierarchical(D, (n, 2), "diagonal", "gaussian", hidden=(5,), dtype=np.float64)
    rng = np.random.default_rng(6)
    parameters = {k: v + 0.1 * rng.normal(size=v.shape) for k, v in model.init(KEY).items()}
    subject = Subject(model, parameters, Table(X))
    batch = subject.table.batch(np.arange(len(X)), subject.key)
    terms = subject.terms(batch, model.noise(random.fold_in(subject.key, streams.CODES, 0), batch, 20))
    share = (np.asarray(terms.layers[0].log_q) - np.asarray(terms.layers[0].log_p)).mean()
    assert active_units(subject, samples=20).kl[0].sum() == pytest.approx(share, rel=1e-9)


def test_units_of_a_structured_posterior_and_of_binary_codes():
    """The marginals of a chain, from its dense covariance; of coins, whose KL to fair ones is log 2 - H."""
    model = models.VAE(D, n, "chain", "gaussian", hidden=(5,), prior="diagonal", dtype=np.float64)
    parameters = {k: v + 0.3 * rng.normal(size=v.shape) for k, v in model.init(KEY).items()}
    result = active_units(Subject(model, parameters, Table(X)))
    q = model.encoder(parameters, X)
    p = model.prior(parameters["prior.raw"])
    variance = np.diagonal(q.covariance(), axis1=-2, axis2=-1)
    expected = [
        [
            ref.gaussian_kl(
                q.mean[b, j : j + 1],
                variance[b, j].reshape(1, 1),
                p.mean[j : j + 1],
                np.exp(2 * p.log_scale[j : j + 1, None]),
            )
            for j in range(n)
        ]
        for b in range(B)
    ]
    np.testing.assert_allclose(result.kl[0], np.mean(expected, axis=0), rtol=1e-9)
    model = models.VAE(D, n, "bernoulli", "gaussian", hidden=(), dtype=np.float64)
    coins = Subject(model, model.init(KEY), Table(X))
    probability = model.encoder(model.init(KEY), X).mean
    exact = math.log(2) + (probability * np.log(probability) + (1 - probability) * np.log(1 - probability)).mean(axis=0)
    np.testing.assert_allclose(active_units(coins, samples=20_000).kl[0], exact, atol=0.02)


def test_surgery_against_the_dense_sum_and_its_limits():
    """log q(z) by the sum over all N components; I = 0 if all q are equal, log N if they do not overlap."""
    result = surgery(subject(batch_size=5))
    summary = result.summary()
    assert summary["marginal_kl"] + summary["mutual_information"] == pytest.approx(summary["kl"], rel=1e-12)
    assert summary["kl"] == pytest.approx(evaluate(*linear_gaussian(), Table(X), key=KEY).summary()["kl"], abs=0.5)
    model, parameters = linear_gaussian()
    codes = []
    for i, rows in enumerate(np.split(np.arange(B), [5, 10])):
        noise = random.normal(random.fold_in(KEY, 6, i), (1, len(rows), n), np.float64)[0]
        codes.append(model.encoder(parameters, X[rows]).sample(noise))
    z, C = np.concatenate(codes), np.diag(1 / np.diag(FA.M))
    dense = np.exp([[ref.gaussian_log_prob(code, m, C) for m in posterior_means(X)] for code in z])
    np.testing.assert_allclose(result.log_q_given_x, np.log(np.diag(dense)), rtol=1e-8)
    np.testing.assert_allclose(result.log_q, np.log(dense.mean(axis=1)), rtol=1e-8)

    equal = parameters | {"encoder.0.weight": np.zeros((D, 2 * n))}
    assert surgery(Subject(model, equal, Table(X))).summary()["mutual_information"] == pytest.approx(0, abs=1e-12)
    apart = parameters | {"encoder.0.weight": parameters["encoder.0.weight"] * 1e3}
    assert surgery(Subject(model, apart, Table(X))).summary()["mutual_information"] == pytest.approx(math.log(B), rel=1e-12)
    assert len(surgery(subject(), rows=7).log_q) == 7


def test_surgery_of_densities_beyond_the_range_of_exp():
    """500 units of standard deviation e^-3: log q(z|x) is about 800 at each draw, and e^800 is infinite."""
    model = models.VAE(2, 500, "diagonal", "gaussian", hidden=(), dtype=np.float64)
    parameters = model.init(KEY)
    parameters["encoder.0.weight"][:] = 0
    parameters["encoder.0.bias"][500:] = raw_of(-3.0)
    result = surgery(Subject(model, parameters, Table(X[:, :2].copy()), key=KEY))
    assert result.log_q_given_x.min() > 720
    np.testing.assert_allclose(result.log_q, result.log_q_given_x, rtol=1e-12)


def test_the_parts_of_the_kl_on_many_rows(monkeypatch):
    """3,000 rows in blocks: the sum of the parts is the closed-form KL within 4 standard errors, I is below log N."""
    from gvae.evaluation import mixtures

    monkeypatch.setattr(mixtures, "PAIRS", 50_000)
    x = FA.b + rng.normal(size=(3000, n)) @ FA.W.T + rng.normal(size=(3000, D)) * np.sqrt(FA.psi)
    result = surgery(subject(x=x, batch_size=700))
    closed = evaluate(*linear_gaussian(), Table(x), key=KEY, samples=1).summary()["kl"]
    each = result.log_q_given_x - result.log_p
    assert abs(each.mean() - closed) < 4 * each.std() / math.sqrt(3000)
    summary = result.summary()
    assert 0 < summary["mutual_information"] < summary["log_rows"] == math.log(3000)
    assert summary["marginal_kl"] > -3 * summary["marginal_kl_standard_error"]


def test_reconstruction_is_the_expected_error():
    """E |x - b - W z|² and E -log p(x|z) over q, in closed form, within 5 standard errors of 4,000 draws."""
    result = reconstruction(subject(), samples=4000)
    C = np.diag(1 / np.diag(FA.M))
    residual = X - FA.b - posterior_means(X) @ FA.W.T
    squared = ((residual**2).sum(axis=1) + np.trace(FA.W @ C @ FA.W.T)) / D
    np.testing.assert_allclose(result.squared_error, squared, rtol=0.1)
    assert result.squared_error.mean() == pytest.approx(squared.mean(), rel=0.02)
    quadratic = (residual**2 / FA.psi).sum(axis=1) + np.trace(FA.W.T @ (FA.W / FA.psi[:, None]) @ C)
    distortion = 0.5 * (D * math.log(2 * math.pi) + np.log(FA.psi).sum() + quadratic)
    assert result.distortion.mean() == pytest.approx(distortion.mean(), abs=0.05)
    np.testing.assert_allclose(result.rate, [ref.gaussian_kl(m, C) for m in posterior_means(X)], rtol=1e-9)
    no_views = subject()
    no_views.terms = lambda batch, noise: dataclasses.replace(Subject.terms(no_views, batch, noise), views={})
    with pytest.raises(ConfigError, match="reconstruction: the Terms of VAE have no `views`"):
        reconstruction(no_views)


# ---- gaps


def exact_elbo(mean, C, x):
    """E log p(x|z) - KL(N(mean, C) ‖ N(0, I))."""
    residual = x - FA.b - FA.W @ mean
    quadratic = (residual**2 / FA.psi).sum() + np.trace(FA.W.T @ (FA.W / FA.psi[:, None]) @ C)
    return -0.5 * (D * math.log(2 * math.pi) + np.log(FA.psi).sum() + quadratic) - ref.gaussian_kl(mean, C)


def test_the_gaps_are_the_formulas():
    """An encoder that is off: the best diagonal q is found, its gap is 1/2 (sum log M_ii - log |M|) for every x, and the
    amortization gap is the difference of two ELBOs in closed form."""
    result = inference_gaps(subject(log_scale=-0.5, shift=0.4), samples=4000)
    best = np.array([exact_elbo(FA.posterior_mean(x), np.diag(1 / np.diag(FA.M)), x) for x in X])
    np.testing.assert_allclose(LOG_P - best, FA.diagonal_gap(), rtol=1e-9)
    C = np.diag(np.exp(-1.0) / np.diag(FA.M))
    encoder = np.array([exact_elbo(FA.posterior_mean(x) + 0.4, C, x) for x in X])
    raw = result.raw["encoder.raw"]
    found = [
        exact_elbo(r[:n], np.diag(np.exp(2 * LOG_SCALE * np.tanh(r[n:] / LOG_SCALE))), x)
        for r, x in zip(raw, X, strict=True)
    ]
    assert (best - found).max() < 0.02  # 3.2 at the start
    np.testing.assert_allclose(result.approximation, FA.diagonal_gap(), atol=0.2)
    assert result.approximation.mean() == pytest.approx(FA.diagonal_gap(), abs=0.05)
    np.testing.assert_allclose(result.amortization, best - encoder, rtol=0.2, atol=0.2)
    assert result.amortization.mean() == pytest.approx((best - encoder).mean(), rel=0.02)


def test_the_best_encoder_has_no_amortization_gap_and_the_full_family_no_other():
    best = inference_gaps(subject(), samples=500, steps=100)
    assert abs(best.summary()["amortization_gap"]) < 0.02
    model = models.VAE(D, n, "full", "gaussian", hidden=(), dtype=np.float64)
    _, start = linear_gaussian(shift=0.2)
    more = model.posterior.n_params - 2 * n  # entries below the diagonal, all zero
    start["encoder.0.weight"] = np.concatenate([start["encoder.0.weight"], np.zeros((D, more))], axis=1)
    start["encoder.0.bias"] = np.r_[start["encoder.0.bias"], np.zeros(more)]
    full = inference_gaps(Subject(model, start, Table(X), key=KEY), samples=500)
    assert full.summary()["approximation_gap"] < 0.02
    assert full.summary()["amortization_gap"] > FA.diagonal_gap() + 0.1
    np.testing.assert_allclose(full.log_likelihood, LOG_P, atol=0.05)


def test_gaps_refuse():
    class NoNumbers(models.VAE):
        raw = property()

    model = NoNumbers(D, n, "diagonal", "gaussian", hidden=(), dtype=np.float64)
    with pytest.raises(ConfigError, match="inference_gaps: NoNumbers has no method `raw`, see gvae"):
        inference_gaps(Subject(model, linear_gaussian()[1], Table(X)))
    with pytest.raises(ConfigError, match="learning_rate is 0"):
        inference_gaps(subject(), learning_rate=0)


def test_raw_numbers_in_the_parameters_stand_for_the_encoder():
    """... for a family with shared numbers too, and draws, densities and KL are the same."""
    for posterior in ("gaussian", "chain"):
        model = models.VAE(D, n, posterior, "gaussian", hidden=(3,), dtype=np.float64)
        parameters = {k: v + 0.1 for k, v in model.init(KEY).items()}
        batch = Table(X).batch(np.arange(B), KEY)
        noise = model.noise(KEY, batch, 2)
        expected = model.terms(parameters, {}, batch, noise)
        got = model.terms(parameters | model.raw(parameters, {}, batch), {}, batch, noise)
        np.testing.assert_allclose(got.total_log_likelihood, expected.total_log_likelihood, rtol=1e-12)
        np.testing.assert_allclose(got.layers[0].kl, expected.layers[0].kl, rtol=1e-12)


# ---- several layers, many samples, and names


class TwoLayers:
    """z2 ~ N(0, I), z1 | z2 ~ N(A z2, S), x | z1 ~ N(W z1 + b, Psi), all linear, so that log p(x) is a Gaussian's; q(z1|x)
    and q(z2|z1) are diagonal and poor."""

    def __init__(self):
        self.q1 = Conditional("encoder1", D, Diagonal(n))
        self.q2 = Conditional("encoder2", n, Diagonal(2))
        self.p1 = Conditional("decoder1", 2, Diagonal(n))
        self.px = Conditional("decoder0", n, Gaussian(D))
        r = np.random.default_rng(3)
        self.A, self.S = r.normal(size=(n, 2)), r.uniform(0.3, 1, n)

    def init(self, key):
        parts = (self.q1, self.q2, self.p1, self.px)
        params = {k: v for i, p in enumerate(parts) for k, v in p.init(random.fold_in(key, i), np.float64).items()}
        params["decoder1.0.weight"] = np.concatenate([self.A.T, np.zeros((2, n))], axis=1)
        params["decoder1.0.bias"] = np.r_[np.zeros(n), raw_of(0.5 * np.log(self.S))]
        one_layer = linear_gaussian(log_scale=-0.2, shift=0.3)[1]
        return params | {k.replace("decoder", "decoder0").replace("encoder", "encoder1"): v for k, v in one_layer.items()}

    def exact(self, x):
        covariance = FA.W @ (self.A @ self.A.T + np.diag(self.S)) @ FA.W.T + np.diag(FA.psi)
        return ref.gaussian_log_prob(x, FA.b, covariance)

    def noise(self, key, batch, samples=1):
        sizes = {"z1": n, "z2": 2}
        return {z: random.normal(random.fold_in(key, k), (samples, len(batch), k), np.float64) for z, k in sizes.items()}

    def terms(self, params, state, batch, noise, step=0):
        q1 = self.q1(params, batch.x)
        z1 = q1.sample(noise["z1"])
        q2 = self.q2(params, z1)
        z2 = q2.sample(noise["z2"])
        layers = [Layer(q1, self.p1(params, z2), z1, noise["z1"]), Layer(q2, None, z2, noise["z2"])]
        return Terms({"x": self.px(params, z1).log_prob(batch.x)}, layers)

    def generate(self, params, state, noise):
        top = DiagonalGaussian(np.zeros(2), np.zeros(2))
        z2 = top.sample(noise["z2"])
        p1 = self.p1(params, z2)
        z1 = p1.sample(noise["z1"])
        layers = [Layer(p1, p1, z1, noise["z1"]), Layer(top, top, z2, noise["z2"])]
        return Terms({}, layers, views={"x": self.px(params, z1)})


def test_two_layers_are_annealed_in_the_space_of_their_noise():
    """From a poor q and from the prior, log p(x) within bias + 3.5 standard errors; bounds close in on simulated rows."""
    model = TwoLayers()
    two = Subject(model, model.init(KEY), Table(X), key=KEY)
    exact = np.array([model.exact(x) for x in X])
    for start in ("posterior", "prior"):
        result = annealed_importance_sampling(two, start=start, chains=100, temperatures=100, leapfrogs=4)
        error = result.standard_error
        assert (np.abs(result.log_likelihood - exact) < error**2 / 2 + 3.5 * error).all()
        assert np.median(error) < 0.3
    sides = bidirectional(two, rows=40, chains=20, temperatures=150, leapfrogs=4).summary()
    assert -3 * sides["gap_standard_error"] < sides["gap"] < 0.3
    assert importance_sampling(two, samples=50).log_likelihood.mean() < exact.mean() - 0.2  # q is poor indeed
    units = active_units(two).summary()
    assert [layer["units"] for layer in units["layers"]] == [n, 2]
    with pytest.raises(ConfigError, match="surgery: a layer's q depends on other draws than its own"):
        surgery(two)


def test_the_first_batch_to_be_evaluated_does_not_decide_bits():
    """Sums of draws depend on how many are decoded at once: for each batch, not for the one that a thread comes to first."""
    of = subject(log_scale=0.1, batch_size=8)
    batches = list(enumerate(of.table.batches(random.key(9), 8)))  # of 8 and of 4 rows
    found = []
    for order in (1, -1):
        sampler = importance.Sampler(of, 2000, None, streams.IMPORTANCE)
        found.append([sampler(i, batch) for i, batch in batches[::order]][::order])
    for a, b in zip(*found, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)


def test_a_hundred_thousand_samples_in_a_fixed_memory():
    """The peak is that of a hundredth of the samples, but for the tail that k̂ needs, 3 sqrt(K) weights a row, and copies."""
    peaks = []
    importance_sampling(subject(log_scale=0.1), samples=1000, memory=1)  # compiles
    for samples in (1000, 100_000):
        tracemalloc.start()
        result = importance_sampling(subject(log_scale=0.1), samples=samples, memory=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 16 * 8 * 3 * math.sqrt(100_000) * len(X)
    assert (np.abs(result.log_likelihood - LOG_P) < 4 * result.standard_error).all()
    assert result.standard_error.max() < 0.01


def test_a_model_without_noise_in_a_fixed_memory_and_columns_given_away():
    model = models.Density(4)
    bits = Subject(model, model.init(KEY), Table((random.uniform(KEY, (20, 4)) < 0.3).astype(np.float32)))
    given = []
    result = importance_sampling(bits, memory=50.0, into=lambda columns: given.append(columns["elbo"]))
    np.testing.assert_array_equal(np.concatenate(given), importance_sampling(bits).elbo)
    summary = result.summary()
    assert summary["rows"] == 0
    assert math.isnan(summary["log_likelihood"])
    assert summary["pareto_k"] is None


def test_measures_by_name():
    quick = {"samples": 5, "first": 3, "chains": 2, "temperatures": 3, "key": KEY}
    model, parameters = linear_gaussian()
    result = evaluate(model, parameters, Table(X), measures=["curve", "units"], **quick)
    assert list(result.measures) == ["units", "curve"]
    assert result.measures["curve"].rate.shape == (7, 3)
    assert list(MEASURES)[:5] == ["units", "surgery", "reconstruction", "information", "gibbs"]  # cheap ones first
    assert result.summary()["units"]["units"] == n
    assert "active units: 4 of 4, 0% collapsed\n" in table(result)
    assert list(evaluate(model, parameters, Table(X), measures="units", **quick).measures) == ["units"]
    with pytest.raises(ConfigError, match=r"unknown measure 'nope'; known are units, surgery, .*, all"):
        evaluate(model, parameters, Table(X), measures=["nope"], **quick)

    class Silent(TwoLayers):
        def terms(self, *arguments):
            raise AssertionError("nothing is computed before all methods are found")

    model = Silent()
    with pytest.raises(ConfigError, match="gaps: Silent has no method `raw`"):
        evaluate(model, model.init(KEY), Table(X), measures=["gaps"], **quick)
    layers = TwoLayers()
    found = evaluate(layers, layers.init(KEY), Table(X), measures="all", **quick)  # those that the model has
    assert "units" in found.measures
    assert "gaps" not in found.measures
    assert found.left_out == found.summary()["left_out"]
    assert list(found.left_out) == ["surgery", "reconstruction", "information", "gibbs"]
    reason = "surgery: a layer's q depends on other draws than its own; expected q(z|x) for each layer"
    assert f"\nmeasures that the model does not have\n  {reason}" in table(found)
    with pytest.raises(ConfigError, match=reason.partition(";")[0]):  # by name it is an error
        evaluate(layers, layers.init(KEY), Table(X), measures=["all", "surgery"], **quick)


def test_the_table_warns_of_rows_that_cannot_be_trusted():
    narrow = evaluate(*linear_gaussian(log_scale=-0.8), Table(X), samples=2000, key=KEY)
    assert "warning: for 100.0% of rows a few weights decide" in table(narrow)
    assert "warning" not in table(evaluate(*linear_gaussian(log_scale=0.3), Table(X), samples=2000, key=KEY))


@pytest.mark.parametrize("posterior", ["chain", "grid:2x2", "ar1", "lowrank:2", "full", "gaussian", "bernoulli"])
def test_every_family_has_all_measures_that_apply(posterior):
    """In float32; binary codes have no path to anneal along."""
    model = models.VAE(D, n, posterior, "gaussian", hidden=(5,), dtype=np.float32)
    rows = Subject(model, model.init(KEY), Table(X.astype(np.float32)), key=KEY)
    few = {"chains": 2, "temperatures": 3, "leapfrogs": 2, "rows": 3}
    settings = {"ais": few, "bdmc": few, "curve": few, "gaps": {"rows": 3, "samples": 5, "steps": 3}}
    for name, measure in MEASURES.items():
        if measure.of not in (None, "x") or measure.asked:  # test_vib.py, test_cca.py; test_coder.py, test_completion.py
            continue
        if posterior == "bernoulli" and settings.get(name) is few:
            with pytest.raises(ConfigError, match="is a BernoulliDistribution, whose draws are not made of normal noise"):
                measure.run(rows, **few)
        else:
            summary = measure.run(rows, **settings.get(name, {})).summary()
            assert all(math.isfinite(x) for x in leaves(summary) if x is not None and not isinstance(x, str))


def leaves(structure):
    if isinstance(structure, dict | list):
        for part in structure.values() if isinstance(structure, dict) else structure:
            yield from leaves(part)
    else:
        yield structure
