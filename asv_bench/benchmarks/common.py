"""What the benchmarks share: fixed data, one warm-up call, skipping, baselines as a parameter.

A class times one thing. Its first parameter is the implementation: "gvae", or a baseline that computes the same numbers
("numpy", "scipy", "lapack", "dense", "torch", "jax_scan", ...). Each implementation is a method of that name; it receives
the other parameters, makes the data and returns the call to be timed:

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

`Op` is the common case, one public operation forward and with its gradient: it writes the method `gvae` itself.

What belongs to one implementation only, gvae above all, is imported inside its method: a file then loads on commits that
lack it, and asv reports that one implementation as failed. The lists of parameters never depend on the machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

# Under asv's fork server all benchmarks inherit these imports, which otherwise take longer than most of the timings.
# Neither PyTorch nor JAX: their threads do not survive a fork.
for _name in ("gvae.ops.banded", "gvae.kernels.cpu.banded", "scipy.linalg", "scipy.sparse"):
    with contextlib.suppress(ImportError):
        importlib.import_module(_name)

SEED = 20240607
MODES = ["forward", "gradient"]  # the value alone, or the value and the cotangent of every array
DTYPES = ["float32", "float64"]
DENSE_LIMIT = 2**25  # entries of a batch of full matrices: 128 MiB in float32


class Benchmark:
    """Base class: see above. A combination that makes no sense raises NotImplementedError in its method: asv skips it."""

    params: tuple
    param_names: tuple[str, ...]
    agree = (
        True  # do all implementations return the same numbers? tests/project/test_benchmarks.py compares them where they do
    )

    # At least 5 calls, at most 200, about 0.3 s, twice. asv runs setup, and then ONE call, per sample: with many samples
    # the median is steady even for a call of some microseconds.
    repeat = (5, 200, 0.3)
    warmup_time = 0.05
    timeout = 120

    call: Callable[[], Any]
    to_numpy: Callable[[Any], tuple]  # a call's result as gvae's own would be, for the comparison only: never timed
    _prepared: tuple | None = None

    def setup(self, implementation: str, *params: Any) -> None:
        if self._prepared == (implementation, *params):  # asv comes here before every sample
            return
        prepare = getattr(self, implementation, None)
        if prepare is None:
            raise NotImplementedError(f"{type(self).__name__} has no {implementation} form")
        self.rng = np.random.default_rng(SEED)  # every implementation sees the same data
        self.to_numpy = lambda result: result if isinstance(result, tuple) else (result,)
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


class Op(Benchmark):
    """One public operation. The parameters: implementation, mode, then those that `data` and `op` receive.

    data(*params)     the arrays, a tuple; all of them are differentiated
    op(ops, *params)  the function of these arrays, in terms of gvae.ops
    """

    def gvae(self, mode, *params):
        from gvae import ops

        arrays = self.data(*params)
        f = self.op(ops, *params)
        return with_gradient(f, arrays, self.cotangent(f(*arrays))) if mode == "gradient" else lambda: f(*arrays)

    def cotangent(self, value):
        """Drawn after the data, by every implementation alike."""
        return self.normal(*value.shape, dtype=value.dtype)


def with_gradient(f: Callable, arrays: tuple, cotangent: Any) -> Callable[[], tuple]:
    """A call that runs f on the tape and back: (value, cotangents of the arrays)."""
    from gvae.autodiff import vjp

    def call():
        value, pull = vjp(f, *arrays)
        bars = pull(cotangent)
        return value, *(bars if len(arrays) > 1 else (bars,))

    return call


def only(condition: bool, why: str = "this implementation has no such form") -> None:
    """Skip the combination otherwise."""
    if not condition:
        raise NotImplementedError(why)


def optional(name: str) -> ModuleType:
    """A library that need not be there: without it its benchmarks are n/a."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise NotImplementedError(f"{name} is not installed") from None
