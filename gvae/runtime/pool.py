"""A small pool of threads over ranges of systems, for kernels that release the interpreter lock.

The number of threads is GVAE_NUM_THREADS, by default the number of CPUs that this process may use (gvae.runtime.limits).
Every kernel runs over a half-open range [lo, hi) of independent systems, which is cut between the groups of systems that the
kernel processes together, so the results have the same bits for every number of threads. Work too small to share stays in
the calling thread.

The pool is created at its first use, never at import. A forked child creates a pool of its own. A thread that waits for a
share that no worker has begun takes it back and computes it itself, so any number of Python threads can call concurrently.

The system takes longer to wake a thread than most kernels run. So a worker that has finished spins for SPIN seconds, without
the interpreter lock, and parks if no share is posted. It begins a compiled kernel's share without the lock as well, within a
few us: see gvae.kernels.cpu._share. A share in Python (a ufunc's) costs 20 us: a thread that requests the lock while another
holds it sleeps, hence the caller posts such a share in compiled code, and stays there until the worker has claimed it and
passed the arguments on.

A kernel's share is begun by the address of the kernel's code, which is not guaranteed by Numba. So the first such call in a
process runs a self-test, a known sum by two workers. If that fails, or this release of Numba is outside of the tested ones
(gvae.runtime.abi), everything runs in the calling thread, with one warning. GVAE_SELF_TEST=fail in the environment
simulates this.

Repeated work measures whether other processes keep the CPUs busy; its workers then park between shares, or none is used if
that is faster: see `Pace`.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from gvae.errors import ConfigError
from gvae.kernels.cpu._protocol import AWAY, CLAIMED, CODE, DONE, PARKED, PARKS, POSTED, STATE, WIDTH
from gvae.runtime.context import context, entered
from gvae.runtime.limits import cpus

__all__ = [
    "Pace",
    "Stopped",
    "check_stop",
    "count",
    "cpus",
    "each",
    "elsewhere",
    "over",
    "pack",
    "prepare",
    "run",
    "works",
    "worth",
]

logger = logging.getLogger(__name__)

VARIABLE = "GVAE_NUM_THREADS"
SELF_TEST = "GVAE_SELF_TEST"
SHARE = 1 << 16  # elements read and written that are worth another thread
SPIN = 5e-4  # seconds that a worker spins before it parks: longer than Python takes between two kernels
NAME = "gvae"  # of each worker's thread
SPIN_CLAIMED = 2e-5  # seconds that a caller spins until a spinning worker has claimed a share in Python
ENTER = 5e-6  # seconds for which the worker then gets the interpreter lock, to pass the arguments on
SPIN_DONE = 1e-3  # seconds that a caller spins for the end of a share, before it sleeps for short intervals

FIRST, OFTEN, SELDOM, TRIAL = 20, 50, 200, 4  # blocks of a `Pace` before the first trial, between trials, and in a trial
RECENT = 0.2  # weight of the last block in the running averages of the two modes
CLEAR = 1.15  # ratio of times above which a mode counts as slower
LATELY = 0.05  # weight of the last block in the running averages of the machine's load
BUSY = 0.1  # share of its time that a caller waits for a CPU on a busy machine; on an idle one it is 0.001

_lock = threading.Lock()
_workers: list[_Worker] = []
_table = np.zeros((0, 0), np.int64)  # a row of numbers per worker
_idle: list[_Worker] = []  # those that no caller has claimed
_testing = threading.Lock()
_elsewhere = 0  # threads of this process that compute outside the pool
_works: bool | None = None  # the result of the self-test


def count() -> int:
    """The number of threads for large work, including the caller's: GVAE_NUM_THREADS, by default the number of CPUs; 1 if
    the self-test has failed. Raises ConfigError."""
    given = os.environ.get(VARIABLE) or str(cpus())
    if not given.isdecimal() or int(given) == 0:
        raise ConfigError(f"{VARIABLE} is {given!r}, expected a positive integer")
    return 1 if _works is False else int(given)


def _most() -> int:
    """The number of threads for work that is cut into equal shares at this moment. CPUs on which this process computes
    something else are left out: a share would take longer there, and all threads would wait for it."""
    return max(1, min(count(), cpus() - _elsewhere)) if _elsewhere else count()


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """In the block, this thread computes outside the pool: where no other CPU is left for it, kernels have a thread less."""
    global _elsewhere
    with _lock:
        _elsewhere += 1
    try:
        yield
    finally:
        with _lock:
            _elsewhere -= 1


def works() -> bool:
    """Whether kernels may be called by their addresses, and shares be given to workers. The first call of a process runs the
    self-test, and logs one warning if that fails. Raises MemoryError."""
    global _works
    if _works is None:
        with _testing:
            if _works is None:
                try:
                    _self_test()
                    _works = True
                except MemoryError:  # unrelated to Numba
                    raise
                except Exception as error:
                    _works = False
                    logger.warning("everything runs in one thread: the self-test of threads fails: %s", error)
    return _works


def _self_test() -> None:
    """Compute a known sum by two workers and the caller, in both ways of calling kernels by their addresses: one (`over`)
    and a list (`run`). Raises RuntimeError if it is wrong, or any error of the attempt. Every training step needs the
    kernel, so it is not compiled for this test only."""
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
        for worker in workers:  # a worker may have just been started, and the caller would compute its share
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
    """kernel(*arguments, lo, hi) over all of [0, n), cut at multiples of `step`; `work` is the number of elements accessed.

    stop : set when the caller is interrupted. An interrupt is raised only after all threads are done with the arguments.
    """
    shares = worth(n, work, step)
    workers = _claim(min(_most(), shares) - 1) if shares > 1 and not context.alone else []
    if not workers:
        kernel(*arguments, 0, n)
        return
    if hasattr(type(kernel), "signatures"):  # a Numba kernel; asked of the type, as the instance would list its signatures
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
    """Start the workers and compile the waiting functions now, instead of at the first work."""
    _idle.extend(_claim(count() - 1))


class Pace:
    """Execution of repeated work, such as training steps, by several threads or only by the caller's, whichever has been
    faster recently.

        with pace:
            step()

    On an idle machine several threads are faster. If other processes keep the CPUs busy, threads that share small kernels
    wait for each other to be scheduled, and one thread may be faster; no rule predicts this. So the other mode is tried at
    intervals.

    Workers spin between shares on an idle machine, and park at once on a busy one: a spinning thread uses up its time slice
    of a busy CPU and is then not scheduled when there is work, while a parked one is woken at once, on a free CPU. The
    caller spins while it waits (only after SPIN_DONE does it sleep, for 50 us at a time): time in which it was not running
    counts as time that it has waited for a CPU.
    """

    def __init__(self) -> None:
        self.alone = False  # the mode outside of trials
        self.parks = False  # whether workers park between shares
        self.lasted = self.waited = 0.0  # running averages: of a block's seconds, and of those without a CPU
        self.seconds: dict[bool, float] = {}  # running averages of the two modes
        self.left = FIRST  # blocks until the next trial, during which it decreases to -TRIAL
        self.last = False

    def __enter__(self) -> None:
        self.before = context.alone, context.parked
        context.alone, context.parked = self.alone != (self.left <= 0), self.parks
        self.began, self.worked, self.beside = time.perf_counter(), time.thread_time(), _elsewhere

    def __exit__(self, kind: Any, *_: Any) -> None:
        taken, way = time.perf_counter() - self.began, context.alone
        waited = taken - (time.thread_time() - self.worked)
        context.alone, context.parked = self.before
        self.left -= 1
        changed, self.last = way != self.last, way
        if kind is not None or (not self.seconds and self.left > FIRST // 2):
            return  # not representative: kernels are compiled in the first blocks
        if self.beside or _elsewhere:
            return  # nor this: it had a thread less
        self.lasted += LATELY * (taken - self.lasted)
        self.waited += LATELY * (waited - self.waited)
        self.parks = self.waited > BUSY * self.lasted
        if changed:
            return  # not representative either: workers have to wake up
        average = self.seconds.get(way, taken)
        self.seconds[way] = average + RECENT * (min(taken, 2 * average) - average)  # limits outliers
        if -TRIAL < self.left <= 0 or len(self.seconds) < 2:
            return
        faster, slower = sorted(self.seconds, key=lambda way: self.seconds[way])
        ratio = self.seconds[slower] / self.seconds[faster]
        if (faster != self.alone and ratio > CLEAR) or self.left <= 0:
            self.alone = faster if ratio > CLEAR else self.alone
            self.left = SELDOM if ratio > CLEAR else OFTEN


def worth(n: int, work: int, step: int) -> int:
    """The number of shares that a call of `over` is worth."""
    share = SHARE if context.share is None else context.share
    return 1 if work < 2 * share else min(work // share, -(-n // step))


def pack(kernel: Any, arguments: tuple, n: int, work: int, step: int) -> tuple[list[int], np.ndarray]:
    """A call of `over` for `run`, if kernels can be called by their addresses (`works`): its numbers, and the memory with
    the arguments. The caller must keep that memory and the arrays alive while it uses `run`."""
    from gvae.kernels.cpu import _share

    address, code, memory = _share.packed(kernel, arguments)
    return [address, code, memory.ctypes.data, n, step, worth(n, work, step)], memory


def run(launches: np.ndarray, most: int) -> None:
    """Execute the calls whose numbers are the rows of launches, one after another, each as by `over`. most: the largest
    number of shares of any of them."""
    from gvae.kernels.cpu import _share

    workers = _claim(min(_most(), most) - 1) if most > 1 and not context.alone else []
    if _together(workers, lambda crew: _share.run(_table, crew, launches)):
        raise MemoryError("a kernel has no memory for its scratch")


def each(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """[function(item) for item in items], by several threads; nested calls run in the calling thread if none is left.

    Each runs in a copy of the caller's context, which includes NumPy's errstate. Raises the error of the first item for
    which function raises one. When the caller is interrupted, `check_stop` ends the other threads' work.
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
    """Raise Stopped if the caller of `each` was interrupted. To be called at intervals by long functions in `each`."""
    if context.stop is not None and context.stop.is_set():
        raise Stopped


