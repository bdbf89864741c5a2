"""Steps of groups alone, and wake-sleep: who moves when, and the sleep phase by enumeration."""

import re

import numpy as np
import pytest
from numpy.testing import assert_allclose

import gvae
from gvae import data, models, objectives, optim, random, training
from gvae.autodiff import value_and_gradient
from gvae.data import Batch
from gvae.errors import ConfigError, NonFiniteError
from gvae.models.dreams import dream
from gvae.nn import Parameters
from gvae.objectives import REST
from gvae.training.inputs import ALONE, NOISE

rng = np.random.default_rng(0)
N, D = 40, 4
BITS = (rng.random((N, D)) < [0.2, 0.4, 0.6, 0.8]).astype(np.float64)


def trainer(**settings):
    model = models.VAE(D, 2, "diagonal", hidden=(5,), dtype="float64")
    return training.Trainer(model, seed=1, **settings)


def moved(before, after):
    return {name.partition(".")[0] for name in before if (before[name] != after[name]).any()}


def test_who_moves():
    """A group that steps alone moves n times before the others, and not with them."""
    seen = []

    class Watched(optim.Adam):
        def update(self, gradient, numbers=None, groups=None):
            before = {name: value.copy() for name, value in self.parameters.items()}
            super().update(gradient, numbers, groups)
            seen.append(moved(before, self.parameters))

    one = trainer(alone={"encoder": 3})
    one.optimizer = Watched(one.parameters)
    table = data.Table(BITS)
    for i in range(2):
        one.step(table.batch(np.arange(10 * i, 10 * i + 10), random.key(0)))
    assert seen == 2 * [{"encoder"}, {"encoder"}, {"encoder"}, {"decoder"}]


def test_a_step_alone_is_adam_of_its_own():
    """Separate steps are those of an Adam of its own, at the schedule's rates and with fresh noise in each; so are those of
    the others. A step that is skipped takes a number of the noise and the schedule, and none of Adam's."""
    schedule = optim.Cosine(10)
    one = trainer(alone={"encoder": 3}, schedule=schedule)
    batch = data.Table(BITS).batch(np.arange(10), random.key(0))
    parameters = Parameters({name: value.copy() for name, value in one.parameters.items()})
    adam = {group: optim.Adam(parameters) for group in ("encoder", "decoder")}

    def move(group, i, key):
        noise = one.noise(key, batch)

        def loss(p):
            return -objectives.ELBO()(one.model.terms(p, {}, batch, noise, i))[0]

        _, slope = value_and_gradient(loss, dict(parameters))
        adam[group].learning_rate = 1e-3 * schedule(i)
        adam[group].update(Parameters(slope), groups=(group,))

    for i in range(5):
        if i == 2:
            one.skip()
            continue
        for t in range(3):
            move("encoder", i, random.fold_in(one.key, ALONE, i, 0, t))
        move("decoder", i, random.fold_in(one.key, NOISE, i))
        one.step(batch)
        for name in parameters:
            assert_allclose(one.parameters[name], parameters[name], rtol=1e-9, atol=1e-12, err_msg=f"{name}, step {i}")


@pytest.mark.parametrize("broken", [0, 1, 3], ids=["first", "second", "of the others"])
def test_an_error_leaves_no_trace(broken):
    """After an error in a separate step or in that of the others nothing but the gradient has changed; the next step is then
    that of a trainer that has skipped this one."""

    class Drawn(training.Trainer):
        drawn = -100

        def noise(self, key, batch, masks=True):
            self.drawn += 1
            return {name: np.nan * z if self.drawn == broken else z for name, z in super().noise(key, batch).items()}

    table = data.Table(BITS)
    batches = [table.batch(np.arange(10 * i, 10 * i + 10), random.key(0)) for i in range(3)]
    one, other = (Drawn(trainer().model, seed=1, alone={"encoder": 3}) for _ in range(2))
    for each in (one, other):
        each.step(batches[0])
    before = {name: array.copy() for name, array in one.snapshot()[0].items()}
    one.drawn = -1
    with pytest.raises(NonFiniteError, match="the bound is not finite at step 1"):
        one.step(batches[1])
    assert not [name for name, array in one.snapshot()[0].items() if (array != before[name]).any()]
    for each in (one, other):
        each.skip()
        each.step(batches[2])
    assert one.parameters.sha256() == other.parameters.sha256()


