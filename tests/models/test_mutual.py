"""Mutual autoencoders: the information of a linear-Gaussian model, what moves what, and the score function."""

import numpy as np
import pytest
from gradcheck import check_vjp
from numpy.testing import assert_allclose, assert_array_equal

import gvae
from gvae import data, models, objectives, random, training
from gvae.autodiff import gradient, stop_gradient, value_and_gradient
from gvae.data import Batch
from gvae.errors import ConfigError
from gvae.models.dreams import dream
from gvae.objectives import score
from gvae.ops import arrays

rng = np.random.default_rng(0)
N, D = 20, 5
BITS = (rng.random((N, D)) < 0.4).astype(np.float64)
BATCH = Batch({"x": BITS}, np.arange(N))


def mutual(latent=2, **settings):
    given = {"hidden": (6,), "posterior": "diagonal", "observation": "bernoulli"}
    return models.Mutual(D, latent, **given | settings, dtype="float64")


def at(model, samples=3, batch=BATCH):
    noise = model.noise(random.key(1), batch, samples) | model.masks(random.key(2), batch, samples)
    return model.init(random.key(0)), noise


def test_without_a_price_it_is_a_vae():
    model, vae = mutual(weight=0.0), models.VAE(D, 2, "diagonal", "bernoulli", (6,), dtype="float64")
    params, noise = at(model)
    value, slope = value_and_gradient(lambda p: objectives.ELBO()(model.terms(p, {}, BATCH, noise, 0))[0]["*"], params)
    own = {name: params[name] for name in vae.init(random.key(0))}
    other, its = value_and_gradient(lambda p: objectives.ELBO()(vae.terms(p, {}, BATCH, noise, 0))[0], own)
    assert_allclose(value, other, rtol=1e-12)
    for name, expected in its.items():
        assert_allclose(slope[name], expected, rtol=1e-12, atol=1e-15)


def test_scored_as_a_vae():
    model = mutual()
    params, noise = at(model)
    terms = model.terms(params, {}, BATCH, noise)
    assert terms.penalty is None
    assert terms.auxiliary == terms.figures == {}


@pytest.mark.parametrize("observation", ["bernoulli", "gaussian", "bernoulli:straight_through"])
@pytest.mark.parametrize("prior", [None, "ar1"])
def test_what_moves_what(observation, prior):
    """The penalty moves the model, and neither recogniser nor encoder; the recogniser's own part moves it alone."""
    model = mutual(observation=observation, prior=prior)
    params, noise = at(model)

    def groups(f):
        return {name.partition(".")[0] for name, slope in gradient(f, params).items() if np.abs(slope).max() > 0}

    assert groups(lambda p: model.terms(p, {}, BATCH, noise, 0).penalty) == {"decoder"} | ({"prior"} if prior else set())
    assert groups(lambda p: model.terms(p, {}, BATCH, noise, 0).auxiliary["recogniser"]) == {"recogniser"}


@pytest.mark.parametrize("nats", [0.5, 1.0, 2.0])
def test_the_information_of_the_model(nats):
    """Data of a model x = z + s e of one nat; the information of the trained model, by its weights, is what was asked."""
    s = (np.exp(2) - 1) ** -0.5
    x = rng.normal(size=(2000, 1)) + s * rng.normal(size=(2000, 1))
    settings = {"posterior": "diagonal", "observation": "gaussian", "hidden": (), "samples": 4, "batch_size": 200}
    settings |= {"epochs": 100, "learning_rate": 2e-2, "schedule": "cosine", "standardize": False, "dtype": "float64"}
    model = gvae.MutualAutoencoder(latent=1, nats=nats, random_state=0, **settings).fit(x)
    p = model.model_.decode(model.parameters_, {}, {"z": np.array([[0.0], [1.0]])})["x"]
    weight, variance = p.mean[1, 0] - p.mean[0, 0], p.variance().item()
    assert_allclose(0.5 * np.log(1 + weight**2 / variance), nats, atol=0.05)
    assert_allclose(model.history_[-1]["train_information"], nats, atol=0.1)