class Stopped(Exception):
    """The thread for which this one works was interrupted."""


MOST = 1024  # workers


class _Worker:
    """A thread that computes posted shares, one after another: see gvae.kernels.cpu._protocol for its `numbers`.

    spins(seconds) : the number of spins in a time      may_spin : whether the thread spins before it parks
    """

    def __init__(self, row: int, spins: Callable[[float], int], may_spin: bool):
        from gvae.kernels.cpu import _share, _wait  # imported here: importing gvae loads no compiler

        self.wait, self.tell_and_wait, self.compiled = _wait.wait, _wait.tell_and_wait, _share
        times = SPIN if may_spin else 0, SPIN_CLAIMED, ENTER, SPIN_DONE
        self.spin, self.spin_claimed, self.enter, self.spin_done = map(spins, times)
        self.row, self.numbers = row, _table[row]
        self.posted = 0
        self.shares: dict[int, tuple] = {}  # the share that is posted and not claimed, by its number
        self.error: BaseException | None = None
        self.asleep = self.parks = False
        self.bell = threading.Lock()
        self.bell.acquire()
        self.thread = threading.Thread(target=self._work, name=NAME, daemon=True)
        self.thread.start()

    def post(self, *share: Any) -> None:
        """Post a share: (kernel, arguments, lo, hi)."""
        numbers, posted = self.numbers, int(self.numbers[POSTED]) + 1
        self.shares = {posted: share}  # set first: after an interrupt in between there is nothing to wait for
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
        """Wait for the share that was posted last, or compute it if no thread has begun it. Returns its error, or None."""
        try:
            share = self.shares.pop(self.posted, None)  # the thread that pops it computes it
            if share is not None:
                return _do(share)
        except KeyboardInterrupt as interrupt:  # before or after the share
            return interrupt
        done = int(self.numbers[DONE])
        while done < self.posted:  # compiled shares, which are counted as well, may have been posted after it
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
                if numbers[POSTED] == posted:  # else it was posted by a caller that did not see this flag
                    self.bell.acquire()
                self.asleep = False
                continue
            if numbers[CODE]:  # a compiled share was posted meanwhile
                continue
            posted = seen
            share = self.shares.pop(posted, None)
            if share is not None:  # it may have been taken back
                numbers[CLAIMED] = posted
                self.error = _do(share)
            share = None  # the waiting caller may check at once if the arrays' memory is free (see gvae.runtime.memory)