@pytest.mark.parametrize(
    ("model", "group"),
    [
        (models.NonlinearFactorAnalysis(D, 2, hidden=(3,), row_steps=2, dtype="float64"), "decoder"),
        (models.DEF(D, latent=(3, 2), row_steps=2, n_rows=N, dtype="float64"), "weights0"),
    ],
    ids=["nlfa", "def"],
)
def test_parameters_of_rows(model, group):
    """A separate step is along the gradient at those of the batch's rows, and moves none."""
    one = training.Trainer(model, n_rows=N, alone={group: 1}, optimizer="sgd", learning_rate=1e-3)
    batch = data.Table(BITS).batch(np.arange(5, 15), random.key(0))
    for rows in one.rows.values():
        rows.values += 0.1 * rng.random(rows.values.shape)
    own = {name: rows.values[batch.index] for name, rows in one.rows.items()}
    before = {name: value.copy() for name, value in (dict(one.parameters) | own).items()}
    noise = one.noise(random.fold_in(one.key, ALONE, 0, 0, 0), batch)
    _, slope = value_and_gradient(lambda p: objectives.ELBO()(model.terms(p, {}, batch, noise, 0))[0], before)
    one.steps_alone(batch, one.inputs())
    for name, value in one.parameters.items():
        assert_allclose(value, before[name] + 1e-3 * slope[name] * name.startswith(f"{group}."), rtol=1e-9, err_msg=name)
    assert not moved(own, {name: rows.values[batch.index] for name, rows in one.rows.items()})


def test_clip():
    """In each step the norm is that of the gradient of those groups that move."""
    one = trainer(alone={"encoder": 1}, optimizer="sgd", learning_rate=1.0, clip=1e-3)
    start = {name: value.copy() for name, value in one.parameters.items()}
    one.step(data.Table(BITS).batch(np.arange(10), random.key(0)))
    for group in ("encoder", "decoder"):
        way = [one.parameters[name] - start[name] for name in start if name.startswith(group)]
        assert_allclose(optim.norm(*way), 1e-3, rtol=1e-9, err_msg=group)


def test_texts():
    assert optim.parse_alone("critic=3,prior=1") == {"critic": 3, "prior": 1}
    for text in ("critic", "critic=0", "critic=1.5", "=2", "critic=1,critic=2"):
        with pytest.raises(ConfigError, match=f"^alone '{text}': "):
            optim.parse_alone(text)
    for text in ("prior", "prior=-1", "prior=x", "=2", "prior=1,prior=2"):
        with pytest.raises(ConfigError, match=f"^rates '{text}': "):
            optim.parse_rates(text)
    with pytest.raises(ConfigError, match="'nope'; known are encoder, decoder"):
        trainer(alone={"nope": 1})


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", True, None])
def test_numbers_of_steps(n):
    with pytest.raises(ConfigError, match=re.escape(f"alone['decoder'] is {n!r}, expected a whole number of at least 1")):
        trainer(alone={"encoder": 1, "decoder": n})


# ---- wake-sleep ----------------------------------------------------------------------------------


def sbn():
    return models.SBN(D, latent=(2, 1), dtype="float64")


def every(n):
    return np.array([[(i >> j) & 1 for j in range(n)] for i in range(2**n)], float)


def test_the_sleep_phase():
    """Its gradient is that of sum_{z, x} p(z, x) log q(z | x), within 4.5 standard errors; the model's is that of the wake
    phase alone."""
    model = sbn()
    params = {name: value + 0.7 * rng.normal(size=value.shape) for name, value in model.init(random.key(0)).items()}
    z2, z1, x = (a.reshape(-1, n) for a, n in zip(grid(1, 2, D), (1, 2, D), strict=True))
    p2, p1, p0 = (model.prior_of(params), model.decoders[1](params, z2), model.decoders[0](params, z1))
    p = np.exp(p2.log_prob(z2) + p1.log_prob(z1) + p0.log_prob(x))
    assert_allclose(p.sum(), 1)

    def exact(own):
        log_q = model.encoders[0](own, x).log_prob(z1) + model.encoders[1](own, z1).log_prob(z2)
        return (p * log_q).sum()

    _, expected = value_and_gradient(exact, params)
    batch, found, wake = Batch({"x": BITS}, np.arange(N)), [], []
    objective, bound = objectives.parse("wake_sleep"), objectives.parse("elbo_a")
    for i in range(60):
        noise = model.noise(random.key(i), batch, 10) | model.dream_noise(random.key(1000 + i), batch, 10)

        def value(own, noise=noise):
            parts, _ = objective(model.terms(own, {}, batch, noise, 0))
            assert set(parts) == {REST, "encoder1", "encoder2"}
            return parts["encoder1"]

        found.append(value_and_gradient(value, params)[1])
        rest = value_and_gradient(lambda own, noise=noise: objective(model.terms(own, {}, batch, noise, 0))[0][REST], params)
        plain = {name: draws for name, draws in noise.items() if not name.startswith("dream")}
        both = value_and_gradient(lambda own, noise=plain: bound(model.terms(own, {}, batch, noise, 0))[0], params)
        wake.append((rest, both))
    for name in ("encoder1.0.weight", "encoder1.0.bias", "encoder2.0.weight"):
        each = np.stack([slope[name] for slope in found])
        error = each.std(axis=0, ddof=1) / len(found) ** 0.5
        assert (np.abs(each.mean(axis=0) - expected[name]) < 4.5 * error).all(), name
        assert np.abs(expected[name]).max() > 4.5 * error.max(), name
    for (_, ours), (_, theirs) in wake:
        for name in ("decoder0.0.weight", "decoder1.0.weight", "prior.raw"):
            assert_allclose(ours[name], theirs[name], rtol=1e-12)


