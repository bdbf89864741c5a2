"""Numbers that stop being finite, schedules, averages, clipping, early stopping: against formulas written out."""

from __future__ import annotations

import json
import logging
import math
import pickle

import numpy as np
import pytest
from run_cases import SETTINGS, X

from gvae import VAE, models, nn, objectives, optim, random
from gvae.data import Table
from gvae.errors import ConfigError, NonFiniteError
from gvae.objectives import ELBO
from gvae.training import Trainer, train

SPOILT = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
SPOILT[17, 3] = 1e25  # its square is beyond float32
SPOILT[31, 0] = -1e30


def gaussian(**settings):
    return VAE(**SETTINGS | {"observation": "gaussian", "standardize": False} | settings)


# ---- what is not finite --------------------------------------------------------------------------


def test_stop_names_the_rows_and_logs_it(tmp_path):
    with pytest.raises(
        NonFiniteError, match=r"the bound is not finite at step 0 \(because of rows? (17|31|17, 31|31, 17)\)"
    ) as e:
        gaussian(batch_size=40).fit(SPOILT, run=tmp_path / "run")
    assert (e.value.tensor, e.value.step, sorted(e.value.rows)) == ("the bound", 0, [17, 31])
    assert not (tmp_path / "run").exists()  # nothing was trained


def test_skip_leaves_these_batches_out(tmp_path, caplog):
    model = gaussian(on_nonfinite="skip").fit(SPOILT, run=tmp_path / "run")
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    events = [entry for entry in log if "event" in entry]
    assert events == model.events_
    assert {row for event in events for row in event["rows"]} == {17, 31}
    assert all(event["policy"] == "skip" and event["tensor"] == "the bound" for event in events)
    assert sorted({event["epoch"] for event in events}) == [1, 2, 3]
    assert [row["epoch"] for row in model.history_] == [1, 2, 3]
    assert all(math.isfinite(x) for row in model.history_ for x in row.values())
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == len(events)
    assert all(w.endswith("; skipped") for w in warnings)
    # by hand: the same steps on the same batches, without those
    trainer = Trainer(models.VAE(6, 2, "chain", "gaussian", (5,)), seed=1)
    table = Table(SPOILT)
    for _ in range(3):
        for batch in table.batches(random.key(0), 16, trainer.order(40)):
            if not {17, 31} & set(batch.index.tolist()):
                trainer.step(batch)
            else:
                trainer.skip()
        trainer.epochs += 1
    np.testing.assert_array_equal(model.parameters_.flat, trainer.parameters.flat)
    assert trainer.snapshot()[1]["optimizer_step"] == trainer.taken == trainer.steps - len(events)


def test_skip_cannot_mend_parameters_nor_an_epoch_without_a_step():
    with pytest.raises(NonFiniteError, match="the bound of every step is not finite after step 1"):
        gaussian(on_nonfinite="skip", batch_size=40).fit(SPOILT)

    class Breaking(Trainer):
        def step(self, batch, inputs=None):
            metrics = super().step(batch, inputs)
            self.parameters["encoder.0.bias"][1] = np.nan
            return metrics

    model = models.VAE(6, 2, hidden=(5,))
    with pytest.raises(NonFiniteError, match=r"parameter encoder.0.bias is not finite at step 1") as e:
        train(model, Table(X), epochs=1, batch_size=16, trainer=Breaking(model), on_nonfinite="skip")
    assert e.value.rows == []


def test_rollback_returns_to_the_start_of_the_epoch_with_a_smaller_step(caplog):
    """At 300 times the usual rate parameters overflow in the first epoch, until the rate is an eighth."""
    model = gaussian(on_nonfinite="rollback", learning_rate=300.0, start="glorot").fit(X)
    assert [(event["epoch"], event["policy"]) for event in model.events_] == [(1, "rollback")] * 3
    assert "back to step 0 with 0.125 of the learning rate" in caplog.records[-1].getMessage()
    eighth = gaussian(learning_rate=300.0 / 8, start="glorot").fit(X)
    np.testing.assert_array_equal(model.parameters_.flat, eighth.parameters_.flat)
    assert [row["step"] for row in model.history_] == [3, 6, 9]


