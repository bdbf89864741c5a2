"""Kernels compiled before their first use, by as many processes as there are CPUs.

Numba compiles in one thread, and a first training step needs a dozen kernels, of some seconds each. `rehearsed(run)` lists
the launches that a function makes without making them, and `compile_calls` has their kernels compiled: this process takes
them from the front of the list, the workers of a ProcessPoolExecutor from the back. What they leave in the cache on disk is
loaded where it is used. It is for programs that own their process: `asked` says so, and has the workers start while data
are read; trainers heed it.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from gvae.runtime import launches, limits, pool

__all__ = ["asked", "compile_calls", "is_wanted", "rehearsed"]

MOST = 4  # processes for a step, which has few kernels that take long
MEMORY = 1 << 30  # bytes of what there is for each process: a worker takes up to 0.4 GB, the caller has data

Call = tuple[str, str, tuple]  # the module of a kernel, its name, arguments of the types of a call

_wanted = False
_workers: _Workers | None = None  # who wait for calls


@contextlib.contextmanager
def asked(wanted: bool) -> Iterator[None]:
    """In the block, a trainer's first step has its kernels compiled by several processes, if that is wanted."""
    global _wanted, _workers
    before, _wanted, _workers = (_wanted, _workers), wanted, _Workers(MOST) if wanted else None
    try:
        yield
    finally:
        if _workers is not None:
            _workers.end()
        _wanted, _workers = before


def is_wanted() -> bool:
    return _wanted


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
    """Kernels are called by nobody: what they would write has arbitrary values, so nothing else may rely on these."""

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
    calls: list[Call], most: int = MOST, watch: Callable[[Sequence[int]], Iterable[int]] = lambda order: order
) -> None:
    """Have the kernels in the cache, or in this process: all of them but for what a worker has taken and then not done.
    most : processes      watch(order) : order again, for whoever wants to see this one go through the calls"""
    global _workers
    workers, _workers = _workers or _Workers(most), None
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
    with contextlib.suppress(Exception):  # whatever it is, it shows where the kernel is used
        _share.packed(getattr(importlib.import_module(module), name), arguments)


def _same(call: Call, other: Call) -> bool:
    return call[:2] == other[:2] and all(map(_alike, call[2], other[2]))


def _alike(x: Any, y: Any) -> bool:
    return type(x) is type(y) and (not isinstance(x, np.ndarray) or (x.dtype, x.ndim) == (y.dtype, y.ndim))