def grid(*sizes):
    """All combinations of bits, (combinations, size) each."""
    tables = [every(n) for n in sizes]
    index = np.meshgrid(*(np.arange(len(t)) for t in tables), indexing="ij")
    return [t[i.reshape(-1)] for t, i in zip(tables, index, strict=True)]


@pytest.mark.parametrize("make", [gvae.VAE, gvae.SBN, gvae.HierarchicalVAE, gvae.DLGM])
def test_trained(make):
    latent = 2 if make is gvae.VAE else (2, 1)
    settings = {"latent": latent, "objective": "wake_sleep", "epochs": 30, "batch_size": 10, "random_state": 0}
    model = make(**settings, hidden=() if make is gvae.SBN else (5,), observation="bernoulli", learning_rate=1e-2).fit(BITS)
    first, last = model.history_[0], model.history_[-1]
    assert last["train_bound"] > first["train_bound"]
    assert "train_sleep" in last
    assert np.isfinite(model.evaluate(BITS, samples=10).summary()["elbo"])


def test_refusals():
    for settings, said in (
        ({"gradient": "local"}, "gradient 'local'"),
        ({"warmup": 3}, "warmup is"),
    ):
        with pytest.raises(ConfigError, match=said):
            gvae.VAE(latent=2, objective="wake_sleep", epochs=1, **settings).fit(BITS)
    with pytest.raises(ConfigError, match="parameters of its own"):
        gvae.LadderVAE(latent=(2, 1), hidden=(5,), objective="wake_sleep", epochs=1).fit(BITS)
    with pytest.raises(ConfigError, match="no networks of its views"):
        gvae.VIB(latent=2, objective="wake_sleep", epochs=1).fit(BITS, BITS[:, 0])
    for name, said in (
        ("bayes", "drawn from a posterior"),
        ("nlfa", "each row has its own posterior parameters"),
        ("autoencoder", "no dreams"),
        ("hvm", "no dreams"),
    ):
        given = {"latent": 2, "hidden": (5,), "objective": "wake_sleep", "epochs": 1}
        given |= {"gradient": "reparameterized"} if name == "hvm" else {}
        model = gvae.estimators()[name](**given)
        with pytest.raises(ConfigError, match=said):
            model.fit(BITS)


@pytest.mark.parametrize(
    ("posterior", "prior"), [("mixture:2", None), ("diagonal", "mixture:3"), ("logit", None), ("diagonal", "log_gamma")]
)
def test_dreams_are_drawn_from_the_prior(posterior, prior):
    """Whatever noise the posterior takes: mean and covariance of 20,000 dreamed codes are those of draws of the prior."""
    model = models.VAE(D, 3, posterior, "bernoulli", (5,), prior=prior, dtype="float64")
    params, batch = model.init(random.key(0)), Batch({"x": BITS}, np.arange(N))
    noise = model.dream_noise(random.key(1), batch, 500)
    z = dream(model, params, {}, noise).z["z"].reshape(-1, 3)
    drawn = model.sample_prior(params, random.key(2), 200_000)["z"]
    assert_allclose(z.mean(axis=0), drawn.mean(axis=0), atol=0.05 * drawn.std())
    assert_allclose(z.std(axis=0), drawn.std(axis=0), rtol=0.05)


def test_clip_is_of_the_parameters_that_move():
    table = data.Table(np.random.default_rng(0).normal(size=(40, 5)) * 5)
    model = models.VAE(5, 2, "chain", "gaussian", hidden=(4,), dtype=np.float64)
    settings = {"optimizer": "sgd:0", "learning_rate": 1.0, "clip": 0.1, "rates": {"encoder": 0.0}, "seed": 1}
    trainer = training.Trainer(model, **settings)
    before = trainer.parameters.flat.copy()
    trainer.step(table.batch(np.arange(40), random.key(0)))
    assert np.linalg.norm(trainer.parameters.flat - before) == pytest.approx(0.1)
