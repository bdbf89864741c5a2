"""What tests of runs share: a small run, how to stop it, and all that it ends with."""

from __future__ import annotations

import json

import numpy as np

from gvae.training import load_checkpoint

X = np.random.default_rng(0).random((40, 6)).astype(np.float32)
SETTINGS = {"latent": 2, "hidden": (5,), "epochs": 3, "batch_size": 16, "random_state": 1}  # 3 steps an epoch


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


def same(a, b):
    for one, other in zip(state(a), state(b), strict=True):
        assert one == other