@pytest.mark.parametrize("rate", [0.6, 0.8, 1.0])
def test_rollback_to_before_an_update_that_no_step_has_evaluated(rate):
    """The last update of an epoch makes the next step fail: that epoch is repeated, not the step."""
    rows = 3 * np.random.default_rng(0).normal(size=(40, 4))
    settings = {"latent": 2, "hidden": (4,), "epochs": 6, "batch_size": 10, "optimizer": "sgd", "posterior": "diagonal"}
    settings |= {"random_state": 0, "learning_rate": rate, "observation": "gaussian", "on_nonfinite": "rollback"}
    model = VAE(**settings).fit(rows)
    assert any(event["step"] % 4 == 0 and event["step"] for event in model.events_)
    assert [row["step"] for row in model.history_] == [4, 8, 12, 16, 20, 24]
    again = VAE(**settings).fit(rows)
    np.testing.assert_array_equal(again.parameters_.flat, model.parameters_.flat)


def test_a_step_that_will_not_be_taken_is_not_tried():
    class Failing(Trainer):
        def value_and_gradient(self, params, batch, noise, now):
            if self.steps == 6:  # after the patience has run out
                raise NonFiniteError("the bound is not finite", "the bound", 6, [])
            return super().value_and_gradient(params, batch, noise, now)

    model = models.VAE(6, 2, hidden=(5,))
    trainer = Failing(model, learning_rate=1e-30)  # so that no bound is better than the first
    given = {"epochs": 9, "batch_size": 16, "validation": Table(X[:7]), "patience": 1}
    _, history = train(model, Table(X), **given, trainer=trainer, on_nonfinite="rollback")
    assert [row["step"] for row in history.rows] == [3, 6]
    assert history.events == []


def test_a_trainer_can_be_pickled_and_keeps_no_rows():
    trainer, _ = train(models.VAE(6, 2, hidden=(5,)), Table(X, numbers=np.arange(40) + 7), epochs=1, batch_size=20)
    assert trainer.numbers(np.array([3])) == [3]
    assert len(pickle.dumps(trainer)) < 60_000
    spoilt = Table(SPOILT, numbers=np.arange(40) + 7)
    with np.errstate(all="ignore"), pytest.raises(NonFiniteError, match=r"rows (24|38)"):
        train(models.VAE(6, 2, hidden=(5,), observation="gaussian"), spoilt, epochs=1, batch_size=20)


def test_a_look_at_the_next_step_leaves_no_trace():
    policies = [gaussian(on_nonfinite=policy, average="ema", schedule="plateau:1") for policy in ("stop", "rollback")]
    one, other = (model.fit(X) for model in policies)
    np.testing.assert_array_equal(one.parameters_.flat, other.parameters_.flat)
    assert [{k: v for k, v in row.items() if "second" not in k} for row in one.history_] == [
        {k: v for k, v in row.items() if "second" not in k} for row in other.history_
    ]


def test_rows_that_fail_are_named_as_the_caller_knows_them():
    """Rows of weight 0 are left out, others are held out."""
    rows, weight = X.astype(np.float32).copy(), np.ones(len(X))
    rows[30], weight[:7] = 3e19, 0.0
    for how in ({}, {"patience": 1, "epochs": 3}):
        with pytest.raises(NonFiniteError, match=r"because of row 30\)") as e:
            gaussian(standardize=False, **how).fit(rows, sample_weight=weight)
        assert e.value.rows == [30]


def test_rollback_brings_everything_back():
    trainer = Trainer(models.VAE(6, 2, hidden=(5,)), average="ema", schedule=optim.Plateau(1))
    batch = Table(X).batch(np.arange(40), random.key(0))
    trainer.step(batch)
    trainer.set_mark()
    arrays, counters = trainer.snapshot()
    before = {name: x.copy() for name, x in arrays.items()}, json.dumps(counters)
    trainer.step(batch)
    trainer.epoch.sums["bound"] = 3.0
    trainer.schedule.observe(1.0)
    trainer.look(1.0)
    trainer.roll_back()
    arrays, counters = trainer.snapshot()
    assert (counters["scale"], counters["rollbacks"]) == (0.5, 1)
    assert json.dumps(counters | {"scale": 1.0, "rollbacks": 0}) == before[1]
    assert arrays.keys() == before[0].keys()
    for name, x in arrays.items():
        np.testing.assert_array_equal(x, before[0][name])


