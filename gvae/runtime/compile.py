"""Kernels compiled before their first use, by as many processes as there are CPUs.

Numba compiles in one thread, and a first training step needs a dozen kernels, of some seconds each. What they leave in the
cache on disk is loaded where it is used.

Which kernels, and for which types? `rehearsed(run)` lists the launches that a function makes, without making them:
- a trainer's first step rehearses itself (`asked` says whether; it has the workers start while data are read);
- `compile_kernels`, all there are, in both precisions, rehearses what REGISTRY holds. A primitive enters itself there, by
  its contract (see `uses_of`); other functions that launch kernels, by the decorator `registered`. A kernel that no entry
  reaches is named, so that none can be forgotten.
`compile_calls` then has the list compiled: this process from the front, the workers of a ProcessPoolExecutor from the back.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import itertools
import os
import pkgutil
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gvae.errors import ConfigError, GvaeError
from gvae.kernels import LANES
from gvae.runtime import launches, limits, pool
from gvae.runtime.context import context, entered

__all__ = ["asked", "compile_calls", "compile_kernels", "is_asked", "is_cold", "registered", "rehearsed", "uses_of"]

STEP = 4  # processes for a step, which has few kernels that take long
ALL = 16  # for all kernels: each loads Numba, and the list has some sixty kernels for them
MEMORY = 1 << 30  # bytes of what there is for each process: a worker takes up to 0.4 GB, the caller has data

Call = tuple[str, str, tuple]  # the module of a kernel, its name, arguments of the types of a call
Use = Callable[[Callable[[np.ndarray], Any]], Any]  # use(traced), as `launches.Graph` calls it

# ---- what there is to compile

REGISTRY: list[Callable[[np.dtype], Iterable[Use]]] = []  # entries(dtype): calls that launch kernels for arrays of a dtype
FILLED_BY = ("gvae.ops", "gvae.random", "gvae.optim")  # entries are made where these are imported

PRECISIONS = ("float32", "float64")
# (systems, variables): kernels may differ for a few systems, for a batch that fills SIMD lanes, and for one long system
SIZES = [(3, 6), (130, 20), (1, 100_000)]
SMALL = 4  # any other axis


def registered(entry: Callable[[np.dtype], Iterable[Use]]) -> Callable[[np.dtype], Iterable[Use]]:
    """Decorator: the calls entry(dtype) launch kernels, for all types of arguments that come with arrays of a dtype."""
    REGISTRY.append(entry)
    return entry


def uses_of(
    function: Callable[..., Any], contract: str, settings: Mapping[str, Sequence[Any]], dtype: np.dtype
) -> Iterator[Use]:
    """Calls of a function with arrays that fit its contract, "chol: ... M N, b: ... N" (see gvae.checks), and with every
    combination of the settings.

    settings : name -> values. `offsets` decide the size of the axis M, on which the first entry of a factor is 1
    """
    arrays = [(name, axes.split()) for name, axes in (part.split(":") for part in contract.split(","))]
    for (systems, variables), values in itertools.product(SIZES, itertools.product(*settings.values())):
        given = dict(zip(settings, values, strict=True))
        sizes = {"...": systems, "N": variables, "M": len(given.get("offsets", range(3)))}
        for repeats in ((), (2,)):  # each argument as often as the others, and all but factors twice as often
            made = [_array(axes, sizes, () if "M" in axes else repeats, dtype) for _, axes in arrays]
            yield partial(_call, function, made, given)


def _call(function: Callable[..., Any], arrays: list[np.ndarray], settings: dict[str, Any], traced: Callable) -> Any:
    return function(*map(traced, arrays), **settings)


def _array(axes: Sequence[str], sizes: dict[str, int], repeats: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    lead = repeats if axes[0] == "..." else ()
    array = np.full((*lead, *(sizes.get(axis, SMALL) for axis in axes)), 0.1, dtype)
    if "M" in axes:
        array[..., 0, :] = 1
    return array


# ---- all of it


def _uses(dtype: np.dtype) -> Iterator[Use]:
    for module in FILLED_BY:
        dir(importlib.import_module(module))  # which imports all of gvae.ops
    for entry in REGISTRY:
        yield from entry(dtype)


def compile_kernels(*, progress: bool = False) -> dict[str, Any]:
    """Kernels found, versions of them in the cache, how many of these are new, seconds, folder: a dict of plain values.

    Versions are those of this installation; others may lie beside them.
    Raises ConfigError if no cache folder can be written, GvaeError if a kernel is left without one of its versions.
    """
    started = time.perf_counter()
    found = dict(_kernels())
    before = _versions(found)  # first: the self-test of threads compiles some
    kernels = {name: kernel for name, kernel in found.items() if not name.startswith(_unused())}
    uses = [use for dtype in PRECISIONS for use in _uses(np.dtype(dtype))]
    with entered(share=1):  # whatever can be shared is: shares are compiled too, per kernel
        compile_calls(rehearsed(*uses), most=ALL, watch=partial(_watched, progress, "compiling"))
        for use in _watched(progress, "using", uses):
            try:
                launches.Graph(use, launches.Workspace()).launch()  # kernels are compiled for lists of launches as well
            except launches.NotCaptured:
                use(np.asarray)
        for dtype in PRECISIONS:
            _one_system_functions(np.dtype(dtype))
    versions = _versions(kernels)
    if versions == 0:
        raise ConfigError("compiled kernels cannot be kept: no folder for them can be written; set NUMBA_CACHE_DIR")
    missing = [name for name, kernel in kernels.items() if not _complete(kernel)]
    if missing:
        raise GvaeError(f"no entry of the registry compiles {', '.join(missing)} in both precisions")
    return {
        "kernels": len(kernels),
        "compiled versions": versions,
        "new": versions - before,
        "seconds": round(time.perf_counter() - started, 2),
        # where they are, and not where they should be: Numba takes another place if it cannot write there
        "cache": ", ".join(sorted({str(path.parent) for kernel in kernels.values() for path in _files(kernel)})),
    }


BETWEEN_THREADS = ("_share.rouse", "_share.serve", "_wait.wait", "_wait.tell_and_wait")


def _unused() -> tuple[str, ...]:
    """Kernels, or modules of them, that this process does not need."""
    if not pool.works():
        return ("_share.", "_wait.")
    return BETWEEN_THREADS if pool.count() == 1 else ()


def is_cold() -> bool:
    """Whether nothing is compiled yet for this installation: the first user waits for some seconds."""
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
        **dict.fromkeys(("owners", "starts", "row"), np.zeros(LANES, np.int64)),
        "rows": np.zeros((1, 1), np.int64),
    }
    for _, kernel in _kernels():
        code = kernel.py_func.__code__
        names = code.co_varnames[: code.co_argcount]
        if all(name in letters for name in names):
            kernel(*(letters[name].copy() for name in names))


# ---- processes that compile


@contextlib.contextmanager
def asked(wanted: bool) -> Iterator[None]:
    """In the block, a trainer's first step has its kernels compiled by several processes, if that is wanted."""
    workers = [_Workers(STEP)] if wanted else None
    with entered(compilers=workers):
        try:
            yield
        finally:
            for left in workers or ():
                left.end()


