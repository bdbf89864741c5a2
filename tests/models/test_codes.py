"""The base of models with independent codes: several codes are one joined code, with and without features that they share;
what encoders read in training; where outputs start."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import gvae
from gvae import families, models, nn, objectives, random, training
from gvae.data import Batch, Table
from gvae.errors import ConfigError, DataError
from gvae.families import Conditional
from gvae.models import corruption
from gvae.models.codes import Code, Codes
from gvae.models.corruption import Corruption
from gvae.objectives import GRADIENTS, ImportanceWeighted
from gvae.ops import arrays

rng = np.random.default_rng(0)
D, N = 8, 30
BITS = (rng.random((N, D)) < 0.4).astype(np.float64)


class Two(Codes):
    """Two diagonal codes of 2 and 1 variables, both of x, or both of the features of a tower's first level."""

    Settings = models.VAE.Settings

    def build(self, settings):
        diagonal, n = families.parse, D
        if settings.hidden:
            self.tower, n = nn.Tower("trunk", D, [settings.hidden], "tanh"), settings.hidden[-1]
        reads = 0 if settings.hidden else "x"
        self.coded = {
            f"z{i}": Code(Conditional(f"encoder{i}", n, diagonal("diagonal", size)), reads) for i, size in ((1, 2), (2, 1))
        }
        self.decoder = Conditional("decoder", 3, families.parse("bernoulli", D), (4,), "tanh")
        self.decoders = (self.decoder,)

    def decode(self, params, state, z, noise=None):
        return {"x": self.decoder(params, arrays.concatenate([z["z1"], z["z2"]], axis=-1))}


def both(hidden):
    """(two codes, their parameters), (one code, its parameters): the same distributions."""
    two, one = (
        Two(D, 3, hidden=hidden, dtype="float64"),
        models.VAE(D, 3, "diagonal", "bernoulli", hidden, "tanh", decoder_hidden=(4,), dtype="float64"),
    )
    params = {n: v + 0.3 * rng.normal(size=v.shape) for n, v in two.init(random.key(0)).items()}
    joined = {n: v for n, v in params.items() if n.startswith("decoder")}
    for kind in ("weight", "bias"):
        a, b = params[f"encoder1.0.{kind}"], params[f"encoder2.0.{kind}"]
        joined[f"encoder.{len(hidden)}.{kind}"] = np.concatenate([a[..., :2], b[..., :1], a[..., 2:], b[..., 1:]], axis=-1)
        for i in range(len(hidden)):
            joined[f"encoder.{i}.{kind}"] = params[f"trunk.0.{i}.{kind}"]
    return (two, params), (one, joined)


@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_two_codes_are_one_joined_code(gradient, hidden):
    """Value and every gradient, by each estimator of four draws: derivatives that take one way alone take it in each code,
    and in the features that codes share."""
    (two, params), (one, joined) = both(hidden)
    batch = Batch({"x": BITS}, np.arange(N))
    noise = two.noise(random.key(1), batch, 4)
    assert not (noise["z1"][..., :1] == noise["z2"]).any()
    together = {"z": np.concatenate([noise["z1"], noise["z2"]], axis=-1)}
    slopes, bounds = [], []
    for model, start, draws in ((two, params, noise), (one, joined, together)):
        trainer = training.Trainer(
            model, objective=ImportanceWeighted(gradient=gradient), samples=4, parameters=start, programs=False
        )
        model.noise = lambda key, batch, samples, draws=draws: draws
        bounds.append(trainer.step(batch)["bound"])
        slopes.append(trainer.gradient)
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-12)
    mine, its = slopes
    close = {"rtol": 1e-9, "atol": 1e-13}
    for kind in ("weight", "bias"):
        last = its[f"encoder.{len(hidden)}.{kind}"]
        assert_allclose(mine[f"encoder1.0.{kind}"], last[..., [0, 1, 3, 4]], **close)
        assert_allclose(mine[f"encoder2.0.{kind}"], last[..., [2, 5]], **close)
        for i in range(len(hidden)):
            assert_allclose(mine[f"trunk.0.{i}.{kind}"], its[f"encoder.{i}.{kind}"], **close)
            assert np.abs(mine[f"trunk.0.{i}.{kind}"]).max() > 1e-4
        for i in range(2):
            assert_allclose(mine[f"decoder.{i}.{kind}"], its[f"decoder.{i}.{kind}"], **close)


def test_a_tower_is_networks_one_after_another():
    tower = nn.Tower("trunk", 4, [(6, 5), (3,)], "tanh")
    params, x = tower.init(random.key(0), np.float64), rng.normal(size=(7, 4))
    first = np.tanh(np.tanh(x @ params["trunk.0.0.weight"]) @ params["trunk.0.1.weight"])  # biases start at 0
    second = np.tanh(first @ params["trunk.1.0.weight"])
    for found, expected in zip(tower(params, x), (first, second), strict=True):
        assert_allclose(found, expected, rtol=1e-13)
    with pytest.raises(ConfigError, match="unknown activation 'sine'"):
        nn.MLP("n", (2, 3), "tanh", "sine")


