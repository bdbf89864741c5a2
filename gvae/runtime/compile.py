"""Kernels compiled before their first use, in parallel, by at most one process per CPU.

Numba compiles in one thread, and a first training step needs a dozen kernels, which take some seconds each. The processes
write the compiled code to the cache on disk, from which it is loaded when it is first used.

The kernels and the types of their arguments are found by `rehearsed(run)`, which lists the launches of a function without
executing them:
- within a block of `asked`, which starts the workers while data are read, a trainer's first step calls it on itself;
- `compile_kernels`, for all kernels in both precisions, calls it on the entries of REGISTRY. A primitive is registered by
  its contract (see `uses_of`), other functions that launch kernels by the decorator `registered`. A kernel that no entry
  reaches is an error, so that none can be forgotten.
`compile_calls` then compiles the list: this process from the front, the workers of a ProcessPoolExecutor from the back.
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

STEP = 4  # processes for the kernels of a step, few of which take long
ALL = 16  # for all kernels: each loads Numba, and there are about sixty kernels to distribute
MEMORY = 1 << 30  # bytes of memory required per process: a worker uses up to 0.4 GB, the caller has data

Call = tuple[str, str, tuple]  # the module of a kernel, its name, arguments of the types of a call
Use = Callable[[Callable[[np.ndarray], Any]], Any]  # use(traced), as `launches.Graph` calls it

# ---- the kernels to compile

REGISTRY: list[Callable[[np.dtype], Iterable[Use]]] = []  # entries(dtype): calls that launch kernels for arrays of a dtype
FILLED_BY = ("gvae.ops", "gvae.random", "gvae.optim")  # importing these registers the entries

PRECISIONS = ("float32", "float64")
# (systems, variables): kernels may differ for a few systems, for a batch that fills SIMD lanes, and for one long system
SIZES = [(3, 6), (130, 20), (1, 100_000)]
SMALL = 4  # any other axis


def registered(entry: Callable[[np.dtype], Iterable[Use]]) -> Callable[[np.dtype], Iterable[Use]]:
    """Decorator: register entry(dtype), calls that launch kernels for all types of arguments with arrays of a dtype."""
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
        for repeats in ((), (2,)):  # arguments with equal batch axes, and all but factors with twice the batch
            made = [_array(axes, sizes, () if "M" in axes else repeats, dtype) for _, axes in arrays]
            yield partial(_call, function, made, given)


def _call(function: Callable[..., Any], arrays: list[np.ndarray], settings: dict[str, Any], traced: Callable) -> Any:
    return function(*map(traced, arrays), **settings)


def _array(axes: Sequence[str], sizes: dict[str, int], repeats: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    lead = repeats if axes[:1] == ["..."] else ()  # none: a scalar
    array = np.full((*lead, *(sizes.get(axis, SMALL) for axis in axes)), 0.1, dtype)
    if "M" in axes:
        array[..., 0, :] = 1
    return array


# ---- all kernels


def _uses(dtype: np.dtype) -> Iterator[Use]:
    for module in FILLED_BY:
        dir(importlib.import_module(module))  # which imports all of gvae.ops
    for entry in REGISTRY:
        yield from entry(dtype)


def compile_kernels(*, progress: bool = False) -> dict[str, Any]:
    """Compile all kernels. Returns a dict: kernels, their versions in the cache, new ones among these, seconds, folder.

    Versions are those of this installation; the folder may have others.
    Raises ConfigError if no cache folder can be written, GvaeError if a version of a kernel is missing at the end.
    """
    started = time.perf_counter()
    found = dict(_kernels())
    before = _versions(found)  # counted first: the self-test of threads compiles some
    kernels = {name: kernel for name, kernel in found.items() if not name.startswith(_unused())}
    uses = [use for dtype in PRECISIONS for use in _uses(np.dtype(dtype))]
    with entered(share=1):  # all work is shared, if possible: shares are compiled as well, per kernel
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
        "new": _versions(found) - before,
        "seconds": round(time.perf_counter() - started, 2),
        # the actual folder: Numba uses another one if it cannot write to the preferred one
        "cache": os.path.commonpath([path.parent for kernel in kernels.values() for path in _files(kernel)]),
    }


BETWEEN_THREADS = ("_share.rouse", "_share.serve", "_wait.wait", "_wait.tell_and_wait")


def _unused() -> tuple[str, ...]:
    """Prefixes of kernels that this process does not need."""
    if not pool.works():
        return ("_share.", "_wait.")
    return BETWEEN_THREADS if pool.count() == 1 else ()


def is_cold() -> bool:
    """Whether nothing is compiled yet for this installation: the first use takes some seconds longer."""
    from gvae.kernels.cpu import _jit

    return next(Path(_jit.cache_folder()).rglob("*.nbc"), None) is None


def _versions(kernels: dict[str, Any]) -> int:
    return sum(1 for kernel in kernels.values() for _ in _files(kernel))


def _files(kernel: Any) -> Iterator[Path]:
    """The files of a kernel's compiled versions, by Numba's naming."""
    if kernel.stats.cache_path is not None:  # None: it is not cached
        stem = Path(kernel.py_func.__code__.co_filename).stem
        yield from Path(kernel.stats.cache_path).glob(f"{stem}.{kernel.__name__}-*.nbc")


def _kernels() -> Iterator[tuple[str, Any]]:
    """(name, kernel) of all compiled functions defined under gvae.kernels.cpu."""
    package = importlib.import_module("gvae.kernels.cpu")
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for name, value in vars(importlib.import_module(info.name)).items():
            if hasattr(value, "signatures") and value.py_func.__module__ == info.name:
                yield f"{info.name.removeprefix(f'{package.__name__}.')}.{name}", value


def _complete(kernel: Any) -> bool:
    """Whether a kernel has versions for both precisions, or one version if it has no floating-point argument or only other
    kernels call it: those then have both, and it has what they need."""
    least = 1 if kernel.targetoptions.get("no_cpython_wrapper") else len(PRECISIONS)
    if least == 1 and kernel.signatures:
        return True
    types = {str(getattr(t, "dtype", t)) for signature in kernel.signatures for t in signature}
    if types.issuperset(PRECISIONS) or (types and not types.intersection(PRECISIONS)):
        return True
    # If its caller was loaded from the cache, this kernel was not loaded itself: its files must exist.
    return sum(1 for _ in _files(kernel)) >= least


def _watched(progress: bool, doing: str, items: Sequence[Any]) -> Iterable[Any]:
    if not progress:
        return items
    from tqdm import tqdm

    return tqdm(items, dynamic_ncols=True, desc=doing, disable=None)  # None: not on a terminal


def _one_system_functions(dtype: np.dtype) -> None:
    """Call the functions for users' jitted code, which ops need not call; arguments by their letters (see the kernels)."""
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
    """In the block, the kernels of a trainer's first step are compiled by several processes, if `wanted`."""
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
    """Processes that compile: one per available CPU, including this process. They end with this process at the latest."""

    def __init__(self, most: int):
        from gvae.kernels.cpu import _share

        self.ready: list[Any] = []  # a future per process, done when it has started
        self.done = threading.Semaphore(0)
        n = min(pool.count(), pool.cpus(), most, (limits.memory() or sys.maxsize) // MEMORY) - 1
        if n <= 0 or _share.share.stats.cache_path is None:  # their results would be lost
            return
        from concurrent.futures import ProcessPoolExecutor  # imported here: most commands compile nothing
        from multiprocessing import get_context

        spawn = get_context("spawn")  # a fork would inherit the locks of threads, without the threads
        theirs, self.held = spawn.Pipe(duplex=False)
        # Without semaphores, or where no process can or may be started (in a daemon), this process compiles alone.
        with contextlib.suppress(OSError, ImportError, NotImplementedError, AssertionError):
            self.pool = ProcessPoolExecutor(n, spawn, initializer=_begin, initargs=(theirs,))
            with _no_interrupt(), _no_main():
                for _ in range(n):
                    self.ready.append(self.pool.submit(pool.prepare))
        theirs.close()

    def compile(self, left: dict[int, Call]) -> None:
        """Let each process that is ready compile the last of the remaining calls, and the next when it is done."""

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
        """Wait until the n calls that the processes have taken are done or abandoned."""
        for _ in range(n):
            self.done.acquire()

    def end(self) -> None:
        if self.ready:
            self.held.close()
            self.pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Processes started in the block ignore Ctrl-C, which the terminal sends to all processes of a command."""
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
    """Processes started in the block do not import the main module, as multiprocessing does: a script would run again."""
    main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _begin(held: Any) -> None:
    """Initialise a worker: no output, and exit when the caller closes the pipe or ends, in whatever way."""

    def end_with_caller() -> None:
        with contextlib.suppress(EOFError, OSError):
            held.recv()
        os._exit(1)

    if hasattr(os, "setsid"):  # a session of its own: the terminal's signals are for the caller
        os.setsid()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    threading.Thread(target=end_with_caller, daemon=True).start()
    atexit.register(os._exit, 0)  # an orderly exit takes longer than compiling some kernels


class _Rehearsal(launches.Graph):
    """A graph whose kernels are not called: their results are zeros, on which nothing may rely. With uninitialised memory,
    LAPACK would fail or not by chance."""

    def __init__(self, run: Callable[[Callable], Any], calls: list[Call]):
        self.calls = calls
        super().__init__(run, launches.Workspace())

    def empty(self, shape: Any, dtype: Any) -> Any:
        array = super().empty(shape, dtype)
        array.view(np.ndarray).fill(0)
        return array

    def over(self, kernel: Any, *arguments: Any, n: int, work: int, step: int = 1) -> None:
        if not hasattr(type(kernel), "signatures"):
            super().over(kernel, *arguments, n=n, work=work, step=step)
            return
        like = tuple(np.empty((0,) * x.ndim, x.dtype) if isinstance(x, np.ndarray) else x for x in arguments)
        call = kernel.py_func.__module__, kernel.__name__, like
        if not any(_same(call, other) for other in self.calls):
            self.calls.append(call)


def rehearsed(*runs: Callable[[Callable[[np.ndarray], Any]], Any]) -> list[Call]:
    """The launches of each `run(traced)`, one of each kind, up to where it needs values that kernels compute; traced as
    for `launches.Graph`."""
    calls: list[Call] = []
    for run in runs:
        with np.errstate(all="ignore"), contextlib.suppress(Exception):
            _Rehearsal(run, calls)
    return calls


def compile_calls(
    calls: list[Call], most: int = STEP, watch: Callable[[Sequence[int]], Iterable[int]] = lambda order: order
) -> None:
    """Compile the kernels of calls into the cache or this process: all except those that a worker took and did not finish.
    most : the largest number of processes      watch(order) : iterates over order, to show progress"""
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
    with contextlib.suppress(Exception):  # the same error is raised where the kernel is used
        _share.packed(getattr(importlib.import_module(module), name), arguments)


def _same(call: Call, other: Call) -> bool:
    return call[:2] == other[:2] and all(map(_alike, call[2], other[2]))


def _alike(x: Any, y: Any) -> bool:
    return type(x) is type(y) and (not isinstance(x, np.ndarray) or (x.dtype, x.ndim) == (y.dtype, y.ndim))