def test_rollback_gives_up():
    with pytest.raises(NonFiniteError, match=r"the bound is not finite at step \d \(because of rows?"):
        gaussian(on_nonfinite="rollback").fit(SPOILT)


class Steep(models.VAE):
    """A finite bound whose gradient is not: the slope of |x|^(1/2) at 0."""

    def terms(self, params, state, batch, noise, step=0):
        terms = super().terms(params, state, batch, noise, step)
        zero = params["decoder.1.bias"][0] * 0.0
        at = np.where(batch.index == 5, np.float32(0), np.float32(1))
        terms.log_likelihood["x"] = terms.log_likelihood["x"] + (zero + at) ** 0.5
        return terms


def test_a_gradient_that_is_not_finite_is_named_with_its_rows():
    trainer = Trainer(Steep(6, 2, hidden=(5,)))
    before = trainer.parameters.flat.copy()
    with (
        np.errstate(all="ignore"),
        pytest.raises(NonFiniteError, match=r"the gradient of decoder.1.bias is not finite") as e,
    ):
        trainer.step(Table(X).batch(np.arange(3, 12), random.key(0)))
    assert e.value.rows == [5]
    np.testing.assert_array_equal(trainer.parameters.flat, before)
    assert trainer.steps == 0


def test_a_gradient_whose_squares_overflow_is_refused_unless_it_is_clipped():
    """Adam would make NaN of it, one step before anybody notices."""

    def huge(terms, step=0, weight=None):
        value, metrics = ELBO()(terms, step, weight)
        return value * 1e22, metrics

    batch = Table(X).batch(np.arange(8), random.key(0))
    trainer = Trainer(models.VAE(X.shape[1], 2, hidden=(5,)), objective=huge)
    before = trainer.parameters.flat.copy()
    with pytest.raises(NonFiniteError, match="the gradient's norm, squared, is not finite at step 0"):
        trainer.step(batch)
    np.testing.assert_array_equal(trainer.parameters.flat, before)
    trainer = Trainer(models.VAE(X.shape[1], 2, hidden=(5,)), objective=huge, clip=1.0)
    trainer.step(batch)
    assert np.isfinite(trainer.optimizer.v).all()


def test_a_policy_that_is_none():
    with pytest.raises(ConfigError, match="on_nonfinite is 'ignore'; known are stop, skip, rollback"):
        train(models.VAE(6, 2), Table(X), epochs=1, on_nonfinite="ignore")


def test_events_outlive_a_resume(tmp_path):
    """Those of epochs before the checkpoint come from the log."""
    gaussian(on_nonfinite="skip", epochs=2).fit(SPOILT, run=tmp_path / "run")
    resumed = gaussian(on_nonfinite="skip").fit(SPOILT, run=tmp_path / "run", resume=True)
    whole = gaussian(on_nonfinite="skip").fit(SPOILT)
    assert resumed.events_ == whole.events_
    np.testing.assert_array_equal(resumed.parameters_.flat, whole.parameters_.flat)


# ---- clipping ------------------------------------------------------------------------------------


def test_norm():
    r = np.random.default_rng(0)
    for dtype, rtol in ((np.float32, 1e-6), (np.float64, 1e-13)):
        for shapes in ([(0,)], [(3,), (4097,)], [(8192,)], [(50, 700), (1,)]):
            arrays = [r.normal(size=shape).astype(dtype) for shape in shapes]
            expected = math.sqrt(sum((a.astype(np.float64) ** 2).sum() for a in arrays))
            assert optim.norm(*arrays) == pytest.approx(expected, rel=rtol)
    assert optim.norm(np.full(10, 1e30, np.float32)) == pytest.approx(math.sqrt(10) * 1e30, rel=1e-6)
    for bad in (np.nan, np.inf, -np.inf):
        for at in (0, 4095, 4096, 4999):
            x = np.zeros(5000, np.float32)
            x[at] = bad
            assert not math.isfinite(optim.norm(np.zeros(3), x))


def test_clipping_shortens_the_gradient_of_all_parameters_together():
    model = models.VAE(6, 2, hidden=(5,), dtype=np.float64)
    batch = Table(X.astype(np.float64)).batch(np.arange(40), random.key(0))
    free = Trainer(model)
    free.step(batch)
    length = float(np.linalg.norm(free.gradient.flat))
    for clip, factor in ((length / 3, 1 / 3), (length * 3, 1.0)):
        clipped = Trainer(model, clip=clip)
        clipped.step(batch)
        np.testing.assert_allclose(clipped.gradient.flat, factor * free.gradient.flat, rtol=1e-12)
    for bad in (0, -1.0, math.nan, math.inf, "1"):
        with pytest.raises(ConfigError, match="clip is"):
            Trainer(model, clip=bad)


