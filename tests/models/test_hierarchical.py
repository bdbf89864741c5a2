"""Several stochastic layers: a linear-Gaussian oracle, the one-layer limit, any family in each layer, every estimator."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gvae
from gvae import families, models, objectives, ops, random
from gvae.data import Table
from gvae.errors import ConfigError
from gvae.evaluation import evaluate
from gvae.objectives import ELBO, GRADIENTS, ImportanceWeighted
from gvae.training import Trainer, train

N_DATA = 12


def binary(rows=200, seed=0):
    r = np.random.default_rng(seed)
    prototypes = r.integers(0, 2, size=(3, N_DATA))
    return (prototypes[r.integers(0, 3, rows)] ^ (r.uniform(size=(rows, N_DATA)) < 0.05)).astype(np.float64)


def small(**settings):
    return models.Hierarchical(N_DATA, (6, 3), hidden=((16,), (8,)), activation="tanh", dtype=np.float64, **settings)


def linear(seed=0):
    """Two layers without hidden units and all scales 1: x = W1 z1 + e, z1 = W2 z2 + e; log p(x) in closed form."""
    model = models.Hierarchical(4, (3, 2), observation="gaussian", hidden=(), dtype=np.float64)
    params = model.init(random.key(seed))
    for name in params:
        params[name] = params[name] * 0.5
        if "decoder1" in name:  # no hidden layer: the last 3 columns are the log-scales
            params[name][..., 3:] = 0
    W1, W2 = params["decoder0.0.weight"].T, params["decoder1.0.weight"][:, :3].T
    return model, params, W1 @ (W2 @ W2.T + np.eye(3)) @ W1.T + np.eye(4)


def test_the_linear_oracle():
    """IWAE's estimate of log p(x) from 200,000 draws is exact within 4 of its standard errors. The ELBO lies below, and does
    not take KL(q1 ‖ p1), which has a closed form, for a part of the bound: it agrees with estimator A."""
    model, params, covariance = linear()
    x = np.random.default_rng(1).multivariate_normal(np.zeros(4), covariance, size=3)
    result = evaluate(model, params, Table(x), samples=200_000)
    exact = -0.5 * (4 * math.log(2 * math.pi) + np.linalg.slogdet(covariance)[1])
    exact = exact - 0.5 * np.einsum("bi,ij,bj->b", x, np.linalg.inv(covariance), x)
    error = 1 / np.sqrt(result.effective_sample_size)
    assert (np.abs(result.log_likelihood - exact) < 4 * error).all()
    assert (error < 0.1).all()
    assert (result.elbo < exact).all()
    batch = Table(x).batch(np.arange(3), random.key(0))
    terms = model.terms(params, {}, batch, model.noise(random.key(5), batch, 200_000))
    auto, sampled = ELBO()(terms)[0], ELBO("A")(terms)[0]
    assert auto == pytest.approx(sampled, abs=0.02)
    wrong = terms.layers[0].q.kl(terms.layers[0].p).mean() + terms.layers[1].kl.mean()
    assert abs(terms.total_log_likelihood.mean() - wrong - sampled) > 0.1
    with pytest.raises(ConfigError, match=r"elbo_b: KL\(DiagonalGaussian ‖ DiagonalGaussian\) is coupled to another layer"):
        ELBO("B")(terms)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_second_layer_that_says_nothing_is_one_layer(gradient):
    """With q(z2|z1) = p(z2), and p(z1|z2) the standard normal whatever z2, bound and gradients are the one-layer model's."""
    two, one = small(), models.VAE(N_DATA, 6, "diagonal", hidden=(16,), activation="tanh", dtype=np.float64)
    params = two.init(random.key(1))
    for name in params:
        if "2" in name.partition(".")[0] or name.startswith("decoder1"):
            params[name] = np.zeros_like(params[name])
    same = {"encoder1": "encoder", "decoder0": "decoder"}
    single = {same[n.partition(".")[0]] + n[8:]: v for n, v in params.items() if n.partition(".")[0] in same}
    batch = Table(binary()).batch(np.arange(20), random.key(0))
    noise = two.noise(random.key(2), batch, 4)
    trainers = []
    for model, start, drawn in ((two, params, noise), (one, single, {"z": noise["z1"]})):
        trainer = Trainer(model, objective=ImportanceWeighted(gradient=gradient), samples=4, parameters=start)
        model.noise = lambda key, batch, samples, drawn=drawn: drawn
        trainers.append((trainer.step(batch), trainer.gradient))
    (metrics, gradients), (metrics_, gradients_) = trainers
    assert metrics["bound"] == pytest.approx(metrics_["bound"], rel=1e-12)
    for name in gradients:
        if name.partition(".")[0] in same:
            expected = gradients_[same[name.partition(".")[0]] + name[8:]]
            np.testing.assert_allclose(gradients[name], expected, rtol=1e-9, atol=1e-12)


