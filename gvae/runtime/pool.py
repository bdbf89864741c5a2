"""A small pool of threads over ranges of systems, for kernels that release the interpreter lock.

How many threads: GVAE_NUM_THREADS, by default the number of CPUs this process may use (gvae.runtime.limits). Every kernel
runs over a half-open range [lo, hi) of independent systems, and the cuts fall between the groups that the kernel itself
works in, so the results have the same bits for every number of threads. Work too small to share stays in the calling thread.

The pool is made at its first use, never at import. A forked child makes a pool of its own. A thread that waits for a share
that no worker has begun takes it back and does it itself, so any number of Python threads can call at once.

The system takes longer to wake a thread than most kernels run. So a worker that is done spins for SPIN seconds, without the
interpreter lock, and parks if no share comes. It begins a compiled kernel's share without the lock, too, within a few us:
see gvae.kernels.cpu._share. A share in Python (a ufunc's) costs 20 us: a thread that wants the lock while another has it
sleeps, hence the caller posts such a share in compiled code, and stays there until the worker has claimed it and passed the
arguments on.

A kernel's share is begun by the address of the kernel's code, which Numba does not promise to be possible. So the first call
of a process that would do so makes a self-test, a known sum by two workers. Where that fails, or gvae has not been seen with
this release of Numba (gvae.runtime.abi), everything runs in the calling thread, with one warning. GVAE_SELF_TEST=fail in the
environment shows what that is like.

What comes again and again knows whether other processes keep the CPUs busy, and then has its workers park between shares, or
uses none at all if that is faster: see `Pace`.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from gvae.errors import ConfigError
from gvae.kernels.cpu._protocol import AWAY, CLAIMED, CODE, DONE, PARKED, PARKS, POSTED, STATE, WIDTH
from gvae.runtime.context import context, entered
from gvae.runtime.limits import cpus

__all__ = ["Pace", "Stopped", "check_stop", "count", "cpus", "each", "over", "pack", "prepare", "run", "works", "worth"]

logger = logging.getLogger(__name__)

VARIABLE = "GVAE_NUM_THREADS"
SELF_TEST = "GVAE_SELF_TEST"
SHARE = 1 << 16  # numbers read and written that are worth another thread
SPIN = 5e-4  # seconds that a worker spins before it parks: longer than Python takes between two kernels
SPIN_CLAIMED = 2e-5  # that a caller spins until a worker that spins has claimed a share in Python
ENTER = 5e-6  # that the worker then has the interpreter lock, to pass the arguments on
SPIN_DONE = 1e-3  # that a caller spins for the end of a share, before it sleeps for moments in between

FIRST, OFTEN, SELDOM, TRIAL = 20, 50, 200, 4  # of what keeps a `Pace`: times until and between trials, and of one
RECENT = 0.2  # what the last time counts in its running averages
CLEAR = 1.15  # what is slower by less may be as fast
LATELY = 0.05  # what the last time counts in how busy the machine is
BUSY = 0.1  # of its time a caller waits for a CPU, or more; at rest it is a thousandth

_lock = threading.Lock()
_workers: list[_Worker] = []
_table = np.zeros((0, 0), np.int64)  # a row of numbers per worker
_idle: list[_Worker] = []  # those that no caller has
_testing = threading.Lock()
_works: bool | None = None  # how the self-test ended


def count() -> int:
    """How many threads large work is shared by, the caller's own included: GVAE_NUM_THREADS, or as many as there are CPUs; 1
    where the self-test has failed. Raises ConfigError."""
    given = os.environ.get(VARIABLE) or str(cpus())
    if not given.isdecimal() or int(given) == 0:
        raise ConfigError(f"{VARIABLE} is {given!r}, expected a positive integer")
    return 1 if _works is False else int(given)


def works() -> bool:
    """Whether kernels may be called by their addresses, and workers have shares. The first call of a process makes the
    self-test, and logs one warning if that fails. Raises MemoryError."""
    global _works
    if _works is None:
        with _testing:
            if _works is None:
                try:
                    _self_test()
                    _works = True
                except MemoryError:  # which is no fault of Numba's
                    raise
                except Exception as error:
                    _works = False
                    logger.warning("everything runs in one thread: the self-test of threads fails: %s", error)
    return _works


def _self_test() -> None:
    """A known sum by two workers and the caller, in both ways that kernels are called by their addresses: alone (`over`) and
    in a list (`run`). Raises RuntimeError where it is wrong, or whatever the attempt raises. The kernel is one that every
    training step needs, so it is not compiled for this."""
    from gvae.kernels.cpu import _share, optim
    from gvae.runtime import abi

    unseen = abi.unseen()
    if unseen is not None:
        raise RuntimeError(unseen)
    if os.environ.get(SELF_TEST) == "fail":
        raise RuntimeError(f"{SELF_TEST} is 'fail'")
    workers = _free_workers(min(count() - 1, 2))
    pieces, size = len(workers) + 1, 4096
    numbers = np.resize(np.arange(8, dtype=np.float32), pieces * size)

    def call(crew: np.ndarray) -> int:
        for worker in workers:  # it may have just been started, and the caller would do its share
            worker.wait(worker.numbers, STATE, AWAY, worker.spin_done)
        for way in ("share", "run"):
            sums = np.zeros(pieces, np.float32)
            arguments = numbers, size, sums
            address, code, memory = _share.packed(optim.square_sums, arguments)
            if way == "share":
                failed, _ = _share.share(_table, crew, address, arguments, pieces, 1, _share.NOWHERE)
            else:
                failed = _share.run(_table, crew, np.array([[address, code, memory.ctypes.data, pieces, 1, pieces]]))
            if failed or (sums != 140 * size / 8).any():  # 0 + 1 + 4 + ... + 49, exact in any order
                raise RuntimeError(f"sums by {pieces} threads are {sums.tolist()}, {failed} calls failed, in `{way}`")
        return 0

    _together(workers, call)


def over(
    kernel: Callable[..., None], *arguments: Any, n: int, work: int, step: int = 1, stop: threading.Event | None = None
) -> None:
    """kernel(*arguments, lo, hi) over all of [0, n), cut at multiples of `step`; `work` is the numbers touched in all.

    stop : set when the caller is interrupted. An interrupt is raised only when no thread works on the arguments any more.
    """
    shares = worth(n, work, step)
    workers = _claim(min(count(), shares) - 1) if shares > 1 and not context.alone else []
    if not workers:
        kernel(*arguments, 0, n)
        return
    if hasattr(type(kernel), "signatures"):  # of Numba's: the instance would list them
        compiled = workers[0].compiled

        def call(crew: np.ndarray) -> int:
            failed, _ = compiled.share(
                _table, crew, compiled.address(kernel, arguments), arguments, n, step, compiled.NOWHERE
            )
            return failed

        if _together(workers, call):
            raise MemoryError(f"{kernel.__name__}: no memory for its scratch")
        return
    shares = len(workers) + 1
    cuts = [i * -(-n // step) // shares * step for i in range(shares)] + [n]
    try:
        for worker, (lo, hi) in zip(workers, itertools.pairwise(cuts[1:]), strict=True):
            worker.post(kernel, arguments, lo, hi)
        kernel(*arguments, 0, cuts[1])
    finally:
        errors = _finish(workers, stop)
    for error in errors:
        if error is not None:
            raise error


def prepare() -> None:
    """Have workers now, and what they and their callers wait by compiled, and not when first there is work."""
    _idle.extend(_claim(count() - 1))


class Pace:
    """For work that comes again and again, as training steps do: by several threads or by the caller's alone, whichever has
    been faster lately.

        with pace:
            step()

    On a machine at rest several are faster. Where other processes keep the CPUs busy, threads that share small kernels wait
    for each other's turns, and one may be done sooner; no rule tells beforehand. So now and then the other way is tried.

    Workers spin between shares on a machine at rest, and park at once on a busy one: a thread that spins uses up its part of
    a busy CPU and is then absent when there is work, while one that is parked is woken at once, and where there is room. The
    caller never sleeps: what it has not worked of its time, it has waited for a CPU.
    """

    def __init__(self) -> None:
        self.alone = False  # the way that is taken, trials apart
        self.parks = False  # whether workers park between shares
        self.lasted = self.waited = 0.0  # running averages: of a time's seconds, and of those without a CPU
        self.seconds: dict[bool, float] = {}  # of the ways: running averages
        self.left = FIRST  # times until the next trial, which goes down to -TRIAL
        self.last = False

    def __enter__(self) -> None:
        self.before = context.alone, context.parked
        context.alone, context.parked = self.alone != (self.left <= 0), self.parks
        self.began, self.worked = time.perf_counter(), time.thread_time()

    def __exit__(self, kind: Any, *_: Any) -> None:
        taken, way = time.perf_counter() - self.began, context.alone
        waited = taken - (time.thread_time() - self.worked)
        context.alone, context.parked = self.before
        self.left -= 1
        changed, self.last = way != self.last, way
        if kind is not None or (not self.seconds and self.left > FIRST // 2):
            return  # not what it takes as a rule: at first, kernels are compiled
        self.lasted += LATELY * (taken - self.lasted)
        self.waited += LATELY * (waited - self.waited)
        self.parks = self.waited > BUSY * self.lasted
        if changed:
            return  # nor is this: workers have to wake up
        average = self.seconds.get(way, taken)
        self.seconds[way] = average + RECENT * (min(taken, 2 * average) - average)  # a single hiccup says little
        if -TRIAL < self.left <= 0 or len(self.seconds) < 2:
            return
        faster, slower = sorted(self.seconds, key=lambda way: self.seconds[way])
        ratio = self.seconds[slower] / self.seconds[faster]
        if (faster != self.alone and ratio > CLEAR) or self.left <= 0:
            self.alone = faster if ratio > CLEAR else self.alone
            self.left = SELDOM if ratio > CLEAR else OFTEN


def worth(n: int, work: int, step: int) -> int:
    """How many shares a call of `over` is worth."""
    share = SHARE if context.share is None else context.share
    return 1 if work < 2 * share else min(work // share, -(-n // step))


def pack(kernel: Any, arguments: tuple, n: int, work: int, step: int) -> tuple[list[int], np.ndarray]:
    """A call of `over` for `run`, where kernels can be called by their addresses (`works`): its numbers, and the memory that
    has the arguments. The caller keeps that, and the arrays, as long as it has them run."""
    from gvae.kernels.cpu import _share

    address, code, memory = _share.packed(kernel, arguments)
    return [address, code, memory.ctypes.data, n, step, worth(n, work, step)], memory


def run(launches: np.ndarray, most: int) -> None:
    """One after the other, the calls whose numbers are the rows of launches, each as `over` does it. most: the shares that
    any of them is worth."""
    from gvae.kernels.cpu import _share

    workers = _claim(min(count(), most) - 1) if most > 1 and not context.alone else []
    if _together(workers, lambda crew: _share.run(_table, crew, launches)):
        raise MemoryError("a kernel has no memory for its scratch")


def each(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """[function(item) for item in items], by several threads; what they share further finds no thread left.

    Each runs in a copy of the caller's context, of which NumPy's errstate is a part. Raises what function raises for the
    first of the items for which it does. When the caller is interrupted, `check_stop` makes the others end.
    """
    results = [None] * len(items)
    contexts = [contextvars.copy_context() for _ in items]
    stop = threading.Event()

    def some(lo: int, hi: int) -> None:
        try:
            with entered(stop=stop):
                for i in range(lo, hi):
                    results[i] = contexts[i].run(function, items[i])
        except KeyboardInterrupt:
            stop.set()
            raise

    over(some, n=len(items), work=len(items) * 2 * SHARE, stop=stop)
    return results


def check_stop() -> None:
    """Called now and then by what `each` runs for long: raises Stopped once the caller of `each` was interrupted."""
    if context.stop is not None and context.stop.is_set():
        raise Stopped


class Stopped(Exception):
    """An interrupt has reached the thread for which this one works."""


MOST = 1024  # workers


class _Worker:
    """A thread that does what is posted, one share after the other: see gvae.kernels.cpu._protocol for its `numbers`.

    spins(seconds) : how many spins take so long      may_spin : whether the thread spins before it parks
    """

    def __init__(self, row: int, spins: Callable[[float], int], may_spin: bool):
        from gvae.kernels.cpu import _share, _wait  # not before: importing gvae loads no compiler

        self.wait, self.tell_and_wait, self.compiled = _wait.wait, _wait.tell_and_wait, _share
        times = SPIN if may_spin else 0, SPIN_CLAIMED, ENTER, SPIN_DONE
        self.spin, self.spin_claimed, self.enter, self.spin_done = map(spins, times)
        self.row, self.numbers = row, _table[row]
        self.posted = 0
        self.shares: dict[int, tuple] = {}  # the one that is posted and not claimed, by its number
        self.error: BaseException | None = None
        self.asleep = self.parks = False
        self.bell = threading.Lock()
        self.bell.acquire()
        self.thread = threading.Thread(target=self._work, name="gvae", daemon=True)
        self.thread.start()

    def post(self, *share: Any) -> None:
        """Have a share done: (kernel, arguments, lo, hi)."""
        numbers, posted = self.numbers, int(self.numbers[POSTED]) + 1
        self.shares = {posted: share}  # first: an interrupt in between leaves nothing to wait for
        self.posted = posted
        claimed, numbers[CODE] = int(numbers[CLAIMED]), 0
        if self.asleep or numbers[STATE] == PARKED:
            numbers[POSTED] = self.posted
        elif self.tell_and_wait(numbers, POSTED, posted, CLAIMED, claimed, self.spin_claimed, self.enter) != claimed:
            return
        self.compiled.rouse(numbers)
        if self.asleep:
            self.ring()

    def ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has been rung already
            self.bell.release()

    def finish(self) -> BaseException | None:
        """Wait for the share that was posted last, or do it if it has not begun. Returns what it raised."""
        try:
            share = self.shares.pop(self.posted, None)  # the thread that pops it does it
            if share is not None:
                return _do(share)
        except KeyboardInterrupt as interrupt:  # in between
            return interrupt
        done = int(self.numbers[DONE])
        while done < self.posted:  # compiled shares, which count as well, may have come after it
            done = self.wait(self.numbers, DONE, done, self.spin_done)
            if done < self.posted:
                time.sleep(5e-5)
        error, self.error = self.error, None
        return error

    def _work(self) -> None:
        numbers, posted = self.numbers, 0
        while True:
            posted = self.compiled.serve(numbers, posted, self.spin)
            seen = int(numbers[POSTED])
            if seen == posted:
                self.asleep = True
                if numbers[POSTED] == posted:  # else it was posted by a caller that had not seen this asleep
                    self.bell.acquire()
                self.asleep = False
                continue
            if numbers[CODE]:  # a compiled one, just now
                continue
            posted = seen
            share = self.shares.pop(posted, None)
            if share is not None:  # it may have been taken back
                numbers[CLAIMED] = posted
                self.error = _do(share)
            share = None  # the waiting caller may ask at once whether the arrays' memory is free (see gvae.runtime.memory)


def _do(share: tuple) -> BaseException | None:
    kernel, arguments, lo, hi = share
    try:
        kernel(*arguments, lo, hi)
    except BaseException as error:
        return error
    return None


def _together(workers: list[_Worker], call: Callable[[np.ndarray], int]) -> int:
    """call(crew), which has these workers do something, for which they need no interpreter lock. Returns how many shares
    failed."""
    try:
        for worker in workers:
            if worker.parks != context.parked:
                worker.parks = context.parked
                worker.numbers[PARKS] = worker.parks
            if worker.asleep:
                worker.ring()
        return call(_crew(*[worker.row for worker in workers]))
    finally:
        _idle.extend(workers)


@lru_cache(maxsize=256)
def _crew(*rows: int) -> np.ndarray:
    return np.array(rows, np.int64)


def _finish(workers: list[_Worker], stop: threading.Event | None) -> list[BaseException | None]:
    """Wait until all are done. Returns what their shares raised."""
    errors: list[BaseException | None] = []
    interrupt = None
    while len(errors) < len(workers):
        try:
            errors.append(workers[len(errors)].finish())
        except KeyboardInterrupt as error:
            interrupt = error
            if stop is not None:
                stop.set()
    _idle.extend(workers)
    if interrupt is not None:
        raise interrupt
    return errors


def _claim(n: int) -> list[_Worker]:
    """At most n workers that no other caller has; none where the self-test fails."""
    return _free_workers(n) if n > 0 and works() else []


def _free_workers(n: int) -> list[_Worker]:
    n = min(n, MOST)
    if len(_workers) < n:
        _make_workers(n)
    workers: list[_Worker] = []
    while len(workers) < n and _idle:
        try:
            workers.append(_idle.pop())
        except IndexError:  # another caller was faster
            break
    return workers


def _make_workers(n: int) -> None:
    global _table
    from gvae.kernels.cpu import _share, _wait

    with _lock:
        if not len(_table):
            _table = np.zeros((MOST, WIDTH), np.int64)
        nobody = np.zeros(WIDTH, np.int64)  # numbers of no worker: the code is in this process from here on
        _share.rouse(nobody)
        _share.serve(nobody, -1, 0)  # ends at once: 0 is posted, and in Python
        numbers, times = np.zeros(1, np.int64), []
        _wait.tell_and_wait(numbers, 0, 0, 0, 1, 1, 0)  # compiles, as the first of those below
        for _ in range(6):
            start = time.perf_counter()
            _wait.wait(numbers, 0, 0, 1000)
            times.append(time.perf_counter() - start)
        while len(_workers) < n:
            may_spin = len(_workers) + 1 < cpus()  # else the thread that one waits for has no CPU
            _workers.append(_Worker(len(_workers), lambda seconds: int(seconds / min(times) * 1000), may_spin))
            _idle.append(_workers[-1])


def _forget() -> None:
    """In a forked child the threads do not exist, and the lock may have been held by one of them."""
    global _lock, _testing, _table
    _lock, _testing = threading.Lock(), threading.Lock()
    _table = np.zeros((0, 0), np.int64)
    _workers.clear()
    _idle.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
