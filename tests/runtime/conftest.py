"""What several files of tests of the runtime share."""

import importlib

import numpy as np
import pytest
from run_cases import kinds

from gvae.runtime import compile as compiling
from gvae.runtime import device


@pytest.fixture
def rehearsed(monkeypatch):
    """rehearsed(trainer, batch) -> the kernels compiled ahead of a step, those launched in it, and its metrics."""

    def step(trainer, batch):
        compiled, launched = [], []
        launch = device.launch

        def noted(family, name, *arguments, **how):
            if compiled:
                plain = tuple(x.view(np.ndarray) if isinstance(x, np.ndarray) else x for x in arguments)
                kernel = getattr(importlib.import_module(f"gvae.kernels.cpu.{family}"), name)
                launched.append((kernel.py_func.__module__, name, plain))
            launch(family, name, *arguments, **how)

        with monkeypatch.context() as patched:
            patched.setattr(compiling, "compile_calls", compiled.extend)
            patched.setattr(compiling, "STEP", 1)  # nothing is compiled: other processes would be started for nothing
            patched.setattr(device, "launch", noted)
            with compiling.asked(True):
                metrics = trainer.step(batch)
        return {kinds(call) for call in compiled}, {kinds(call) for call in launched}, metrics

    return step
