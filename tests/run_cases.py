"""What tests of runs share: the models, a small run, how to stop it, and all that it ends with."""

from __future__ import annotations

import json

import numpy as np

import gvae
from gvae import objectives, training
from gvae.data import Table
from gvae.runtime import device
from gvae.training import load_checkpoint

X = np.random.default_rng(0).random((40, 6)).astype(np.float32)
SETTINGS = {"observation": "bernoulli", "latent": 2, "hidden": (5,), "epochs": 3, "batch_size": 16, "random_state": 1}
# that is 3 steps an epoch

# by name, those that read rows of numbers alone, and have codes
MODELS = {
    name: cls.model
    for name, cls in gvae.estimators().items()
    if cls.model.columns == {"x": "matrix"} and hasattr(cls.model.Settings, "latent")
}


# settings without which a model does not do what it is for
BITS = {"sbn": {"posterior": "bernoulli"}, "darn": {"posterior": "bernoulli:taylor", "observation": "bernoulli"}}


def small(name):
    """(settings, objective, rows of a batch or None for all) of a small model of 12 columns and 4 codes."""
    fixed = gvae.estimators()[name].fixed
    hidden = {"hidden": (8,)} if hasattr(MODELS[name].Settings, "hidden") else {}
    return hidden, objectives.parse(fixed.get("objective", "elbo")), fixed.get("batch_size", 20)


def kept_and_captured(model, rows, path):
    """Asserts that a fitted model is loaded with its bits, and that its steps are captured and verified."""
    model.save(path)
    np.testing.assert_array_equal(gvae.load(path).score_samples(rows[:5]), model.score_samples(rows[:5]))
    trainer = training.Trainer(model.model_, seed=1)
    training.train(model.model_, Table(rows.astype(np.float32)), epochs=2, batch_size=10, trainer=trainer)
    assert trainer.why_not == ""
    assert all(known.verified for known in trainer.programs.known.values())


def after(n):
    """A `stop` that says True after n steps."""
    asked = iter(range(1, n + 1))
    return lambda: next(asked) == n


def state(run):
    """All that a run folder says, but for the time that things took."""
    tensors, config, counters = load_checkpoint(run / "checkpoint.safetensors")
    counters["epoch"].pop("seconds")
    counters.pop("log_bytes")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    log = [{k: v for k, v in row.items() if "second" not in k} for row in log]
    return {name: x.tobytes() for name, x in tensors.items()}, config, counters, log


def trainer_state(trainer):
    """All that training changes, as bytes, but for the time that it took."""
    arrays, counters = trainer.snapshot()
    counters["epoch"]["seconds"] = 0
    return {name: device.to_host(a).tobytes() for name, a in arrays.items()}, counters


def kinds(call):
    """Family and name of a launch, and the types of its arguments: what a kernel is compiled for."""
    return call[:2], tuple((x.dtype, x.ndim) if isinstance(x, np.ndarray) else type(x) for x in call[2])


def same(a, b):
    for one, other in zip(state(a), state(b), strict=True):
        assert one == other
