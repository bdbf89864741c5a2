"""L-BFGS: a step is a round of SciPy's iterations over parameters and rows, and a function of them and of its number."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize

import gvae
from gvae import data, models, objectives, optim, random, training
from gvae.autodiff import value_and_gradient
from gvae.errors import ConfigError, NonFiniteError, NotPositiveDefiniteError
from gvae.nn import Parameters

N, D = 40, 4
X = random.normal(random.key(0), (N, D), np.float64)
TABLE = data.Table(X)


def vae(dtype="float64"):
    return models.VAE(D, 2, "diagonal", hidden=(5,), observation="gaussian", dtype=dtype)


def nlfa():
    return models.NonlinearFactorAnalysis(D, 2, hidden=(5,), observation="gaussian", dtype="float64")


def trained(model, steps, trainer=None, **settings):
    given = {"optimizer": "lbfgs:7", "seed": 3} | settings if trainer is None else {}
    return training.train(model, TABLE, steps=steps, batch_size=N, trainer=trainer, **given)[0]


@pytest.mark.parametrize("make", [vae, nlfa])
def test_a_step_is_what_scipy_does(make):
    """On parameters and rows as one vector, with the noise of the step."""
    model = make()
    trainer = training.Trainer(model, optimizer="lbfgs:7", seed=3, n_rows=N)
    batch, now = TABLE.batch(np.arange(N), random.key(0)), trainer.inputs()
    noise = trainer.noise(now.noise, batch)
    start = dict(trainer.parameters) | trainer.rows_of(batch, now)
    kinds = {name: value.shape for name, value in start.items()}

    def f(x):
        parts = np.split(x, np.cumsum([np.prod(shape, dtype=int) for shape in kinds.values()])[:-1])
        params = {name: part.reshape(shape) for part, (name, shape) in zip(parts, kinds.items(), strict=True)}
        value, slope = value_and_gradient(lambda p: -objectives.ELBO()(model.terms(p, {}, batch, noise, 0))[0], params)
        return float(value), np.concatenate([slope[name].ravel() for name in kinds])

    most = {"maxiter": 7, "ftol": 0.0, "gtol": 0.0}
    wanted = minimize(f, np.concatenate([v.ravel() for v in start.values()]), jac=True, method="L-BFGS-B", options=most)
    assert wanted.nit == 7
    before = f(np.concatenate([v.ravel() for v in start.values()]))[0]
    metrics = trainer.step(batch)
    found = dict(trainer.parameters) | {name: rows.values for name, rows in trainer.rows.items()}
    assert_allclose(np.concatenate([found[name].ravel() for name in kinds]), wanted.x, rtol=1e-6, atol=1e-9)
    assert metrics["bound"] == pytest.approx(-before)
    assert wanted.fun < before
    assert trainer.why_not == "a step has many gradients"


@pytest.mark.parametrize("make", [vae, nlfa])
@pytest.mark.parametrize("average", [None, "ema:0.5"])
def test_a_run_that_is_resumed_has_the_same_bits(make, average):
    model = make()
    whole = trained(model, 4, average=average)
    begun = trained(model, 2, average=average)
    other = training.Trainer(model, optimizer="lbfgs:7", seed=3, n_rows=N, average=average)
    other.restore(begun.snapshot())
    trained(model, 2, other)
    for name, array in whole.snapshot()[0].items():
        assert_array_equal(other.snapshot()[0][name], array, err_msg=name)


def test_frozen_groups_do_not_move():
    trainer = training.Trainer(vae(), optimizer="lbfgs:5", rates={"encoder": 0}, n_rows=N)
    before = trainer.parameters.flat.copy()
    trainer.step(TABLE.batch(np.arange(N), random.key(0)))
    moved = before != trainer.parameters.flat
    assert not moved[trainer.parameters.groups["encoder"]].any()
    assert moved[trainer.parameters.groups["decoder"]].all()


def test_float32_follows_float64():
    class Narrow(models.VAE):
        def noise(self, key, batch, samples=1):
            return {name: draws.astype(np.float32) for name, draws in vae().noise(key, batch, samples).items()}

    narrow = Narrow(D, 2, "diagonal", hidden=(5,), observation="gaussian", dtype="float32")
    trainers = [training.Trainer(model, optimizer="lbfgs:3", n_rows=N) for model in (narrow, vae())]
    trainers[1].parameters.flat[:] = trainers[0].parameters.flat
    for trainer in trainers:
        trainer.step(data.Table(X.astype(trainer.model.dtype)).batch(np.arange(N), random.key(0)))
    assert trainers[0].parameters.flat.dtype == np.float32
    assert_allclose(trainers[0].parameters.flat, trainers[1].parameters.flat, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["raises", "is infinite"])
def test_the_line_search_returns_from_where_there_is_no_value(kind):
    """A trial point at which a factor fails, or whose bound is not finite, is not taken; at the start it is an error."""

    class Walled(models.VAE):
        def terms(self, params, state, batch, noise, step=None):
            terms = super().terms(params, state, batch, noise, step)
            b = params["decoder.1.bias"]
            far = np.abs(getattr(b, "value", b)).max() > self.wall
            refused.append(far)
            if far and kind == "raises":
                raise NotPositiveDefiniteError("a wall", [()], [1])
            if far:
                terms.log_likelihood["x"] = terms.log_likelihood["x"] * np.inf
            return terms

    refused, trainers = [], []
    for wall in (0.3, -1.0):
        model = Walled(D, 2, "diagonal", hidden=(5,), observation="gaussian", dtype="float64")
        model.wall = wall
        trainers.append(training.Trainer(model, optimizer="lbfgs:20", n_rows=N))
    batch = data.Table(X + 5).batch(np.arange(N), random.key(0))
    bounds = [trainers[0].step(batch)["bound"] for _ in range(2)]
    assert bounds[1] > bounds[0]
    assert np.abs(trainers[0].parameters["decoder.1.bias"]).max() <= 0.3
    assert any(refused)
    with pytest.raises(NotPositiveDefiniteError if kind == "raises" else NonFiniteError):
        trainers[1].step(batch)


def test_what_does_not_go_with_rounds_is_refused():
    for settings, said in (
        ({"clip": 1.0}, "clip is 1.0, expected None"),
        ({"alone": {"encoder": 2}}, "alone is {'encoder': 2}, expected None"),
        ({"rates": {"encoder": 0.5}}, "the rate of encoder is 0.5, expected 0 or 1"),
        ({"optimizer": "lbfgs:0"}, "iterations is '0', expected a whole number of at least 1"),
        ({"optimizer": "lbfgs:2.5"}, "iterations is '2.5', expected a whole number"),
    ):
        with pytest.raises(ConfigError, match=said):
            training.Trainer(vae(), **{"optimizer": "lbfgs:5", "n_rows": N} | settings)
    with pytest.raises(ConfigError, match="takes its steps itself"):
        training.Trainer(models.CCA({"x": D, "y": D}, latent=2), optimizer="lbfgs")
    with pytest.raises(ConfigError, match=r"on all rows, but batches have 10 of 40 .*: give batch_size=40, or None in an"):
        training.train(vae(), TABLE, steps=1, batch_size=10, optimizer="lbfgs")
    with pytest.raises(ConfigError, match="on_nonfinite is 'rollback', expected 'stop' with LBFGS"):
        training.train(vae(), TABLE, steps=1, batch_size=N, optimizer="lbfgs", on_nonfinite="rollback")
    with pytest.raises(ConfigError, match="a step is 50 iterations"):
        optim.LBFGS(Parameters({"a.b": np.zeros(2)})).update(Parameters({"a.b": np.zeros(2)}))
    model = models.VAE(D, 2, "diagonal", hidden=(5,), observation="gaussian", critic=(3,), dtype="float64")
    settings = {"objective": objectives.parse("info:alpha=0,lambda=1,divergence=js"), "optimizer": "lbfgs"}
    with pytest.raises(ConfigError, match="it minimises one objective"):
        training.train(model, TABLE, steps=1, batch_size=N, **settings)


def test_an_estimator_takes_it():
    given = {"latent": 2, "hidden": (5,), "posterior": "diagonal", "optimizer": "lbfgs:5", "random_state": 0, "epochs": 3}
    model = gvae.VAE(**given, batch_size=None).fit(X)
    assert model.history_[-1]["train_bound"] > model.history_[0]["train_bound"]
    assert model.n_iter_ == 3
    with pytest.raises(ConfigError, match="or None in an estimator"):
        gvae.VAE(**given, batch_size=10).fit(X)
