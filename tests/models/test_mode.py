"""The two modes of a model, training steps and scored rows, and the state that the latter need."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from run_cases import after, same

from gvae import data, models, ops, random, training
from gvae.data import Table
from gvae.errors import ConfigError, RunError, StoppedError
from gvae.evaluation import MEASURES, Subject, evaluate
from gvae.evaluation.gaps import inference_gaps
from gvae.objectives import ELBO, Layer, Terms
from gvae.training import RunFolder, Trainer, load_checkpoint, train
from gvae.training.inputs import VALIDATE

D, k, KEPT = 6, 2, 0.7
X = 3 + np.random.default_rng(0).normal(size=(80, D)) @ np.random.default_rng(1).normal(size=(D, D))
ROWS, HELD_OUT = Table(X[:50]), Table(X[50:])
SETTINGS = {"hidden": (9,), "observation": "gaussian", "posterior": "diagonal", "dtype": np.float64}


class Centred(models.VAE):
    """Its encoder sees deviations from the batch's mean, some of which are dropped; where rows are scored all of them, from
    a running mean."""

    pure = True

    def init_state(self, key):
        return {"mean": np.zeros(D, self.dtype)}

    def noise(self, key, batch, samples=1):
        u = random.uniform(random.fold_in(key, 1), (samples, *batch.x.shape), self.dtype, batch.x)
        return super().noise(key, batch, samples) | {"keep": (u < KEPT) / self.dtype.type(KEPT)}

    def terms(self, params, state, batch, noise, step=None):
        mean = state["mean"] if step is None else ops.mean(batch.x, axis=0)
        seen = ops.subtract(batch.x, mean)
        q = self.encoder(params, seen if step is None else ops.multiply(seen, noise["keep"]))
        z = q.sample(noise["z"])
        x = self.decoder(params, z)
        terms = Terms({"x": x.log_prob(batch.x)}, [Layer(q, None, z, noise["z"])], views={"x": x})
        if step is not None:
            terms.state = {"mean": 0.9 * state["mean"] + 0.1 * mean}
        return terms

    def raw(self, params, state, batch):
        return {"encoder.raw": self.encoder.raw(params, batch.x - state["mean"])}


def centred():
    return Centred(D, k, **SETTINGS)


def scored(model, params, state, batch, noise):
    """The ELBO of each row by hand."""
    q = model.encoder(params, batch.x - state["mean"])
    log_p = model.decoder(params, q.sample(noise["z"])).log_prob(batch.x)
    return log_p.mean(axis=0) - q.kl()


def trained(programs=True, **settings):
    trainer = Trainer(centred(), seed=3, learning_rate=1e-2, programs=programs, **settings)
    _, history = train(trainer.model, ROWS, epochs=5, batch_size=20, validation=HELD_OUT, trainer=trainer)
    return trainer, [{name: x for name, x in row.items() if "second" not in name} for row in history.rows]


def test_captured_steps_have_the_bits_of_python():
    (launched, rows), (ran, expected) = trained(), trained(programs=False)
    assert [known.verified for known in launched.programs.known.values()] == [True, True]  # batches of 20 and of 10
    assert rows == expected
    np.testing.assert_array_equal(launched.parameters.flat, ran.parameters.flat)
    np.testing.assert_array_equal(launched.state["mean"], ran.state["mean"])
    assert np.abs(launched.state["mean"] - X[:50].mean(axis=0)).max() > 0.1  # neither mean passes for the other


def test_steps_see_the_batch_and_its_noise():
    trainer = trained()[0]
    params, state = {name: x.copy() for name, x in trainer.parameters.items()}, trainer.state
    batch = ROWS.batch(np.arange(20), random.key(0))
    noise = trainer.model.noise(trainer.inputs().noise, batch)
    mean = batch.x.mean(axis=0)
    q = trainer.model.encoder(params, (batch.x - mean) * noise["keep"])
    expected = trainer.model.decoder(params, q.sample(noise["z"])).log_prob(batch.x) - q.kl()
    assert trainer.step(batch)["bound"] == pytest.approx(expected.mean(), rel=1e-12)
    np.testing.assert_allclose(trainer.state["mean"], 0.9 * state["mean"] + 0.1 * mean, rtol=1e-12)


@pytest.mark.parametrize("average", [None, "ema:0.9"])
def test_validation_scores_with_the_state(average):
    trainer = trained(average=average)[0]
    key = random.fold_in(trainer.key, VALIDATE)
    expected = []
    for i, batch in enumerate(HELD_OUT.batches(key, 20)):
        noise = trainer.model.noise(random.fold_in(key, 1, i), batch, trainer.samples)
        expected.extend(scored(trainer.model, trainer.weights, trainer.state, batch, noise))
    before = trainer.state["mean"].copy()
    assert trainer.validate(HELD_OUT, 20)["bound"] == pytest.approx(np.mean(expected), rel=1e-12)
    np.testing.assert_array_equal(trainer.state["mean"], before)


def test_the_objective_of_a_validation_has_the_step():
    """Which its warm-up needs."""
    seen = []
    trainer = Trainer(centred(), objective=lambda terms, step, weight: seen.append(step) or ELBO()(terms, step, weight))
    trainer.steps = 4
    trainer.validate(HELD_OUT)
    assert seen == [4]


def test_evaluation_scores_with_the_state():
    trainer = trained()[0]
    key, state = random.key(5), trainer.chosen_state
    expected = []
    for i, batch in enumerate(HELD_OUT.batches(key, 100)):
        noise = trainer.model.noise(random.fold_in(key, 1, i, 0), batch, 7)
        expected.extend(scored(trainer.model, trainer.chosen, state, batch, noise))
    found = evaluate(trainer.model, trainer.chosen, HELD_OUT, samples=7, key=key, state=state)
    np.testing.assert_allclose(found.elbo, expected, rtol=1e-12)
    other = evaluate(trainer.model, trainer.chosen, HELD_OUT, samples=7, key=key, state={"mean": 0 * state["mean"]})
    assert np.abs(other.elbo - found.elbo).min() > 1e-6
    with pytest.raises(ConfigError, match="evaluate: the state is of another model: mean is missing, expected float64"):
        evaluate(trainer.model, trainer.chosen, HELD_OUT)
    with pytest.raises(ConfigError, match=r"mean is float32 of shape \(3,\), expected float64 of shape \(6,\)"):
        evaluate(trainer.model, trainer.chosen, HELD_OUT, state={"mean": np.zeros(3, np.float32)})


def test_every_measure_scores_with_the_state():
    seen = set()

    class Watched(Centred):
        def terms(self, params, state, batch, noise, step=0):  # a default that is not the contract's
            seen.add(("terms", state["mean"][0], step))
            return super().terms(params, state, batch, noise, step)

        def generate(self, params, state, noise):
            seen.add(("generate", state["mean"][0], None))
            return super().generate(params, state, noise)

        def raw(self, params, state, batch):
            seen.add(("raw", state["mean"][0], None))
            return super().raw(params, state, batch)

    model = Watched(D, k, **SETTINGS)
    of = model, model.init(random.key(0)), Table(X[:4])
    few = {"samples": 3, "chains": 2, "temperatures": 3, "first": 2}
    state = {"mean": np.full(D, 2.5)}
    evaluate(
        *of,
        measures=[name for name, m in MEASURES.items() if name != "gaps" and not m.asked and m.of in (None, "x")],
        state=state,
        **few,
    )
    inference_gaps(Subject(*of, state=state).on(Table(X[:3])), rows=2, samples=3, steps=2)
    assert seen == {("terms", 2.5, None), ("generate", 2.5, None), ("raw", 2.5, None)}


def test_rows_of_their_own_are_trained_by_steps_and_inferred_by_scores():
    """The E steps of a training step know its number; what is inferred for other rows is scored."""
    steps = []

    class Watched(models.NonlinearFactorAnalysis):
        def terms(self, params, state, batch, noise, step=0):
            steps.append(step)
            return super().terms(params, state, batch, noise, step)

    model = Watched(D, k, hidden=(4,), dtype=np.float64, row_steps=3)
    trainer = Trainer(model, n_rows=len(ROWS))
    trainer.steps = 7
    trainer.step(ROWS.batch(np.arange(5), random.key(0)))
    assert steps == [7.0] * 4
    steps.clear()
    trainer.validate(Table(X[:3]))
    assert set(steps) == {None}
    assert len(steps) > 50
    steps.clear()
    evaluate(model, trainer.parameters, Table(X[:3]), samples=2)
    assert set(steps) == {None}
    assert len(steps) > 300


# ---- the state of the best epoch

FAST = {"seed": 1, "learning_rate": 0.1, "n_rows": 50}
HOW = {"batch_size": 20, "validation": HELD_OUT}


def stopped_early():
    """A run that soon gets worse, and the number of its best epoch."""
    trainer = Trainer(centred(), **FAST)
    _, history = train(trainer.model, ROWS, epochs=60, patience=4, trainer=trainer, **HOW)
    bounds = [row["validation_bound"] for row in history.rows]
    best = int(np.argmax(bounds)) + 1
    assert 1 < best == len(bounds) - 4
    return trainer, best, bounds


def test_the_best_epochs_state_is_kept_with_its_weights():
    trainer, best, bounds = stopped_early()
    short = Trainer(centred(), **FAST)
    train(short.model, ROWS, epochs=best, trainer=short, **HOW)
    np.testing.assert_array_equal(trainer.chosen.flat, short.parameters.flat)
    np.testing.assert_array_equal(trainer.chosen_state["mean"], short.state["mean"])
    assert (trainer.chosen_state["mean"] != trainer.state["mean"]).all()
    np.testing.assert_array_equal(short.chosen_state["mean"], short.state["mean"])  # there is no best: the last
    short.parameters.flat[:], short.state = trainer.chosen.flat, trainer.chosen_state
    assert short.validate(HELD_OUT)["bound"] == bounds[best - 1]


def test_a_checkpoint_has_the_state_that_goes_with_its_weights(tmp_path):
    trainer, _, _ = stopped_early()
    training.save_checkpoint(tmp_path / "best", trainer, {})
    saved = load_checkpoint(tmp_path / "best")
    assert saved.state().keys() == {"mean"}
    np.testing.assert_array_equal(saved.state()["mean"], trainer.chosen_state["mean"])
    np.testing.assert_array_equal(saved.parameters()["decoder.0.bias"], trainer.chosen["decoder.0.bias"])
    other = Trainer(centred(), **FAST)
    other.restore((saved.tensors, {n: x for n, x in saved.counters.items() if n not in ("use", "mark")}))
    np.testing.assert_array_equal(other.best_state["mean"], trainer.best_state["mean"])
    np.testing.assert_array_equal(other.state["mean"], trainer.state["mean"])
    lacking = {name: x for name, x in saved.tensors.items() if not name.startswith("best_state/")}
    with pytest.raises(RunError, match="the arrays do not fit"):
        training.checkpoint.restore(Trainer(centred(), **FAST), saved._replace(tensors=lacking))
    trainer = trained()[0]
    training.save_checkpoint(tmp_path / "last", trainer, {})
    np.testing.assert_array_equal(load_checkpoint(tmp_path / "last").state()["mean"], trainer.state["mean"])
    plain = Trainer(models.VAE(D, k, **SETTINGS))
    plain.look(1.0)
    training.save_checkpoint(tmp_path / "plain", plain, {})
    saved = load_checkpoint(tmp_path / "plain")
    assert saved.state() == {}
    assert not [name for name in saved.tensors if "state" in name]


@pytest.mark.parametrize("policy", ["stop", "rollback"])
def test_a_resume_has_the_bits_of_a_run_that_was_not_stopped(tmp_path, policy):
    """Stopped within the epochs after the best, whose state is then known from the checkpoint only."""
    best = stopped_early()[1]

    def run(path, stop=None, reopen=False):
        folder = RunFolder.reopen(path) if reopen else RunFolder(path, {})
        trainer = Trainer(centred(), average="ema:0.5", **FAST)
        if reopen:
            folder.restore(trainer, {})
        settings = HOW | {"epochs": best + 3, "patience": 8, "on_nonfinite": policy}
        try:
            train(trainer.model, ROWS, run=folder, trainer=trainer, stop=stop, **settings)
        finally:
            folder.close()
        return trainer

    whole = run(tmp_path / "whole")
    assert (whole.best_state["mean"] != whole.state["mean"]).all()
    last = 3 * (best + 3)
    for steps in (1, last - 5, last - 3, last - 2, last):
        with pytest.raises(StoppedError):
            run(tmp_path / f"{steps}", after(steps))
        resumed = run(tmp_path / f"{steps}", reopen=True)
        same(tmp_path / f"{steps}", tmp_path / "whole")
        np.testing.assert_array_equal(resumed.chosen_state["mean"], whole.chosen_state["mean"])
    names = load_checkpoint(tmp_path / f"{last - 2}" / "checkpoint.safetensors").tensors
    assert {"state/mean", "best_state/mean"} <= names.keys()


def test_a_roll_back_brings_the_best_epochs_state_back():
    trainer = Trainer(centred(), **FAST)
    batch = ROWS.batch(np.arange(20), random.key(0))
    trainer.step(batch)
    trainer.look(1.0)
    trainer.step(batch)
    trainer.set_mark()
    expected = copy.deepcopy((trainer.best_state, trainer.state))
    trainer.step(batch)
    trainer.look(2.0)
    assert (trainer.best_state["mean"] != expected[0]["mean"]).all()
    trainer.roll_back()
    for mine, wanted in zip((trainer.best_state, trainer.state), expected, strict=True):
        np.testing.assert_array_equal(mine["mean"], wanted["mean"])


def test_on_a_device_later_steps_leave_the_best_epochs_state_alone(anywhere):
    """There a step writes to the arrays of the state in place."""
    model = Centred(D, k, **SETTINGS | {"dtype": np.float32})
    trainer = Trainer(model, device="cuda", **FAST)
    batch = data.Table(X[:50].astype(np.float32)).to("cuda").batch(anywhere.arange(20), random.key(0))
    trainer.step(batch)
    kept = trainer.state["mean"].get()
    trainer.look(1.0)
    trainer.step(batch)
    assert type(trainer.chosen_state["mean"]) is np.ndarray
    np.testing.assert_array_equal(trainer.chosen_state["mean"], kept)
    assert (trainer.state["mean"].get() != kept).all()
