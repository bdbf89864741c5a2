"""How long to train: until the bound on validation rows stops improving, between a least and a most number of steps."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
from run_cases import after, same

from gvae import models
from gvae.data import Table
from gvae.errors import ConfigError, NonFiniteError, StoppedError
from gvae.training import RunFolder, Trainer, Until, train

R = np.random.default_rng(0)
X, HELD = (R.normal(size=(n, 6)).astype(np.float32) for n in (60, 12))


def trained(until, *, batch_size=20, run=None, trainer=None, **settings):
    """Three steps an epoch; so fast that the bound on other rows soon falls."""
    loop = {name: settings.pop(name) for name in ("stop", "on_nonfinite") if name in settings}
    trainer = trainer or new(**settings)
    length = {"until": until} if isinstance(until, Until) else {"steps": until}
    return train(
        trainer.model, Table(X), validation=Table(HELD), batch_size=batch_size, run=run, trainer=trainer, **length, **loop
    )


def new(**settings):
    model = models.VAE(6, 2, hidden=(30,), observation="gaussian")
    return Trainer(model, **{"learning_rate": 0.03, "seed": 2} | settings)


def steps(history):
    return [row["step"] for row in history.rows]


def expected(bounds, until):
    """How many of all looks, as (step, bound), there are until the rule ends, and the best of them."""
    best, waited = None, 0
    for i, (step, bound) in enumerate(bounds):
        best, waited = (i, 0) if best is None or bound > bounds[best][1] else (best, waited + 1)
        if step >= until.most or (waited >= until.patience and step >= until.least):
            return i + 1, best
    raise AssertionError("the rule goes on")


def test_looks_are_at_ends_of_epochs():
    """The first after each multiple of `every`, and the last step, here within an epoch."""
    _, history = trained(Until(every=5, patience=99, least=1, most=31))
    assert steps(history) == [6, 12, 15, 21, 27, 30, 31]
    assert [row["epoch"] for row in history.rows] == [2, 4, 5, 7, 9, 10, 11]
    _, history = trained(Until(every=2, patience=99, least=1, most=9))  # no more of them than epochs
    assert steps(history) == [3, 6, 9]


@pytest.mark.parametrize("average", [None, "swa:2"])
def test_a_row_tells_of_all_steps_since_the_last_look(average):
    until = Until(every=5, patience=99, least=1, most=31)
    looked, history = trained(until, average=average)
    plain, every_epoch = trained(31, average=average)
    np.testing.assert_array_equal(looked.weights.flat, plain.weights.flat)
    by_step, before = {row["step"]: row for row in every_epoch.rows}, 0
    for row in history.rows:
        assert row.keys() == every_epoch.rows[0].keys()
        assert row["validation_bound"] == by_step[row["step"]]["validation_bound"]
        seen = [(min(20 * (last - first), 60), by_step[last]["train_bound"]) for first, last in _epochs(before, row["step"])]
        rows, bounds = np.transpose(seen)
        assert row["train_bound"] == pytest.approx((rows * bounds).sum() / rows.sum(), rel=1e-12)
        assert row["steps_per_second"] * row["seconds"] == pytest.approx(row["step"] - before)
        before = row["step"]


def _epochs(before, step):
    return [(first, min(first + 3, step)) for first in range(before, step, 3)]


@pytest.mark.parametrize(
    "until",
    [
        Until(every=3, patience=2, least=1, most=400),
        Until(every=3, patience=1, least=1, most=400),
        Until(every=7, patience=4, least=1, most=400),
        Until(every=3, patience=2, least=200, most=400),
        Until(every=7, patience=2, least=200, most=400),
        Until(every=3, patience=99, least=1, most=50),
        Until(every=3, patience=2, least=50, most=50),
    ],
    ids=["patience 2", "patience 1", "every 7", "least", "least between looks", "most", "least is most"],
)
def test_training_ends_when_the_bound_has_stopped_growing(until):
    """The same looks as in training without patience, which is cut where the rule says; kept are the weights of the best."""
    trainer, history = trained(until)
    _, whole = trained(Until(every=until.every, patience=9999, least=1, most=until.most))
    looks = [(row["step"], row["validation_bound"]) for row in whole.rows]
    n, best = expected(looks, until)
    assert [(row["step"], row["validation_bound"]) for row in history.rows] == looks[:n]
    assert until.least <= trainer.steps <= until.most
    assert best < n - 1  # the bound has fallen
    shorter, _ = trained(looks[best][0])
    np.testing.assert_array_equal(trainer.chosen.flat, shorter.parameters.flat)
    assert not np.array_equal(trainer.chosen.flat, trainer.parameters.flat)
    assert trainer.stopping.epoch == history.rows[best]["epoch"]


def test_a_bound_that_grows_takes_all_steps():
    until = Until(every=3, patience=1, least=1, most=40)
    trainer, history = trained(until, learning_rate=1e-4)
    bounds = [row["validation_bound"] for row in history.rows]
    assert bounds == sorted(bounds)
    assert trainer.steps == 40
    np.testing.assert_array_equal(trainer.chosen.flat, trainer.parameters.flat)


def test_the_default_rule():
    """In steps for small tables; in epochs for large ones, as for nine tenths of MNIST's training rows."""
    small = Until(every=50, patience=40, least=2000, most=10_000)
    assert [Until.of(n, 100) for n in (1, 129, 1294, 5000)] == [small] * 4
    assert Until.of(54_000, 100) == Until(every=50, patience=10, least=2000, most=10_800)
    assert Until.of(10_000, 100) == Until(every=50, patience=20, least=2000, most=10_000)
    with pytest.raises(ConfigError, match=r"^n_rows is 0, expected a whole number of at least 1$"):
        Until.of(0, 100)