STRUCTURED = ["diagonal", "chain", "band:2", "ar1", "lowrank:1", "full"]


@pytest.mark.parametrize("family", STRUCTURED)
def test_any_family_in_each_layer_trains(family):
    model = small(posterior=family, between=family, prior="diagonal")
    table = Table(binary())
    trainer = Trainer(model, objective=objectives.parse("iwae", gradient="dreg"), samples=3, learning_rate=1e-2, seed=2)
    before = trainer.validate(table)["bound"]
    train(model, table, epochs=15, batch_size=50, trainer=trainer)
    assert trainer.validate(table)["bound"] > before + 1.5
    assert any(known.verified for known in trainer.programs.known.values())


def test_structure_in_one_layer_alone():
    model = small(posterior=["extended_grid:2x3", "diagonal"], between=["chain"])
    assert [str(f) for f in model.posteriors] == ["extended_grid:2x3", "diagonal"]
    assert isinstance(model.decoders[1].family, families.Cholesky)
    batch = Table(binary()).batch(np.arange(5), random.key(0))
    terms = model.terms(model.init(random.key(0)), {}, batch, model.noise(random.key(1), batch, 2))
    assert terms.inference == ("encoder1", "encoder2")
    assert ops.log_mean_exp(terms.total_log_likelihood).shape == (5,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent": ()}, r"latent is \(\), expected a whole number of at least 1, or one for each layer"),
        ({"latent": (6,)}, "hidden has 2 entries, expected one for each of 1"),
        ({"posterior": ["chain"] * 3}, "posterior has 3 entries, expected one for each of 2"),
        ({"between": ["chain", "chain"]}, "between has 2 entries, expected one for each of 1"),
        ({"posterior": "grid:2x2"}, "grid:2x2 has 2 x 2 = 4 variables, expected 6"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(ConfigError, match=message):
        models.Hierarchical(N_DATA, **{"latent": (6, 3), "hidden": ((16,), (8,))} | settings)


def test_draws_from_the_model_have_its_covariance():
    """x of the linear model, 100,000 draws: W1 (W2 W2' + I) W1' + I within 5 standard errors."""
    model, params, covariance = linear()
    n = 100_000
    batch = Table(np.zeros((1, 4))).batch(np.zeros(1, int), random.key(0))
    terms = model.generate(params, {}, model.noise(random.key(3), batch, n))
    view = terms.views["x"]
    x = view.sample(view.noise(random.key(4)))[:, 0]
    spread = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / n)
    assert (np.abs(np.cov(x.T) - covariance) < 5 * spread).all()
    assert [layer.z.shape for layer in terms.layers] == [(n, 1, 3), (n, 1, 2)]
    W2 = params["decoder1.0.weight"][:, :3].T
    of_z = W2 @ W2.T + np.eye(3)
    spread = np.sqrt((np.outer(np.diag(of_z), np.diag(of_z)) + of_z**2) / n)
    assert (np.abs(np.cov(model.sample_prior(params, random.key(5), n)["z1"].T) - of_z) < 5 * spread).all()


def test_by_name(tmp_path):
    settings = {"latent": (5, 3), "posterior": "diagonal", "hidden": (16,), "prior": "mixture:2"}
    x = binary()
    training = {"objective": "iwae", "samples": 4, "gradient": "dreg", "epochs": 40, "batch_size": 50, "learning_rate": 1e-2}
    model = gvae.HierarchicalVAE(**settings, **training, random_state=0).fit(x)
    assert model.history_[-1]["train_bound"] > model.history_[0]["train_bound"] + 1.5
    assert [encoder.network.sizes for encoder in model.model_.encoders] == [(12, 16, 10), (5, 16, 6)]
    assert model.transform(x[:7]).shape == (7, 5)
    assert model.reconstruct(x[:7]).shape == model.sample(7).shape == (7, 12)
    model.save(tmp_path / "saved")
    again = gvae.load(tmp_path / "saved")
    assert again.get_params()["latent"] == (5, 3)
    np.testing.assert_array_equal(again.score_samples(x[:5]), model.score_samples(x[:5]))
    assert models.Hierarchical(4, 3, "chain", hidden=(5,)).has_closed_kl
    alone = models.Hierarchical(4, (3, 2), ["chain"], hidden=(5,))  # a list of one, as from the shell, is for all layers
    assert [str(family) for family in alone.posteriors] == ["chain", "chain"]
    assert not model.model_.has_closed_kl
    for wrong in ((), (5, 0), (5, "x"), [5, True]):
        with pytest.raises(ConfigError, match="latent is"):
            gvae.HierarchicalVAE(latent=wrong).fit(x)