def _do(share: tuple) -> BaseException | None:
    kernel, arguments, lo, hi = share
    try:
        kernel(*arguments, lo, hi)
    except BaseException as error:
        return error
    return None


def _together(workers: list[_Worker], call: Callable[[np.ndarray], int]) -> int:
    """call(crew), with which these workers compute shares without the interpreter lock. Returns the number of shares that
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
    """Wait for all workers. Returns the errors of their shares, None where there was none."""
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
    """At most n workers that no other caller has claimed; none if the self-test fails."""
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
        unused = np.zeros(WIDTH, np.int64)  # a row of no worker: these calls load the code into this process
        _share.rouse(unused)
        _share.serve(unused, -1, 0)  # returns at once: share 0 is posted, in Python
        numbers, times = np.zeros(1, np.int64), []
        _wait.tell_and_wait(numbers, 0, 0, 0, 1, 1, 0)  # compiles, as does the first call below
        for _ in range(6):
            start = time.perf_counter()
            _wait.wait(numbers, 0, 0, 1000)
            times.append(time.perf_counter() - start)
        while len(_workers) < n:
            may_spin = len(_workers) + 1 < cpus()  # else spinning takes the CPU of the thread that it waits for
            _workers.append(_Worker(len(_workers), lambda seconds: int(seconds / min(times) * 1000), may_spin))
            _idle.append(_workers[-1])


def _forget() -> None:
    """Reset the pool in a forked child, where the threads do not exist, and one of them may have held the lock."""
    global _lock, _testing, _table, _elsewhere
    _lock, _testing, _elsewhere = threading.Lock(), threading.Lock(), 0
    _table = np.zeros((0, 0), np.int64)
    _workers.clear()
    _idle.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
