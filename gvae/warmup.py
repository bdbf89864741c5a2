"""Compile every CPU kernel in both precisions into the cache on disk, so that no later process waits for a compiler.

The kernels are compiled by use: tiny calls of the public ops, forward and backward. These are rehearsed first, and what that
lists is compiled by a process for each CPU (see gvae.ahead). Use alone would forget a new kernel, so
`compile_kernels` then looks at every kernel of every module under gvae.kernels.cpu and names those that lack a version.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gvae import ahead, nn, ops, optim, random
from gvae.autodiff import gradient
from gvae.errors import ConfigError, GvaeError
from gvae.ops import dense
from gvae.runtime import device, launches, pool

__all__ = ["compile_kernels", "is_cold"]

PRECISIONS = ("float32", "float64")
PROCESSES = 16  # at most: each loads Numba, and the list has some sixty kernels for them
# (systems, variables): kernels may differ for a few systems, for a batch that fills SIMD lanes, and for one long system
SIZES = [(3, 6), (130, 20), (1, 100_000)]
BETWEEN_THREADS = ("_share.rouse", "_share.serve", "_wait.wait", "_wait.tell_and_wait")
GRAPHS = [(0, 1), (0, 1, 2, 3), (0, 1, 4)]  # offsets: chain, band, lattice


def compile_kernels(*, progress: bool = False) -> dict[str, Any]:
    """Kernels found, versions of them in the cache, how many of these are new, seconds, folder: a dict of plain values.

    Versions are those of this installation; others may lie beside them.
    Raises ConfigError if no cache folder can be written, GvaeError if a kernel is left without one of its versions.
    """
    started = time.perf_counter()
    kernels = {name: kernel for name, kernel in _kernels() if pool.count() > 1 or name not in BETWEEN_THREADS}
    before = _versions(kernels)
    uses = [use for dtype in PRECISIONS for use in _uses(np.dtype(dtype))]
    share, pool.SHARE = pool.SHARE, 1  # whatever can be shared is: shares are compiled too, per kernel
    try:
        ahead.compile_calls(ahead.rehearsed(*uses), most=PROCESSES, watch=partial(_watched, progress, "compiling"))
        for use in _watched(progress, "using", uses):
            try:
                launches.Graph(use, launches.Workspace()).launch()  # kernels are compiled for lists of launches as well
            except launches.NotCaptured:
                use(np.asarray)
        for dtype in PRECISIONS:
            _one_system_functions(np.dtype(dtype))
    finally:
        pool.SHARE = share
    versions = _versions(kernels)
    if versions == 0:
        raise ConfigError("compiled kernels cannot be kept: no folder for them can be written; set NUMBA_CACHE_DIR")
    missing = [name for name, kernel in kernels.items() if not _complete(kernel)]
    if missing:
        raise GvaeError(f"no call of the warm-up compiles {', '.join(missing)} in both precisions")
    return {
        "kernels": len(kernels),
        "compiled versions": versions,
        "new": versions - before,
        "seconds": round(time.perf_counter() - started, 2),
        # where they are, and not where they should be: Numba takes another place if it cannot write there
        "cache": ", ".join(sorted({str(path.parent) for kernel in kernels.values() for path in _files(kernel)})),
    }


def is_cold() -> bool:
    """Whether nothing is compiled yet for this installation: whoever comes first waits for some seconds."""
    from gvae.kernels.cpu import _jit

    return next(Path(_jit.cache_folder()).rglob("*.nbc"), None) is None


def _versions(kernels: dict[str, Any]) -> int:
    return sum(1 for kernel in kernels.values() for _ in _files(kernel))


def _files(kernel: Any) -> Iterator[Path]:
    """Its compiled versions on disk, by the names that Numba gives them."""
    if kernel.stats.cache_path is not None:  # None: it is not cached
        stem = Path(kernel.py_func.__code__.co_filename).stem
        yield from Path(kernel.stats.cache_path).glob(f"{stem}.{kernel.__name__}-*.nbc")


def _kernels() -> Iterator[tuple[str, Any]]:
    """(name, kernel) for everything compiled that is defined under gvae.kernels.cpu."""
    package = importlib.import_module("gvae.kernels.cpu")
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for name, value in vars(importlib.import_module(info.name)).items():
            if hasattr(value, "signatures") and value.py_func.__module__ == info.name:
                yield f"{info.name.removeprefix(f'{package.__name__}.')}.{name}", value


def _complete(kernel: Any) -> bool:
    """Whether a kernel has both precisions, or one version if it knows no floating type."""
    types = {str(getattr(t, "dtype", t)) for signature in kernel.signatures for t in signature}
    if types.issuperset(PRECISIONS) or (types and not types.intersection(PRECISIONS)):
        return True
    # Where its caller came from the cache, what a kernel calls was not loaded into this process: its files must be there.
    return sum(1 for _ in _files(kernel)) >= len(PRECISIONS)


def _watched(progress: bool, doing: str, items: Sequence[Any]) -> Iterable[Any]:
    if not progress:
        return items
    from tqdm import tqdm

    return tqdm(items, dynamic_ncols=True, desc=doing, disable=None)  # None: not on a terminal


Use = Callable[[Callable[[np.ndarray], Any]], Any]  # use(traced), as `launches.Graph` calls it


def _uses(dtype: np.dtype) -> Iterator[Use]:
    """Calls that between them reach every kernel in one precision, but for those of `_one_system_functions`."""
    for B, N in SIZES:
        for offsets in GRAPHS:
            yield from _banded(dtype, B, N, offsets)
        yield from _elementwise(dtype, B, N)
    yield from _draws(dtype)


def _value(f: Callable, *arrays: np.ndarray) -> Use:
    return lambda traced: f(*map(traced, arrays))


def _gradient(f: Callable, *arrays: np.ndarray) -> Use:
    return _value(lambda *a: gradient(lambda *a: ops.sum(f(*a)), *a), *arrays)


def _banded(dtype, B, N, offsets):
    chol = np.full((B, len(offsets), N), 0.1, dtype)
    chol[:, 0] = 1
    x = np.ones((B, N), dtype)
    yield _value(ops.logdet_banded, chol)
    given: dict[str, Any] = {"offsets": offsets, "check": False}  # a rehearsal ends where values are looked at
    for b in (x, np.stack([x, x])):  # one right-hand side of each factor, and two
        for trans in (False, True):
            yield _gradient(partial(ops.solve_triangular_banded, **given, trans=trans), chol, b)
            yield _gradient(partial(ops.multiply_triangular_banded, offsets=offsets, trans=trans), chol, b)
    for op in (ops.inverse_banded, ops.marginal_variances_banded):
        yield _gradient(partial(op, **given), chol)
    yield _gradient(partial(ops.cho_solve_banded, **given), chol, x)
    yield _gradient(partial(ops.sample_banded, **given), x, chol, x)
    yield _gradient(lambda *a: ops.multiply(*map(ops.sum, ops.sample_and_log_prob_banded(*a, **given))), x, chol, x)
    yield _gradient(partial(ops.log_prob_banded, **given), x, x, chol)
    yield _gradient(partial(ops.log_prob_of_draw_banded, check=False), chol, x)
    yield _gradient(partial(ops.kl_divergence_banded, **given), x, chol)
    yield _gradient(partial(ops.kl_divergence_banded, **given, prior_offsets=offsets), x, chol, x, chol)
    if len(offsets) == offsets[-1] + 1:
        yield _gradient(partial(ops.cholesky_banded, check=False), chol)
    if offsets == (0, 1):
        yield _value(partial(ops.inverse_banded, method="segments"), chol)
        growing = chol.copy()
        growing[:, 1] = 5  # where rounding errors would grow, segments leave it to the serial loop
        for c in (chol, growing):
            for trans in (False, True):
                yield _value(partial(ops.solve_triangular_banded, method="segments", trans=trans), c[:1], x[:1])
        scalar = np.full(B, 0.5, dtype)
        yield _gradient(ops.sample_ar1, x, scalar, scalar, x)
        yield _gradient(ops.log_prob_ar1, x, x, scalar, scalar)
        yield _gradient(ops.kl_divergence_ar1, x, scalar, scalar)


def _elementwise(dtype, B, N):
    x, bias = np.full((B, N), 0.5, dtype), np.zeros(4, dtype)
    for activation in ops.ACTIVATIONS:
        yield _gradient(partial(ops.affine, activation=activation), x, np.ones((N, 4), dtype), bias)
        yield _gradient(partial(dense.bias_activation, activation=activation), np.full((B, 4), 0.5, dtype), bias)
    yield _value(ops.bernoulli_log_prob, x, x)
    yield _gradient(partial(ops.bernoulli_log_prob, x), x)
    data, weight = np.full((B, 4), 0.5, dtype), np.ones((N, 4), dtype)
    yield _value(ops.bernoulli_affine_log_prob, data, x, weight, bias)
    yield _gradient(partial(ops.bernoulli_affine_log_prob, data), x, weight, bias)
    yield _gradient(partial(ops.normal_log_prob, x), x, x)
    yield _value(ops.log_mean_exp, x)
    for f in (ops.log_mean_exp, ops.normalized_weights, ops.effective_sample_size):
        yield _gradient(f, x)
    parameters, slope = (nn.Parameters({"network.weight": a}) for a in (x.copy(), x))
    yield _value(lambda: optim.Adam(parameters).update(slope))
    yield _value(lambda: optim.norm(slope.flat))


def _draws(dtype):
    key = random.fold_in(random.key(0), 1)
    for shape in ((3,), (100_000,)):
        for draw in (random.normal, random.rademacher, random.uniform):
            yield _value(partial(draw, key, shape, dtype))
        yield _value(partial(random.bernoulli, key, np.full(shape, 0.5, dtype)))
    yield _value(partial(random.permutation, key, 3))


def _one_system_functions(dtype):
    """What users call from jitted code of their own, and no op need call; arguments by their letters (see the kernels)."""
    M, N = 2, 6
    band, vector = np.full((M, N), 0.1, dtype), np.ones(N, dtype)
    band[0] = 1
    letters: dict[str, Any] = {
        **dict.fromkeys(("chol", "ab", "chol_bar", "ab_bar", "s", "s_bar"), band),
        **dict.fromkeys(("x", "y"), vector),
        **dict.fromkeys(("k0", "k1", "c0", "c1", "c2", "c3"), np.uint32(0)),
        "offsets": np.arange(M),
        **dict.fromkeys(("first", "k"), np.int64(0)),
        **dict.fromkeys(("n", "systems", "N", "K"), np.int64(1)),
        **dict.fromkeys(("owners", "starts", "row"), np.zeros(device.LANES, np.int64)),
        "rows": np.zeros((1, 1), np.int64),
    }
    for _, kernel in _kernels():
        code = kernel.py_func.__code__
        names = code.co_varnames[: code.co_argcount]
        if all(name in letters for name in names):
            kernel(*(letters[name].copy() for name in names))