# ---- runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "most", "ended"),
    [
        ({}, 40, 21),
        ({"learning_rate": 0.3}, 40, 21),  # the patience is over before the least number of steps
        ({"average": "ema:0.9"}, 40, 21),
        ({"average": "swa:2", "on_nonfinite": "rollback"}, 23, 23),
    ],
    ids=["plain", "least", "ema", "swa, cut within an epoch"],
)
def test_a_run_stopped_at_any_step_ends_with_the_same_bits(settings, most, ended, tmp_path):
    until = Until(every=5, patience=2, least=20, most=most)  # looks at 6, 12, 15, 21, ...
    whole, history = trained(until, run=RunFolder(tmp_path / "whole", {}), **settings)
    assert whole.steps == ended
    for first in range(1, whole.steps + 1):
        path = tmp_path / f"stopped after {first}"
        run = RunFolder(path, {})
        with pytest.raises(StoppedError):
            trained(until, run=run, stop=after(first), **settings)
        run.close()
        again, log = resumed(path, until, **settings)
        same(path, tmp_path / "whole")
        np.testing.assert_array_equal(again.chosen.flat, whole.chosen.flat)
        assert steps(log) == steps(history)
        again, log = resumed(path, until, **settings)  # it has ended, and takes no further step
        assert (again.steps, steps(log)) == (whole.steps, steps(history))


def resumed(path, until, on_nonfinite="stop", **settings):
    run, trainer = RunFolder.reopen(path), new(**settings)
    run.restore(trainer, {})
    try:
        return trained(until, run=run, trainer=trainer, on_nonfinite=on_nonfinite)
    finally:
        run.close()


def test_a_checkpoint_is_written_at_looks_alone(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(RunFolder, "save", lambda run, trainer: saved.append(trainer.steps))
    _, history = trained(Until(every=5, patience=99, least=1, most=31), run=RunFolder(tmp_path / "run", {}))
    assert saved == steps(history)


def test_a_roll_back_leads_to_the_last_look(tmp_path):
    class Breaking(Trainer):
        broken = 0

        def step(self, batch, inputs=None):
            if self.steps == 10 and not self.broken:
                self.broken = 1
                raise NonFiniteError("the bound is not finite", "bound", self.steps)
            return super().step(batch, inputs)

    trainer = Breaking(new().model, learning_rate=0.03, seed=2)
    until = Until(every=5, patience=99, least=1, most=31)
    _, history = trained(until, trainer=trainer, on_nonfinite="rollback", run=RunFolder(tmp_path / "run", {}))
    assert trainer.scale == 0.5
    assert steps(history) == [6, 12, 15, 21, 27, 30, 31]
    assert trainer.taken == 31
    by_hand = new()
    trained(6, trainer=by_hand)
    by_hand.scale = 0.5
    trained(25, trainer=by_hand)
    np.testing.assert_array_equal(trainer.parameters.flat, by_hand.parameters.flat)


# ---- what is said --------------------------------------------------------------------------------


def test_the_rule_and_the_end_are_logged(caplog):
    caplog.set_level(logging.INFO, "gvae.training.loop")
    trainer, history = trained(Until(every=3, patience=2, least=1, most=400))
    first, last = caplog.messages[0], caplog.messages[-1]
    assert first.startswith("training until the bound on 12 validation rows has stopped growing: ")
    assert "every=3, patience=2, least=1, most=400" in first
    assert (
        f"trained for {trainer.steps} steps: no better bound in 2 evaluations; kept is epoch {trainer.stopping.epoch}"
        in last
    )
    best = max(row["validation_bound"] for row in history.rows)
    assert math.isclose(float(last.split()[-1]), best)
    caplog.clear()
    trained(Until(every=3, patience=99, least=1, most=10))
    assert "trained for 10 steps: no more are allowed; kept is epoch" in caplog.messages[-1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every is 0, expected a whole number of at least 1"),
        ({"patience": 2.0}, "patience is 2.0, expected a whole number of at least 1"),
        ({"least": 11}, "Until: least is 11, expected at most most=10"),
    ],
)
def test_rules_that_are_none(settings, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        Until(**{"every": 1, "patience": 1, "least": 1, "most": 10} | settings)


def test_settings_that_do_not_go_together():
    until = Until(every=1, patience=3, least=1, most=10)
    model, table = new().model, Table(X)
    for settings, message in [
        ({}, r"train: until needs validation rows to look at"),
        ({"epochs": 2}, r"train: give epochs or steps or until, one of them; got epochs=2, until=Until\(.*\)"),
        ({"patience": 2, "validation": table}, r"train: until has a patience, 3 evaluations; got patience=2 as well"),
        ({"until": "auto"}, r"train: until is 'auto', expected a training.Until"),
    ]:
        with pytest.raises(ConfigError, match=f"^{message}$"):
            train(model, table, **{"until": until} | settings)