def test_a_column_that_is_not_there_is_named():
    (two, params), _ = both(())
    two.coded["z2"] = Code(two.coded["z2"].encoder, "y")
    batch = Batch({"x": BITS}, np.arange(N))
    assert list(two.code(params, {}, batch)) == ["z1"]  # what can be coded without it
    with pytest.raises(DataError, match="the model asks for column 'y'; the data has"):
        two.terms(params, {}, batch, two.noise(random.key(0), batch), 0)


# ---- what encoders read in training --------------------------------------------------------------


@pytest.mark.parametrize("kind", corruption.KINDS)
def test_corruption(kind):
    c = Corruption(kind, (0.5, 0.1), anneal=10)
    assert [c.level(step) for step in (0, 5, 10, 99)] == pytest.approx([0.5, 0.3, 0.1, 0.1])
    x = np.tile(BITS, (40, 1))
    noise = c.noise(random.key(0), (3, *x.shape), np.float64)
    seen = c(x, noise, 10)
    assert seen.shape == (3, *x.shape)
    if kind == "gaussian":
        assert_allclose(seen, x + 0.1 * noise, rtol=1e-14)
        return
    hit = seen != x
    assert_array_equal(seen[hit], 0 if kind == "masking" else 1 - np.broadcast_to(x, seen.shape)[hit])
    share = hit[:, x == 1].mean() if kind == "masking" else hit.mean()  # a zero that is masked stays what it is
    assert abs(share - 0.1) < 5 * np.sqrt(0.09 / hit.size * 3)


def test_encoders_read_what_the_step_makes_of_x():
    """The level is that of the step; rows that are scored are read as they are."""
    model = models.DLGM(
        D, (3,), "diagonal", hidden=(5,), corruption="gaussian", levels=(1.0, 0.0), anneal=4, dtype="float64"
    )
    batch, params = Batch({"x": BITS}, np.arange(N)), model.init(random.key(0))
    noise = model.noise(random.key(1), batch)
    for step, level in ((0, 1.0), (1, 0.75), (4, 0.0)):
        assert_allclose(model.read(params, batch, noise, step)["x"], BITS + level * noise["corruption"])
    assert model.read(params, batch, noise)["x"] is BITS


def test_corruption_has_noise_of_its_own_beside_several_codes():
    model = models.DLGM(D, (4, 3, 2), posterior="diagonal", hidden=(5,), corruption="gaussian", dtype="float64")
    noise = model.noise(random.key(5), Batch({"x": BITS}, np.arange(N)))
    drawn = [v.ravel()[:20] for v in noise.values()]
    assert list(noise) == ["z1", "z2", "z3", "corruption"]
    assert len({v.tobytes() for v in drawn}) == 4


# ---- where outputs start -------------------------------------------------------------------------


LOCATED = {
    "bernoulli": lambda d: d.mean,
    "gaussian": lambda d: d.mean,
    "diagonal": lambda d: d.mean,
    "chain": lambda d: d.mean,
    "lowrank:1": lambda d: d.mean,
    "shared:chain": lambda d: d.mean,
    "poisson": lambda d: d.mean,
    "negative_binomial": lambda d: d.mean,
    "zero_inflated": lambda d: d.mean,
    "zero_inflated:poisson": lambda d: d.mean,
    "beta": lambda d: d.mean,
    "gamma": lambda d: d.mean,
    "log_gamma": lambda d: d.mean,
    "logit:diagonal": lambda d: _median(d),
}


def _median(d):
    return d.sample(np.zeros(d.n))


@pytest.mark.parametrize("text", LOCATED)
def test_a_family_is_put_where_data_lie(text):
    family, mean = families.parse(text, 9), np.linspace(0.1, 0.9, 9)
    raw = family.start(random.key(0), np.float64)
    emitted, shared = np.split(raw, [family.n_params - family.n_shared])
    found = family(family.located(emitted, mean), shared if family.n_shared else None)
    assert_allclose(LOCATED[text](found), mean, rtol=1e-10)


@pytest.mark.parametrize("text", ["categorical:3", "continuous_bernoulli", "mixture:2"])
def test_a_family_without_such_numbers_says_so(text):
    with pytest.raises(ConfigError, match=f"output_bias 'data': {text} has no closed form"):
        families.parse(text, 9).located(np.zeros(9), np.full(9, 0.5))


def test_columns_that_never_vary_have_some_chance_left():
    bits = families.parse("bernoulli", 2).located(np.zeros(2), np.array([0.0, 1.0]))
    assert_allclose(bits, [np.log(1e-3 / 0.999), np.log(0.999 / 1e-3)])
    counts = families.parse("poisson", 2)
    assert_allclose(counts(counts.located(np.zeros(2), np.array([0.0, 1e9]))).mean, [1e-3, 1e6**0.9])