# ---- schedules -----------------------------------------------------------------------------------


def test_schedules():
    assert optim.parse_schedule("constant")(10**9) == 1.0
    cosine = optim.parse_schedule("cosine", 5, 100)
    for step in (0, 1, 50, 99, 100, 1000):
        assert cosine(step) == pytest.approx((1 + math.cos(math.pi * min(step, 100) / 100)) / 2)
    assert optim.parse_schedule("cosine:40", 5, 100)(100) == pytest.approx(0.5)
    iwae = optim.parse_schedule("iwae", 5, 1)
    rates = [iwae(5 * epoch + 4) for epoch in range(4000)]
    assert rates[:3280] == [10 ** (-i / 7) for i in range(8) for _ in range(3**i)]
    assert set(rates[3280:]) == {10**-1.0}
    plateau = optim.parse_schedule("plateau:2")
    found = []
    for bound in (-5, -4, -4, -4, -3, -3, -3.5, -3, -3, -3):
        plateau.observe(bound)
        found.append(plateau(0))
    assert found == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    assert optim.parse_schedule("plateau").patience == 10


def test_the_schedule_is_what_adam_gets():
    seen = []

    class Watched(optim.Adam):
        def update(self, gradient, numbers):
            correction = math.sqrt(1 - self.beta2 ** (len(seen) + 1)) / (1 - self.beta1 ** (len(seen) + 1))
            seen.append(float(numbers[0]) / correction)
            super().update(gradient, numbers)

    trainer = Trainer(models.VAE(6, 2, hidden=(5,)), learning_rate=0.01, schedule=optim.Cosine(6))
    trainer.optimizer.__class__ = Watched
    train(trainer.model, Table(X), epochs=2, batch_size=16, trainer=trainer)
    assert seen == pytest.approx([0.01 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)])
    plateau = gaussian(schedule="plateau:1", epochs=12, learning_rate=0.3).fit(X, validation=X[:9])
    best, factor = -math.inf, 1.0
    for row in plateau.history_:
        best, factor = max(best, row["validation_bound"]), factor if row["validation_bound"] > best else factor / 2
    assert factor < 1  # the rate was too large: it fell


# ---- averages ------------------------------------------------------------------------------------