def test_the_score_function():
    """Of bits: the derivative of E log r in the decoder's parameters, against the sum over all x for many z."""
    model = mutual(1, weight=1.0, nats=0.0, observation="bernoulli")
    small = Batch({"x": BITS[:1]}, np.arange(1))
    params = model.init(random.key(0))
    params = {name: value + 0.5 * rng.normal(size=value.shape) for name, value in params.items()}
    codes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    every = np.array([[(i >> j) & 1 for j in range(D)] for i in range(2**D)], float)

    def exact(p):
        z = codes[:, None]
        log_p = model.decode(p, {}, {"z": z})["x"].log_prob(every[:, None])  # (x, z)
        log_r = np.stack([model.recogniser(params, every).log_prob(np.full((2**D, 1), c)) for c in codes], axis=1)
        from gvae.ops import arrays, elementwise

        return arrays.sum(elementwise.multiply(elementwise.exp(log_p), weights * log_r))

    expected = gradient(exact, params)
    sign = np.sign(exact(params) + model.prior_of(params).entropy())  # of I - 0
    found = []
    for i in range(40):
        masks = model.masks(random.key(10 + i), small, 2000)
        noise = model.noise(random.key(1), small, 1) | masks
        noise["z"] = model.noise(random.key(1), small, 2000)["z"]
        found.append(gradient(lambda p, noise=noise: model.terms(p, {}, small, noise, 0).penalty, params))
    for name in ("decoder.0.weight", "decoder.1.weight", "decoder.1.bias"):
        each = sign * np.stack([slope[name] for slope in found])
        error = each.std(axis=0, ddof=1) / len(found) ** 0.5
        assert (np.abs(each.mean(axis=0) - expected[name]) < 4.5 * error).all(), name
        assert np.abs(expected[name]).max() > 4.5 * error.max(), name  # it is no comparison of zeros


def moved(model):
    own = np.random.default_rng(1)
    return {name: value + 0.3 * own.normal(size=value.shape) for name, value in model.init(random.key(0)).items()}


@pytest.mark.parametrize("group", ["prior", "decoder"])
def test_the_derivative_of_the_penalty(group):
    """By differences: of log r and of the prior's entropy, along the path of dreams (z, x)."""
    model = mutual(observation="gaussian", prior="ar1")
    params, (_, noise) = moved(model), at(model)
    names = [name for name in params if name.startswith(f"{group}.")]

    def penalty(*values):
        return model.terms(params | dict(zip(names, values, strict=True)), {}, BATCH, noise, 0).penalty

    check_vjp(penalty, [params[name] for name in names], np.random.default_rng(2))


def test_each_dream_has_masks_of_its_own():
    masks = mutual(dropout=0.5).masks(random.key(0), BATCH, 3)
    assert {name: u.shape for name, u in masks.items() if name.startswith("dropout.")} == {
        "dropout.encoder.0": (1, N, 6), "dropout.decoder.0": (3, N, 6), "dropout.recogniser.0": (3, N, 6)
    }  # fmt: skip


def test_a_dream_is_compared_with_the_others():
    """The score function has a far larger variance where the mean of the other dreams is not subtracted."""
    model = mutual(8, weight=1.0)
    params, (_, noise) = moved(model), at(model)

    def without(p, n):
        dreamed = dream(model, p, {}, n)
        log_r = stop_gradient(model.recogniser(p, dreamed.x["x"]).log_prob(dreamed.z["z"]))
        return arrays.mean(score.zero(log_r, dreamed.views["x"].log_prob(dreamed.x["x"])))

    def variance(f):
        drawn = [noise | model.masks(random.key(i), BATCH, 3) for i in range(50)]
        slopes = [gradient(lambda p, n=n: f(p, n), params)["decoder.1.bias"] for n in drawn]
        return np.var(slopes, axis=0).sum()

    assert variance(lambda p, n: model.terms(p, {}, BATCH, n, 0).penalty) < 0.2 * variance(without)