@pytest.mark.parametrize(
    "name", ["vae", "map", "bayes", "denoising", "autoencoder", "linear", "nlfa", "hierarchical", "dlgm", "vlae"]
)
def test_output_bias_of_every_model(name):
    """The bias is the log-odds of the training rows, weighted where rows have weights, before the first step; and steps
    follow from there."""
    weight = rng.random(N)
    bits = {} if name not in ("linear", "nlfa") else {"observation": "bernoulli"}
    latent = (3, 2) if name in ("hierarchical", "dlgm", "vlae") else 3
    given = {
        "latent": latent,
        "learning_rate": 1e-12,
        "epochs": 1,
        "random_state": 0,
        "dtype": "float64",
        "output_bias": "data",
    }
    model = gvae.estimators()[name](**given, **bits).fit(BITS, sample_weight=weight)
    share = np.clip(weight.astype(np.float64) @ BITS / weight.sum(), 1e-3, 0.999)
    emitter = model.model_.emitters["x"]
    (bias,) = emitter.located(model.parameters_, share)
    assert_allclose(model.parameters_[bias], np.log(share / (1 - share)), atol=1e-6)
    other = gvae.estimators()[name](**given | {"output_bias": "zero"}, **bits).fit(BITS, sample_weight=weight)
    assert_allclose(other.parameters_[bias], 0, atol=1e-9)


def test_preparing_is_done_once(tmp_path):
    """By `train`, before the first step: not again where a run is resumed, nor for parameters that the caller gives."""
    given = {"latent": 3, "hidden": (4,), "epochs": 2, "random_state": 0, "output_bias": "data", "batch_size": 10}
    straight = gvae.VAE(**given).fit(BITS, run=tmp_path / "straight")
    gvae.VAE(**given | {"epochs": 1}).fit(BITS, run=tmp_path / "parts")
    parts = gvae.VAE(**given).fit(BITS, run=tmp_path / "parts", resume=True)
    for name, value in straight.parameters_.items():
        assert_array_equal(value, parts.parameters_[name])
    model, table = straight.model_, Table(BITS.astype(np.float32))
    start = model.init(random.key(9))
    trainer = training.Trainer(model, parameters=start, learning_rate=1e-12)
    training.train(model, table, steps=1, trainer=trainer)
    assert_allclose(trainer.parameters["decoder.1.bias"], start["decoder.1.bias"], atol=1e-6)
    fresh = training.Trainer(model, learning_rate=1e-12, seed=4)
    training.train(model, table, steps=1, trainer=fresh)
    odds = fresh.parameters["decoder.1.bias"].copy()
    assert np.abs(odds).max() > 0.1
    training.train(
        model, Table(1 - BITS.astype(np.float32)), steps=1, trainer=fresh
    )  # other rows: nothing is learned of them
    assert_allclose(fresh.parameters["decoder.1.bias"], odds, atol=1e-6)


def test_the_mean_of_columns():
    sparse = pytest.importorskip("scipy.sparse").csr_matrix(BITS)
    weight = rng.random(N)
    for x in (BITS.astype(np.float32), sparse):
        assert_allclose(Table(x).mean("x"), BITS.mean(axis=0), rtol=1e-6)
        assert_allclose(Table(x, weight=weight).mean("x"), weight @ BITS / weight.sum(), rtol=1e-6)


# ---- models of y given x -------------------------------------------------------------------------


class Told(models.VIB):
    """A classifier whose codes have no price of their own."""

    def build(self, settings):
        super().build(settings)
        self.code_cost = None


def test_bounds_of_y_given_x():
    """p(z|x) is part of the model: weights are q(y|z), the bound of log p(y|x) has no KL. The ELBO pays it all the same."""
    model = Told({"x": D, "y": 2}, 2, hidden=(4,), dtype="float64")
    batch = Batch({"x": BITS, "y": np.arange(N) % 2}, np.arange(N))
    params = {n: v + 0.3 * rng.normal(size=v.shape) for n, v in model.init(random.key(0)).items()}
    terms = model.terms(params, {}, batch, model.noise(random.key(1), batch, 5), 0)
    told, kl = terms.total_log_likelihood, terms.layers[0].kl.mean()
    value, metrics = objectives.ELBO()(terms)
    assert (metrics["bound"], metrics["kl"]) == (pytest.approx(told.mean()), pytest.approx(kl))
    assert value == metrics["objective"] == pytest.approx(told.mean() - kl)
    assert kl > 0.01
    value, metrics = objectives.parse("iwae")(terms)
    assert value == metrics["bound"] == pytest.approx(np.log(np.exp(told).mean(axis=0)).mean())
    for gradient in ("stl", "dreg", "vimco", "rws"):
        with pytest.raises(ConfigError, match=rf"gradient '{gradient}': it is for weights p\(x, z\) / q\(z\|x\), and the"):
            objectives.parse("iwae", gradient=gradient)(terms)
    with pytest.raises(ConfigError, match="warmup 3: it is for weights"):
        objectives.ImportanceWeighted(warmup=3)(terms)