def walk(n, average):
    """Parameters on a random walk, and what the average makes of them."""
    r, parameters = np.random.default_rng(0), nn.Parameters({"a.w": np.zeros(3)})
    running, seen = optim.parse_average(average, parameters), []
    for step in range(n):
        parameters.flat += r.normal(size=3)
        seen.append(parameters.flat.copy())
        running.after_step(parameters, running.weight(step))
        if step % 4 == 3:
            running.after_epoch(parameters, step // 4 + 1)
    return running, np.array(seen)


def moving(seen, decay):
    """The exponential moving average of values."""
    mean = seen[0]
    for t, x in enumerate(seen[1:], 1):
        d = min(decay, (1 + t) / (10 + t))
        mean = d * mean + (1 - d) * x
    return mean


def test_exponential_average():
    running, seen = walk(200, "ema:0.9")
    np.testing.assert_allclose(running.values.flat, moving(seen, 0.9), rtol=1e-12)
    assert running.terms(200) == 200
    assert optim.parse_average("ema", nn.Parameters({})).decay == 0.999


def test_a_trainer_averages_its_steps():
    trainer = Trainer(models.VAE(6, 2, "chain", "gaussian", (5,), dtype="float64"), average="ema:0.9", seed=1)
    table, seen = Table(X.astype(np.float64)), []
    for batch in table.batches(random.key(0), 4):
        trainer.step(batch)
        seen.append(trainer.parameters.flat.copy())
    assert len(seen) >= 10
    np.testing.assert_allclose(trainer.average.values.flat, moving(seen, 0.9), rtol=1e-9, atol=1e-12)


def test_average_of_epochs():
    running, seen = walk(40, "swa:3")
    np.testing.assert_allclose(running.values.flat, seen[3::4][2:].mean(axis=0), rtol=1e-12)
    assert running.terms(40) == 8
    mean = running.values.flat.copy()
    running.after_epoch(nn.Parameters({"a.w": np.ones(3)}), 10)  # the tenth has been seen: its end was interrupted
    np.testing.assert_array_equal(running.values.flat, mean)
    assert walk(8, "swa:3")[0].terms(8) == 0


@pytest.mark.parametrize("average", ["ema:0.9", "swa:2"])
def test_averages_are_validated_and_kept(average, tmp_path):
    import gvae

    model = gaussian(average=average).fit(X, validation=X[:10], run=tmp_path / "run")
    plain = gaussian().fit(X, validation=X[:10])
    assert [row["train_bound"] for row in model.history_] == [row["train_bound"] for row in plain.history_]
    assert model.history_[-1]["validation_bound"] != plain.history_[-1]["validation_bound"]
    assert not np.array_equal(model.parameters_.flat, plain.parameters_.flat)
    np.testing.assert_array_equal(gvae.load(tmp_path / "run").parameters_.flat, model.parameters_.flat)
    if average == "swa:2":
        weights = [gaussian(epochs=n, steps=None).fit(X).parameters_.flat for n in (2, 3)]
        np.testing.assert_allclose(model.parameters_.flat, np.mean(weights, axis=0), rtol=1e-5, atol=1e-7)


# ---- early stopping ------------------------------------------------------------------------------


def test_early_stopping_keeps_the_best_epoch(tmp_path):
    """So fast that it soon gets worse. What is kept is what a run of just so many epochs gives."""
    settings = {"epochs": 60, "learning_rate": 0.1, "hidden": (30,), "patience": 3, "validation_fraction": 0.3}
    model = gaussian(**settings).fit(X, run=tmp_path / "run")
    bounds = [row["validation_bound"] for row in model.history_]
    best = int(np.argmax(bounds)) + 1
    assert len(bounds) == best + 3 < 60
    short = gaussian(**settings | {"patience": None, "epochs": best})
    held = np.zeros(40, bool)
    held[random.permutation(random.fold_in(random.key(1), 3), 40)[:12]] = True
    short.fit(X[~held], validation=X[held])
    np.testing.assert_array_equal(model.parameters_.flat, short.parameters_.flat)
    assert short.history_[-1]["validation_bound"] == bounds[best - 1]
    longer = gaussian(**settings | {"epochs": 80}).fit(X, run=tmp_path / "run", resume=True)
    assert len(longer.history_) == len(bounds)  # it had stopped


def test_early_stopping_needs_rows():
    from gvae.errors import DataError

    with pytest.raises(DataError, match=r"X has 1 rows: too few \(n_samples = 1\) to hold out 1 from training"):
        gaussian(patience=1).fit(X[:1])
    with pytest.raises(ConfigError, match="patience needs validation rows"):
        train(models.VAE(6, 2), Table(X), epochs=1, patience=1)


@pytest.mark.parametrize("text", ["iwae", "info:alpha=0,lambda=1", "elbo:beta=2", "elbo"])
def test_validation_is_of_the_objective_after_its_warm_up(text):
    """Else values of different epochs would not compare, and early stopping would keep one in which the KL was cheap."""
    model, found = models.VAE(X.shape[1], 2, "chain", hidden=(5,), observation="gaussian"), []
    for warmup in (0, 100):
        trainer = Trainer(model, objective=objectives.parse(text, warmup), samples=3, seed=1)
        found.append(trainer.validate(Table(X)))
    assert {name: found[1][name] for name in found[0]} == found[0]
    assert found[1].get("objective", found[1]["bound"]) == found[0].get("objective", found[0]["bound"])


def test_the_bound_of_a_step_is_one_during_warm_up():
    """What is ascended is the value with a cheap KL, above the bound."""
    model = models.VAE(X.shape[1], 2, "chain", hidden=(5,), observation="gaussian")
    steps = []
    for warmup in (0, 100):
        trainer = Trainer(model, objective=objectives.parse("iwae", warmup), samples=3, seed=1)
        steps.append(trainer.step(Table(X).batch(np.arange(len(X)), random.key(0))))
    assert steps[1]["bound"] == pytest.approx(steps[0]["bound"], rel=1e-6)
    assert steps[1]["objective"] > steps[1]["bound"]
