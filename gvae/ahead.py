"""Kernels compiled before their first use, by as many processes as there are CPUs.

Numba compiles in one thread, and a first training step needs a dozen kernels, of some seconds each. `rehearsed(run)` lists
the launches that a function makes without making them, and `compile_calls` has their kernels compiled: each process takes
those that nobody has claimed yet, this one from the front, the others from the back. What they leave in the cache on disk is
loaded where it is used. It is for programs that own their process: `asked` says so, and has the others start while data are
read; trainers heed it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from gvae.runtime import launches, pool

__all__ = ["asked", "compile_calls", "is_wanted", "rehearsed"]

MOST = 4  # processes for a step, which has few kernels that take long

Call = tuple[str, str, tuple]  # the module of a kernel, its name, arguments of the types of a call

_wanted = False
_others: list[subprocess.Popen] = []  # who wait for calls


@contextlib.contextmanager
def asked(wanted: bool) -> Iterator[None]:
    """In the block, a trainer's first step has its kernels compiled by several processes, if that is wanted."""
    global _wanted, _others
    before, _wanted, _others = (_wanted, _others), wanted, _started() if wanted else []
    try:
        yield
    finally:
        _end(_others)
        _wanted, _others = before


def is_wanted() -> bool:
    return _wanted


def _started(most: int = MOST) -> list[subprocess.Popen]:
    """Processes that make themselves ready, and wait for calls."""
    from gvae.kernels.cpu import _share

    if _share.share.stats.cache_path is None:  # what they compile would be lost
        return []
    settings: dict[str, Any] = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
    settings |= {"stdin": subprocess.PIPE, "start_new_session": True}  # a session of its own, which Ctrl-C does not reach
    command = [sys.executable, "-m", "gvae.ahead"]
    return [subprocess.Popen(command, **settings) for _ in range(min(pool.count(), pool.cpus(), most) - 1)]


def _end(others: list[subprocess.Popen]) -> None:
    for other in others:
        other.kill()
        other.communicate()


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
    """Have the kernels in the cache, or in this process: all of them but for what another process has claimed and then not
    done. most : processes      watch(order) : order again, for whoever wants to see this one go through the calls"""
    global _others
    others, _others = _others or _started(most), []
    try:
        with tempfile.TemporaryDirectory(prefix="gvae-ahead-", ignore_cleanup_errors=True) as folder:
            for other in others:
                with contextlib.suppress(OSError):  # it has ended
                    stream: Any = other.stdin
                    stream.write(pickle.dumps((folder, calls)))
                    stream.close()
            _compile_unclaimed(calls, watch(range(len(calls))), folder)
            for other in others:
                other.wait()
    finally:
        _end(others)


def _compile_unclaimed(calls: list[Call], order: Iterable[int], folder: str) -> None:
    from gvae.kernels.cpu import _share

    for i in order:
        try:
            os.close(os.open(os.path.join(folder, str(i)), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        module, name, arguments = calls[i]
        with contextlib.suppress(Exception):  # whatever it is, it shows where the kernel is used
            _share.packed(getattr(importlib.import_module(module), name), arguments)


def _same(call: Call, other: Call) -> bool:
    return call[:2] == other[:2] and all(map(_alike, call[2], other[2]))


def _alike(x: Any, y: Any) -> bool:
    return type(x) is type(y) and (not isinstance(x, np.ndarray) or (x.dtype, x.ndim) == (y.dtype, y.ndim))


def _help() -> None:
    """What another process does."""
    pool.prepare()
    folder, calls = pickle.load(sys.stdin.buffer)
    _compile_unclaimed(calls, reversed(range(len(calls))), folder)


if __name__ == "__main__":
    _help()