def is_asked() -> bool:
    return context.compilers is not None


class _Workers:
    """Processes that compile: as many as there are CPUs for them, this process counted. None outlives this process."""

    def __init__(self, most: int):
        from gvae.kernels.cpu import _share

        self.ready: list[Any] = []  # a future of each
        self.done = threading.Semaphore(0)
        n = min(pool.count(), pool.cpus(), most, (limits.memory() or sys.maxsize) // MEMORY) - 1
        if n <= 0 or _share.share.stats.cache_path is None:  # what they compile would be lost
            return
        from concurrent.futures import ProcessPoolExecutor  # not before: most commands compile nothing
        from multiprocessing import get_context

        spawn = get_context("spawn")  # a fork would have the locks of this process's threads, and not the threads
        theirs, self.held = spawn.Pipe(duplex=False)
        # Without semaphores, a process more, or the right to have one (a daemon's), this process compiles alone.
        with contextlib.suppress(OSError, ImportError, NotImplementedError, AssertionError):
            self.pool = ProcessPoolExecutor(n, spawn, initializer=_begin, initargs=(theirs,))
            with _no_interrupt(), _no_main():
                for _ in range(n):
                    self.ready.append(self.pool.submit(pool.prepare))
        theirs.close()

    def compile(self, left: dict[int, Call]) -> None:
        """Have each that is ready take the last of the calls that are left, and the next one when it is done."""

        def take(done: Any) -> None:
            if done.cancelled() or done.exception() is not None:  # its process has ended, and with it the pool
                return
            with contextlib.suppress(KeyError):  # nothing is left
                _, call = left.popitem()
                try:
                    taken = self.pool.submit(_compile, call)
                except RuntimeError:  # the pool has ended
                    self.done.release()
                else:
                    taken.add_done_callback(lambda _: self.done.release())
                    taken.add_done_callback(take)

        for future in self.ready:
            future.add_done_callback(take)

    def wait(self, n: int) -> None:
        """Until the n calls that they have taken are done, or will not be."""
        for _ in range(n):
            self.done.acquire()

    def end(self) -> None:
        if self.ready:
            self.held.close()
            self.pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """What is started in the block does not see Ctrl-C, which the terminal sends to all processes of a command."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """What is started in the block does not import the main module, as multiprocessing has it: a script would run again."""
    main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _begin(held: Any) -> None:
    """In a worker: silence, and an end when the caller lets go or ends, however that comes."""

    def end_with_caller() -> None:
        with contextlib.suppress(EOFError, OSError):
            held.recv()
        os._exit(1)

    if hasattr(os, "setsid"):  # a session of its own: what the terminal sends is for the caller
        os.setsid()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    threading.Thread(target=end_with_caller, daemon=True).start()
    atexit.register(os._exit, 0)  # to tidy up the interpreter takes longer than to compile some kernels


class _Rehearsal(launches.Graph):
    """No kernel is called: what they would write has arbitrary values, so nothing else may rely on these."""

    def __init__(self, run: Callable[[Callable], Any], calls: list[Call]):
        self.calls = calls
        super().__init__(run, launches.Workspace())

    def over(self, kernel: Any, *arguments: Any, n: int, work: int, step: int = 1) -> None:
        if not hasattr(type(kernel), "signatures"):
            super().over(kernel, *arguments, n=n, work=work, step=step)
            return
        like = tuple(np.empty((0,) * x.ndim, x.dtype) if isinstance(x, np.ndarray) else x for x in arguments)
        call = kernel.py_func.__module__, kernel.__name__, like
        if not any(_same(call, other) for other in self.calls):
            self.calls.append(call)


def rehearsed(*runs: Callable[[Callable[[np.ndarray], Any]], Any]) -> list[Call]:
    """The launches that each `run(traced)` makes, one of each kind, as far as it comes without the values that kernels
    compute; traced as for `launches.Graph`."""
    calls: list[Call] = []
    for run in runs:
        with np.errstate(all="ignore"), contextlib.suppress(Exception):
            _Rehearsal(run, calls)
    return calls


def compile_calls(
    calls: list[Call], most: int = STEP, watch: Callable[[Sequence[int]], Iterable[int]] = lambda order: order
) -> None:
    """Have the kernels in the cache, or in this process: all of them but for what a worker has taken and then not done.
    most : processes      watch(order) : order again, to see how far this process is"""
    workers = context.compilers.pop() if context.compilers else _Workers(most)
    left = dict(enumerate(calls))
    try:
        workers.compile(left)
        own = 0
        for i in watch(range(len(calls))):
            call = left.pop(i, None)
            if call is not None:
                _compile(call)
                own += 1
        workers.wait(len(calls) - own)
    finally:
        workers.end()


def _compile(call: Call) -> None:
    from gvae.kernels.cpu import _share

    module, name, arguments = call
    with contextlib.suppress(Exception):  # the same error shows where the kernel is used
        _share.packed(getattr(importlib.import_module(module), name), arguments)


def _same(call: Call, other: Call) -> bool:
    return call[:2] == other[:2] and all(map(_alike, call[2], other[2]))


def _alike(x: Any, y: Any) -> bool:
    return type(x) is type(y) and (not isinstance(x, np.ndarray) or (x.dtype, x.ndim) == (y.dtype, y.ndim))
