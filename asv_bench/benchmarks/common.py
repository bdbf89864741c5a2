"""What the benchmarks share: fixed data, one warm-up call, skipping, baselines as a parameter.

A class times one thing. Its first parameter is the implementation: "gvae", or a baseline that computes the same numbers
("numpy", "scipy", "dense"). Each implementation is a method of that name; it receives the other parameters, makes the data
and returns the call to be timed:

    class Solve(Benchmark):
        params = (["gvae", "dense"], SHAPES)
        param_names = ("implementation", "shape")

        def gvae(self, shape):
            from gvae import ops
            chol, b = ...
            return lambda: ops.solve_triangular_banded(chol, b)

        def dense(self, shape): ...

        def time_solve(self, *_):
            return self.call()

What belongs to one implementation only, gvae above all, is imported inside its method: a file then loads on commits that
lack it, and asv reports that one implementation as failed. The lists of parameters never depend on the machine.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

SEED = 20240607


class Benchmark:
    """Base class: see above. A combination that makes no sense raises NotImplementedError in its method: asv skips it."""

    params: tuple
    param_names: tuple[str, ...]
    agree = True  # do all implementations return the same numbers? tests/test_benchmarks.py compares them where they do

    # At least 5 calls, at most 200, about 0.3 s, twice. asv runs setup, and then ONE call, per sample: with many samples
    # the median is steady even for a call of some microseconds.
    repeat = (5, 200, 0.3)
    warmup_time = 0.05
    timeout = 120

    call: Callable[[], Any]
    _prepared: tuple | None = None

    def setup(self, implementation: str, *params: Any) -> None:
        if self._prepared == (implementation, *params):  # asv comes here before every sample
            return
        prepare = getattr(self, implementation, None)
        if prepare is None:
            raise NotImplementedError(f"{type(self).__name__} has no {implementation} form")
        self.rng = np.random.default_rng(SEED)  # every implementation sees the same data
        self.call = prepare(*params)
        self.call()  # compiles, and touches all memory
        self._prepared = (implementation, *params)

    @property
    def version(self) -> str:
        """asv compares results of one version only: a hash of the text that says what is timed."""
        classes = [c for c in type(self).__mro__ if issubclass(c, Benchmark) and c is not Benchmark]
        return hashlib.sha256("".join(map(inspect.getsource, classes)).encode()).hexdigest()

    def normal(self, *shape: int, dtype: Any = np.float32) -> np.ndarray:
        return self.rng.standard_normal(shape).astype(dtype)

    def uniform(self, low: float, high: float, *shape: int, dtype: Any = np.float32) -> np.ndarray:
        return self.rng.uniform(low, high, shape).astype(dtype)

    def binary(self, *shape: int, dtype: Any = np.float32) -> np.ndarray:
        return (self.rng.random(shape) < 0.3).astype(dtype)


def with_gradient(f: Callable, arrays: tuple, cotangent: Any) -> Callable[[], tuple]:
    """A call that runs f on the tape and back: (value, cotangents of the arrays)."""
    from gvae.autodiff import vjp

    def call():
        value, pull = vjp(f, *arrays)
        bars = pull(cotangent)
        return value, *(bars if len(arrays) > 1 else (bars,))

    return call