@pytest.mark.parametrize("alone", ["recogniser=2", None])
def test_trained(alone, tmp_path):
    settings = {"latent": 2, "hidden": (6,), "nats": 1.0, "alone": alone, "batch_size": 10, "random_state": 0}
    straight = gvae.MutualAutoencoder(**settings, epochs=4).fit(BITS)
    assert straight.history_[-1]["train_objective"] <= straight.history_[-1]["train_bound"]
    gvae.MutualAutoencoder(**settings, epochs=2).fit(BITS, run=tmp_path / "run")
    resumed = gvae.MutualAutoencoder(**settings, epochs=4).fit(BITS, run=tmp_path / "run", resume=True)
    assert resumed.parameters_.sha256() == straight.parameters_.sha256()
    assert_array_equal(gvae.load(tmp_path / "run").score_samples(BITS), straight.score_samples(BITS))


def test_captured():
    trainer = training.Trainer(mutual(), seed=1, alone={"recogniser": 2})
    training.train(trainer.model, data.Table(BITS), epochs=3, batch_size=10, trainer=trainer)
    by_python = training.Trainer(mutual(), seed=1, alone={"recogniser": 2}, programs=False)
    training.train(by_python.model, data.Table(BITS), epochs=3, batch_size=10, trainer=by_python)
    assert trainer.why_not == ""
    for programs in (trainer.programs, *trainer.programs_alone.values()):
        assert all(program.verified for program in programs.known.values())
    assert trainer.parameters.sha256() == by_python.parameters.sha256()


def test_held_out_rows_are_watched_by_what_training_ascends():
    """The bound less the penalty of the same dreams at every look, which are drawn from the model as steps' are."""
    model = mutual(nats=1.0, weight=5.0)
    trainer, table = training.Trainer(model, samples=4, seed=2), data.Table(BITS, dtype="float64")
    first, second = trainer.validate(table), trainer.validate(table)
    assert first == second
    assert first["objective"] == pytest.approx(first["bound"] - 5 * abs(first["information"] - 1.0))
    params, noise = at(model, 500)
    watched = model.watch(params, {}, BATCH, noise).figures["information"]
    assert_allclose(watched, model.terms(params, {}, BATCH, noise, 0).figures["information"], atol=0.03)


def test_refusals():
    for settings, said in (
        ({"nats": 50.0}, "nats is 50, expected at most 13.8"),
        ({"nats": -1.0}, "nats is -1"),
        ({"weight": -1.0}, "weight is -1"),
        ({"prior": "mixture:3"}, "no differential entropy in closed form"),
        ({"posterior": "bernoulli:taylor"}, "prior, BernoulliDistribution, has no differential entropy"),
        ({"posterior": "bernoulli", "prior": "bernoulli"}, "prior, BernoulliDistribution, has no differential entropy"),
        ({"posterior": "poisson"}, "prior, PoissonDistribution, has no differential entropy"),
        ({"posterior": "logit:diagonal"}, "prior, LogitNormal, has no differential entropy"),
    ):
        with pytest.raises(ConfigError, match=said):
            mutual(**settings)
    with pytest.raises(ConfigError, match=r"normalize is 'batch', expected None where draws of x .* bernoulli"):
        mutual(normalize="batch")
    mutual(normalize="batch", observation="gaussian")
    with pytest.raises(ConfigError, match="ELBO alone"):
        gvae.MutualAutoencoder(latent=2, hidden=(6,), objective="iwae", samples=2, epochs=1).fit(BITS)
    with pytest.raises(ConfigError, match="info: this model subtracts a penalty"):
        gvae.MutualAutoencoder(latent=2, hidden=(6,), objective="info:alpha=0,lambda=1", epochs=1).fit(BITS)
