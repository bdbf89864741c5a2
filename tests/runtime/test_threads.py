"""The pool of threads: the same bits for every count, from many Python threads at once, and after a fork."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
import weakref

import llvmlite
import numba
import numpy as np
import pytest
from nightly import thinned

from gvae import captured, data, models, ops, training
from gvae.autodiff import gradient
from gvae.data import Table
from gvae.errors import ConfigError
from gvae.kernels.cpu import _protocol, _share, _wait
from gvae.kernels.cpu._jit import kernel
from gvae.runtime import abi, pool
from gvae.runtime.context import context

rng = np.random.default_rng(0)
CHOL = 0.3 * rng.normal(size=(150, 3, 40)).astype(np.float32)
CHOL[:, 0] = rng.uniform(0.7, 2, size=(150, 40))
VECTOR = rng.normal(size=(4, 150, 40)).astype(np.float32)
LONG = np.stack([rng.uniform(0.7, 2, size=300_000), 0.4 * rng.normal(size=300_000)]).astype(np.float32)
OFFSETS = (0, 1, 6)


def everything():
    """Values and gradients of every kernel that goes through the pool."""
    band = np.stack([CHOL[:, 0] + 3, 0.5 * CHOL[:, 1]], axis=1)

    def loss(mean, chol, x, ab):
        z = ops.sample_banded(mean, chol, x, offsets=OFFSETS)
        total = ops.sum(ops.log_prob_banded(z, mean, chol, offsets=OFFSETS))
        total = total + ops.sum(ops.kl_divergence_banded(mean, chol, offsets=OFFSETS))
        return total + ops.sum(ops.multiply_triangular_banded(ops.cholesky_banded(ab), mean))

    inputs = (VECTOR[0], CHOL, VECTOR, band)
    long = ops.solve_triangular_banded(LONG, LONG[0], method="segments"), ops.inverse_banded(LONG, method="segments")
    products = [ops.multiply_triangular_banded(LONG, LONG[0], trans=trans) for trans in (False, True)]
    return [loss(*inputs), *gradient(loss, *inputs), *long, *products]


def test_the_same_bits_for_every_number_of_threads(monkeypatch):
    monkeypatch.setattr(pool, "SHARE", 1)
    results = []
    for n in ("1", "2", "3", "8"):
        monkeypatch.setenv("GVAE_NUM_THREADS", n)
        results.append(everything())
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.sharing
def test_ranges_are_cut_at_multiples_and_cover_everything(monkeypatch):
    monkeypatch.setattr(pool, "SHARE", 1)
    for count in (1, 2, 3, 7):
        monkeypatch.setenv("GVAE_NUM_THREADS", str(count))
        for n in (0, 1, 31, 32, 33, 100, 1000):
            seen, lock = [], threading.Lock()

            def note(lo, hi, seen=seen, lock=lock):
                with lock:
                    seen.append((lo, hi))

            pool.over(note, n=n, work=10**6, step=32)
            seen.sort()
            assert seen[0][0] == 0
            assert seen[-1][1] == n
            assert all(a[1] == b[0] for a, b in itertools.pairwise(seen))
            assert all(lo % 32 == 0 for lo, _ in seen)
            assert len(seen) == max(1, min(count, -(-n // 32)))


@pytest.mark.sharing
def test_an_error_in_any_share_is_raised(monkeypatch):
    monkeypatch.setattr(pool, "SHARE", 1)
    monkeypatch.setenv("GVAE_NUM_THREADS", "3")

    def fail(lo, hi):
        if lo:
            raise ValueError("share")

    with pytest.raises(ValueError, match="share"):
        pool.over(fail, n=3, work=100)


@pytest.mark.sharing
def test_a_compiled_share_without_memory_is_an_error(monkeypatch):
    monkeypatch.setattr(pool, "SHARE", 1)

    @kernel
    def fill(x, first, lo, hi):
        scratch = np.empty(1 << 60 if lo >= first else 1)
        x[lo:hi] = scratch.size

    for n in ("2", "3"):
        monkeypatch.setenv("GVAE_NUM_THREADS", n)
        x = np.zeros(100)
        pool.over(fill, x, 100, n=100, work=1000)
        assert (x == 1).all()
        for first in (0, 10):
            with pytest.raises(MemoryError, match="fill: no memory"):
                pool.over(fill, x, first, n=100, work=1000)
        pool.over(fill, x, 100, n=100, work=1000)  # the pool has survived


@pytest.mark.sharing
def test_a_kernel_returns_nothing(monkeypatch):
    monkeypatch.setattr(pool, "SHARE", 1)
    monkeypatch.setenv("GVAE_NUM_THREADS", "2")

    @kernel
    def twice(x, lo, hi):
        x[lo:hi] *= 2
        return x

    with pytest.raises(TypeError, match="twice returns array"):
        pool.over(twice, np.ones(100), n=100, work=1000)


def test_types_are_told_apart_without_numbas_private_help(monkeypatch):
    monkeypatch.setattr(pool, "SHARE", 1)
    monkeypatch.setenv("GVAE_NUM_THREADS", "2")
    monkeypatch.setattr(abi, "fingerprint", abi._types_of)
    for dtype in (np.float32, np.float64):
        for order in ("C", "F"):
            x, y = np.ones((40, 30), dtype, order), np.zeros((40, 30), dtype)
            pool.over(double, x, y, n=40, work=1000)
            assert (y == 2).all()


@kernel
def double(x, y, lo, hi):
    for i in range(lo, hi):
        for j in range(x.shape[1]):
            y[i, j] = 2 * x[i, j]


def test_a_share_counts_no_references_and_keeps_arrays_alive(monkeypatch):
    """The arrays of a call are let go when it returns, and not before."""
    monkeypatch.setattr(pool, "SHARE", 1)
    monkeypatch.setenv("GVAE_NUM_THREADS", "3")

    @kernel
    def rows(x, y, lo, hi):
        for i in range(lo, hi):
            y[i] = x[i].sum()

    for n in (1, 50, 1000):
        x, y = rng.normal(size=(n, 300)), np.empty(n)
        before = sys.getrefcount(x)
        pool.over(rows, np.asarray(x), y, n=n, work=10**6)
        np.testing.assert_allclose(y, x.sum(axis=1), atol=1e-12)
        assert sys.getrefcount(x) == before


@pytest.mark.parametrize("given", ["0", "-1", "two", "1.5"])
def test_a_wrong_count_is_named(given, monkeypatch):
    monkeypatch.setenv("GVAE_NUM_THREADS", given)
    with pytest.raises(ConfigError, match=rf"GVAE_NUM_THREADS is '{given}', expected a positive integer"):
        pool.count()


def test_eight_python_threads_at_once(monkeypatch):
    monkeypatch.setattr(pool, "SHARE", 1)
    monkeypatch.setenv("GVAE_NUM_THREADS", "3")
    expected = ops.solve_triangular_banded(CHOL, VECTOR, offsets=OFFSETS)
    wrong = []

    def work():
        for _ in range(30):
            if not np.array_equal(ops.solve_triangular_banded(CHOL, VECTOR, offsets=OFFSETS), expected):
                wrong.append(1)

    workers = [threading.Thread(target=work) for _ in range(8)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong


@pytest.mark.sharing
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_makes_a_pool_of_its_own():
    code = """
import os, sys, warnings
import numpy as np
from gvae import ops
from gvae.runtime import pool
warnings.simplefilter("ignore")   # Python warns of forking a process with threads
pool.SHARE = 1
chol = np.ones((200, 1, 40)); first = ops.inverse_banded(chol)
assert pool._workers
pid = os.fork()
if pid == 0:
    assert not pool._workers
    same = (ops.inverse_banded(chol) == first).all() and pool._workers
    os._exit(0 if same else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    env = os.environ | {"GVAE_NUM_THREADS": "2"}
    assert subprocess.run([sys.executable, "-c", code], env=env, timeout=60).returncode == 0


BITS = """
import hashlib, logging
import numpy as np
from gvae import blas, models, objectives, random
from gvae.data import Table
from gvae.training import Trainer

logging.basicConfig(format="%(message)s")  # warnings, on stderr
x = (np.random.default_rng(0).random((150, 784)) < 0.2).astype(np.float32)
digest = hashlib.sha256()
with blas.threads(1):
    for rows, samples, steps in ((100, 1, 60), (40, 50, 5)):
        objective = objectives.parse("iwae" if samples > 1 else "elbo")
        trainer = Trainer(models.VAE(784, 16, posterior="chain"), objective=objective, samples=samples)
        for step in range(steps):
            trainer.step(Table(x).batch((np.arange(rows) + step) % 150, random.key(0)))
        digest.update(trainer.parameters.flat)
print(digest.hexdigest())
"""


@pytest.mark.parametrize("cache", thinned(["kept", "new"], lambda cache: cache == "kept"))
def test_training_has_the_same_bits_for_every_number_of_threads(cache, tmp_path):
    """Where the self-test fails, too, with one warning. With a new cache, the first process compiles the kernels that the
    others have loaded."""
    found = set()
    for n in ("1", "2", "4", "fail"):
        environment = os.environ | ({pool.SELF_TEST: n} if n == "fail" else {pool.VARIABLE: n})
        if n == "1" and cache == "new":
            environment["NUMBA_CACHE_DIR"] = str(tmp_path)
        done = subprocess.run([sys.executable, "-c", BITS], env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout)
        if n == "fail":
            assert done.stderr == "everything runs in one thread: the self-test of threads fails: GVAE_SELF_TEST is 'fail'\n"
    assert len(found) == 1


@pytest.mark.sharing
def test_a_share_that_nobody_began_is_taken_back_and_holds_no_arrays(monkeypatch):
    """A worker that nothing reaches sleeps on; its share must not keep memory, or a step's memory doubles."""
    monkeypatch.setenv(pool.VARIABLE, "2")
    pool.over(lambda lo, hi: None, n=2, work=1 << 30)  # there is a worker
    while not all(worker.asleep or worker.numbers[_protocol.STATE] == _protocol.PARKED for worker in pool._workers):
        time.sleep(0.01)
    monkeypatch.setattr(pool._Worker, "ring", lambda self: None)
    monkeypatch.setattr(_share, "rouse", lambda numbers: None)
    array = np.zeros(10)
    gone = weakref.ref(array)
    seen = []
    pool.over(lambda x, lo, hi: seen.append((lo, hi)), array, n=10, work=1 << 30)
    assert sorted(seen) == [(0, 5), (5, 10)]
    del array
    assert gone() is None
    monkeypatch.undo()
    monkeypatch.setenv(pool.VARIABLE, "2")
    seen.clear()
    pool.over(lambda lo, hi: seen.append((lo, hi)), n=10, work=1 << 30)  # and it wakes up when it hears
    assert sorted(seen) == [(0, 5), (5, 10)]


def test_a_caller_whose_workers_are_taken_does_all_itself(monkeypatch):
    monkeypatch.setenv(pool.VARIABLE, "2")
    begun, done = threading.Event(), threading.Event()

    def blocks(lo, hi):
        begun.set()
        assert done.wait(60)

    other = threading.Thread(target=lambda: pool.over(blocks, n=2, work=1 << 30))
    other.start()
    try:
        assert begun.wait(60)
        idle, pool._idle[:] = list(pool._idle), []  # of earlier tests with more threads
        seen = []
        pool.over(lambda lo, hi: seen.append((lo, hi)), n=10, work=1 << 30)
        pool._idle.extend(idle)
        assert seen == [(0, 10)]
    finally:
        done.set()
        other.join()


@pytest.mark.sharing
def test_a_share_runs_in_another_thread_and_is_waited_for(monkeypatch):
    """However long it takes: shorter and longer than the caller and the worker spin for each other."""
    monkeypatch.setenv(pool.VARIABLE, "2")
    for pause in (0.0, 1e-4, 3 * pool.SPIN, 5 * pool.SPIN_DONE):
        for rest in (0.0, 2 * pool.SPIN):
            seen = {}

            def kernel(lo, hi, seen=seen, pause=pause):
                time.sleep(pause * (lo > 0))
                seen[lo] = threading.current_thread()

            time.sleep(rest)
            for _ in range(20):
                seen.clear()
                pool.over(kernel, n=2, work=1 << 30)
                assert set(seen) == {0, 1}
                assert seen[0] is threading.current_thread()


@pytest.mark.sharing
def test_a_worker_that_was_given_nothing_is_not_waited_for(monkeypatch):
    """An interrupt may meet the caller between two workers, whatever the one left out has done before."""
    monkeypatch.setattr(pool, "SHARE", 1)
    monkeypatch.setenv("GVAE_NUM_THREADS", "2")
    pool.each(str, [0, 1])
    ops.solve_triangular_banded(CHOL, VECTOR[0], offsets=OFFSETS)  # shared in compiled code
    (worker,) = pool._claim(1)
    waiting = threading.Thread(target=worker.finish, daemon=True)
    waiting.start()
    waiting.join(10)
    assert not waiting.is_alive()
    pool._idle.append(worker)


@kernel
def meet(flags, limit, lo, hi):
    """Each of two shares says that it has begun, and waits for the other one, for at most so many spins."""
    mine = 1 if lo > 0 else 0
    _wait.tell(flags, mine, 1)
    spins = 0
    while _wait.look(flags, 1 - mine) == 0 and spins < limit:
        _wait.pause()
        spins += 1
    flags[2 + mine] = spins


@pytest.fixture
def numbers(monkeypatch):
    """Of the worker that a share goes to next."""
    monkeypatch.setenv("GVAE_NUM_THREADS", "2")
    pool.each(str, [0, 1])  # there is one now
    worker = pool._workers[0]  # one that spins at all: tests may have made more than there are CPUs
    pool._idle.remove(worker)
    pool._idle.append(worker)
    yield worker.numbers
    worker.parks, worker.numbers[_protocol.PARKS] = False, 0


needs_parking = pytest.mark.skipif(not _wait.CAN_PARK or pool.cpus() < 2, reason="no futex, or no CPU for two threads")


@pytest.mark.exclusive
@pytest.mark.sharing
@needs_parking
def test_workers_park_where_the_caller_says_so(numbers):
    """And spin again for the next caller, who does not."""
    flags, pace = np.zeros(4, np.int64), pool.Pace()

    def state_after_a_share():
        for _ in range(100):  # it spins for half a millisecond, which may be over before this thread asks
            flags[:] = 0
            pool.over(meet, flags, 10**7, n=2, work=1 << 20)
            until = time.perf_counter() + pool.SPIN / 5
            while numbers[_protocol.DONE] != numbers[_protocol.POSTED] or time.perf_counter() < until:
                pass
            if numbers[_protocol.STATE] == (_protocol.PARKED if context.parked else _protocol.SPINNING):
                break
        return numbers[_protocol.STATE]

    for parks in (True, False, True):
        pace.parks = parks
        with pace:
            assert state_after_a_share() == (_protocol.PARKED if parks else _protocol.SPINNING)
            assert numbers[_protocol.PARKS] == parks
    assert state_after_a_share() == _protocol.SPINNING
    assert numbers[_protocol.PARKS] == 0


@pytest.mark.exclusive
@pytest.mark.sharing
@needs_parking
def test_a_parked_worker_is_woken(numbers):
    """For compiled shares and for others. Without that it parks for half a second."""
    flags, began = np.zeros(4, np.int64), threading.Event()

    def other(lo, hi):
        if lo > 0:
            began.set()
        else:
            began.wait(1)

    def compiled():
        flags[:] = 0
        pool.over(meet, flags, 10**7, n=2, work=1 << 20)
        assert flags[:2].tolist() == [1, 1]

    def python():
        began.clear()
        pool.over(other, n=2, work=1 << 20)
        assert began.is_set()

    for share in (compiled, python):
        for _ in range(400):
            numbers[_protocol.PARKS] = 1
            compiled()
            numbers[_protocol.PARKS] = 1
            until = time.perf_counter() + 1
            while numbers[_protocol.STATE] != _protocol.PARKED and time.perf_counter() < until:
                time.sleep(0)
            start = time.perf_counter()
            share()
            if time.perf_counter() - start < 0.1:  # and not after half a second
                break
        else:
            pytest.fail("it is never woken")


# ---- the self-test


@pytest.fixture
def warnings(monkeypatch, caplog):
    """Warnings of a pool that has made no self-test yet."""
    monkeypatch.setattr(pool, "_works", None)
    monkeypatch.setattr(pool, "SHARE", 1)
    monkeypatch.setenv(pool.VARIABLE, "3")
    monkeypatch.delenv(pool.SELF_TEST, raising=False)
    return lambda: [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def check_capture():
    kl = functools.partial(ops.kl_divergence_banded, offsets=OFFSETS, check=False)
    np.testing.assert_array_equal(captured(kl, VECTOR[0], CHOL)(VECTOR[1], CHOL), kl(VECTOR[1], CHOL))


def check_one_thread():
    """Nothing is shared, nothing is called by its address, and results are as ever."""
    seen = []
    pool.over(lambda lo, hi: seen.append((threading.current_thread(), lo, hi)), n=10, work=1 << 30)
    assert seen == [(threading.current_thread(), 0, 10)]
    assert pool.each(lambda item: threading.get_ident(), [0, 1]) == [threading.get_ident()] * 2
    assert pool.count() == 1
    x, y = rng.normal(size=(40, 30)), np.zeros((40, 30))
    pool.over(double, x, y, n=40, work=1 << 30)
    np.testing.assert_array_equal(y, 2 * x)
    check_capture()


def wrong(*arguments):
    """Stands for a way to call kernels that calls none."""
    return (0, 0) if len(arguments) == 7 else 0


def raising(*_):
    raise AttributeError("no get_arg_packer")


@pytest.mark.parametrize(
    ("where", "name", "value", "words"),
    [
        (os.environ, "GVAE_SELF_TEST", "fail", "GVAE_SELF_TEST is 'fail'"),
        (abi, "SEEN", {"numba": ("0.1", "0.2")}, rf"numba is {numba.__version__}, seen were 0\.1 to 0\.2"),
        (_share, "share", wrong, r"sums by 3 threads are \[0\.0, 0\.0, 0\.0\], 0 calls failed, in `share`"),
        (_share, "run", wrong, r"sums by 3 threads are \[0\.0, 0\.0, 0\.0\], 0 calls failed, in `run`"),
        (_share, "run", lambda *_: 2, r"sums by 3 threads are .*, 2 calls failed, in `run`"),
        (_share, "packed", raising, "no get_arg_packer"),
        (pool, "_make_workers", raising, "no get_arg_packer"),
    ],
    ids=["asked for", "version", "share", "run", "failures", "raises", "no workers"],
)
def test_where_the_self_test_fails_everything_runs_in_one_thread(monkeypatch, warnings, where, name, value, words):
    """With one warning; and what was wrong is not called again."""
    if name == "_make_workers":
        for made, empty in (("_workers", []), ("_idle", []), ("_table", np.zeros((0, 0), np.int64))):
            monkeypatch.setattr(pool, made, empty)
    with monkeypatch.context() as patched:
        patched.setitem(where, name, value) if where is os.environ else patched.setattr(where, name, value)
        check_one_thread()
        check_one_thread()
        (warning,) = warnings()
        assert re.fullmatch(rf"everything runs in one thread: the self-test of threads fails: {words}", warning)
    assert not pool.works()
    monkeypatch.setattr(pool, "_works", None)
    assert pool.works()  # and it was that


@pytest.mark.sharing
def test_the_self_test_is_made_once_and_by_two_workers(monkeypatch, warnings):
    made, test = [], pool._self_test
    monkeypatch.setattr(pool, "_self_test", lambda: made.append(1) or test())
    pool._make_workers(2)
    workers = pool._workers[:2]
    monkeypatch.setattr(pool, "_idle", [*workers])
    before = [int(worker.numbers[_protocol.POSTED]) for worker in workers]
    callers = [threading.Thread(target=everything) for _ in range(4)]
    monkeypatch.setattr(pool, "_claim", lambda n: pool.works() and [])
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert made == [1]
    assert [int(worker.numbers[_protocol.POSTED]) for worker in workers] == [n + 2 for n in before]
    assert not warnings()


def test_a_capture_makes_the_self_test(monkeypatch, warnings):
    """Kernels of a list are called by their addresses by one thread as well."""
    monkeypatch.setenv(pool.VARIABLE, "1")
    check_capture()
    assert pool._works


def test_a_self_test_without_memory_is_made_again(monkeypatch, warnings):
    """It says nothing about Numba."""

    def full():
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(pool, "_self_test", full)
        with pytest.raises(MemoryError):
            pool.works()
    assert pool.works()
    assert not warnings()


@pytest.mark.parametrize(
    ("module", "version", "seen"),
    [
        (numba, "0.60.0", False),
        (numba, "0.61.0rc1", True),
        (numba, "0.68.9", True),
        (numba, "0.69.0dev0+19.gabc", False),
        (numba, "1.0.0", False),
        (llvmlite, "0.43.0", False),
        (llvmlite, "0.50.1", True),
        (llvmlite, "0.51.0", False),
    ],
)
def test_releases_that_gvae_was_seen_with(monkeypatch, module, version, seen):
    assert abi.unseen() is None
    monkeypatch.setattr(module, "__version__", version)
    assert (abi.unseen() is None) == seen


# ---- together or alone


class Work:
    """Times of a piece of work by how it is done, and how it was done."""

    def __init__(self, monkeypatch, **seconds):
        self.now, self.ways, self.pace = 0.0, [], pool.Pace()
        self.seconds, self.share, self.worked = seconds, 1.0, 0.0
        clocks = {"perf_counter": lambda: self.now, "thread_time": lambda: self.worked}
        monkeypatch.setattr(pool, "time", type("time", (), clocks))

    def __call__(self, times, **seconds):
        """How many of so many times it is done alone."""
        self.seconds |= seconds
        before = len(self.ways)
        for _ in range(times):
            with self.pace:
                self.ways.append(context.alone)
                taken = self.seconds["alone" if context.alone else "together"]
                self.now, self.worked = self.now + taken, self.worked + self.share * taken
        return sum(self.ways[before:])


def test_the_faster_way_is_taken(monkeypatch):
    work = Work(monkeypatch, together=2.0, alone=3.0)
    assert work(1000) <= 5 * pool.TRIAL
    assert 0 < work(1000) <= 5 * pool.TRIAL
    assert work(1, together=40.0) == 0  # a hiccup
    assert work(100, together=2.0) <= pool.TRIAL
    assert work(100, together=6.0) >= 80  # it shows at once
    assert work(1000) >= 1000 - 6 * pool.TRIAL
    assert work(3000, together=2.0) < 2500  # and that it is over, sooner or later
    assert work(1000) <= 6 * pool.TRIAL
    work = Work(monkeypatch, together=2.0, alone=2.1)
    assert work(1000) <= 1000 * (pool.TRIAL + 1) / pool.OFTEN


def test_what_comes_first_does_not_count(monkeypatch):
    """Kernels are compiled then."""
    work = Work(monkeypatch, together=2e4, alone=3.0)
    work(1)
    assert work(500, together=2.0) <= 4 * pool.TRIAL


def test_workers_park_where_the_caller_waits_for_a_cpu(monkeypatch):
    work = Work(monkeypatch, together=2.0, alone=3.0)
    work(100)
    assert not work.pace.parks
    work.share = 0.3  # somebody had the CPU for once
    work(1)
    work.share = 0.98  # what the system itself needs
    work(100)
    assert not work.pace.parks
    work.share = 0.6
    work(20)
    assert work.pace.parks
    work.share = 1.0
    work(100)
    assert not work.pace.parks


def test_a_busy_machine_is_known_by_the_callers_clock():
    """One process more than there are CPUs, and this one."""
    code = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(10**5))"
    busy = [subprocess.Popen([sys.executable, "-c", code, str(os.getpid())]) for _ in range(pool.cpus() + 1)]
    try:
        pace, until = pool.Pace(), time.perf_counter() + 30
        while not pace.parks and time.perf_counter() < until:
            with pace:
                sum(range(10**5))
        assert pace.parks
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.sharing
def test_whoever_goes_alone_has_no_worker(numbers, monkeypatch):
    pace, flags = pool.Pace(), np.zeros(4, np.int64)
    pace.alone = True
    row, _memory = pool.pack(meet, (flags, 1000), 2, 1 << 20, 1)
    posted = numbers[_protocol.POSTED]
    with contextlib.suppress(ZeroDivisionError), pace:
        pool.over(meet, flags, 1000, n=2, work=1 << 20)
        pool.run(np.array([row], np.int64), 2)
        raise ZeroDivisionError
    assert numbers[_protocol.POSTED] == posted
    assert not pace.seconds
    pool.over(meet, flags, 1000, n=2, work=1 << 20)
    assert numbers[_protocol.POSTED] == posted + 1


@pytest.mark.sharing
def test_a_cpu_on_which_another_thread_computes_is_left_to_it(numbers, monkeypatch):
    """Of two CPUs one is left: the caller's. Of more CPUs than threads, none is missed."""
    flags = np.zeros(4, np.int64)

    def shared():
        posted = int(numbers[_protocol.POSTED])
        pool.over(meet, flags, 1000, n=2, work=1 << 20)
        return int(numbers[_protocol.POSTED]) > posted

    monkeypatch.setattr(pool, "cpus", lambda: 2)
    assert shared()
    with pool.elsewhere():
        assert not shared()
        monkeypatch.setattr(pool, "cpus", lambda: 3)
        assert shared()
        monkeypatch.setattr(pool, "cpus", lambda: 2)
    assert shared()


def test_a_reader_computes_beside_the_pool(monkeypatch):
    """While it reads a window, and at no other time; steps that it disturbs do not decide how others are executed."""
    seen, read = [], data.rows.column._Window
    monkeypatch.setattr(data.rows.column, "_Window", lambda *given: seen.append(pool._elsewhere) or read(*given))
    rows = data.ArrayRows(np.random.default_rng(0).random((64, 3)).astype(np.float32))
    column = data.rows.Column(rows, lambda x: x, rows.shape, rows.dtype)
    with data.rows.Reader({"x": column}, data.rows.Order(np.arange(0, 65, 16), 1)) as reader:
        for begin in range(0, 64, 16):
            reader.take(begin, begin + 16)
    assert seen == [1] * 4
    assert pool._elsewhere == 0
    work = Work(monkeypatch, together=2.0, alone=3.0)
    work(100)
    with pool.elsewhere():
        work(100, together=30.0)
    assert work(10, together=2.0) == 0


@pytest.mark.parametrize("overridden", [False, True])
def test_training_takes_its_steps_by_the_faster_way(monkeypatch, overridden):
    begun, enter = [], pool.Pace.__enter__
    monkeypatch.setattr(pool.Pace, "__enter__", lambda self: begun.append(self) or enter(self))
    x = np.random.default_rng(0).random((40, 6), np.float32)
    model = models.VAE(6, 2, hidden=(4,))

    class Own(training.Trainer):
        def step(self, batch, inputs=None):
            return super().step(batch, inputs)

    trainer = (Own if overridden else training.Trainer)(model)
    training.train(model, Table(x), epochs=1, batch_size=1, trainer=trainer)
    assert begun == [trainer.pace] * 40  # each step once
    assert set(trainer.pace.seconds) == {False, True}


@pytest.mark.sharing
def test_each_runs_items_at_once_in_the_callers_context(monkeypatch):
    monkeypatch.setenv("GVAE_NUM_THREADS", "3")
    together = threading.Barrier(3, timeout=30)

    def compute(item):
        together.wait()  # nobody passes before all have come
        return threading.get_ident(), item**2, np.geterr()["over"]

    with np.errstate(over="raise"):
        found = pool.each(compute, [1, 2, 3])
    assert [square for _, square, _ in found] == [1, 4, 9]
    assert len({thread for thread, _, _ in found}) == 3
    assert {over for _, _, over in found} == {"raise"}
    assert pool.each(str, []) == []


def test_each_raises_what_the_first_item_raises(monkeypatch):
    monkeypatch.setenv("GVAE_NUM_THREADS", "3")

    def compute(item):
        if item:
            raise ValueError(item)

    with pytest.raises(ValueError, match="1"):
        pool.each(compute, [0, 1, 2])


@pytest.mark.sharing
@pytest.mark.parametrize("waiting", [False, True], ids=["at work", "waiting"])
def test_an_interrupt_ends_what_the_others_do_and_keeps_the_pool(waiting, monkeypatch):
    """Wherever the signal meets the caller: nobody works for it any more when it is raised, and no worker is lost."""
    monkeypatch.setenv("GVAE_NUM_THREADS", "2")
    ends, began = [], threading.Event()

    def compute(item):
        if item == 1:
            began.set()
        try:
            until = time.monotonic() + 30
            while time.monotonic() < until and not (item == 0 and waiting and began.is_set()):
                pool.check_stop()
                time.sleep(1e-3)
        finally:
            ends.append(item)

    def interrupt():
        began.wait(30)
        time.sleep(0.2)
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=interrupt).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pool.each(compute, [0, 1])
    assert time.monotonic() - start < 20
    assert sorted(ends) == [0, 1]
    assert len(pool._idle) == len(pool._workers)
    pool.check_stop()  # it stops nothing that comes later
    assert pool.each(str, [0, 1]) == ["0", "1"]


def test_stress_from_many_threads(monkeypatch):
    """Nothing is lost, nothing runs twice, whoever takes whose worker."""
    monkeypatch.setenv(pool.VARIABLE, "4")
    wrong = []

    def work(seed):
        counts = np.zeros(64, np.int64)

        def kernel(x, lo, hi):
            x[lo:hi] += 1

        for i in range(300):
            n = 1 + (seed * 31 + i * 7) % 64
            counts[:] = 0
            pool.over(kernel, counts, n=n, work=1 << 30)
            if not (counts[:n] == 1).all() or counts[n:].any():
                wrong.append((seed, i))

    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(120)
    assert not any(caller.is_alive() for caller in callers)
    assert not wrong


@kernel
def add_pair(x, pair, lo, hi):
    for i in range(lo, hi):
        x[i] += pair[0] + pair[1]


def test_what_packed_arguments_can_be():
    """For a list of launches there is place for arrays and numbers."""
    x = np.zeros(4)
    with pytest.raises(TypeError, match="add_pair: an argument is tuple, expected an array or a number"):
        pool.pack(add_pair, (x, (1.0, 2.0)), n=4, work=4, step=1)


@kernel
def add_numbers(x, y, a, b, c, d, lo, hi):
    for i in range(lo, hi):
        x[i] += y[0, i] * a + (b if c else 0) + d


@pytest.mark.parametrize(
    "numbers", [(2, 3.5, True, np.float32(0.5)), (np.int64(2), 3, False, 1 + 2j), (True, 1, 1.5, 2)], ids=str
)
def test_packed_arguments_of_every_kind(numbers):
    """They are found again where they were put: by one thread, and by several."""
    expected = np.zeros(3000, np.complex128)
    y = np.arange(6000.0).reshape(2, 3000)[:, ::2]
    add_numbers(expected[:1500], y, *numbers, 0, 1500)
    for work in (1, 1 << 20):
        x = np.zeros(1500, np.complex128)
        row, memory = pool.pack(add_numbers, (x, y, *numbers), n=1500, work=work, step=4)
        assert len(memory) == 7 + 9 + 8
        pool.run(np.array([row, row], np.int64), row[-1])
        np.testing.assert_array_equal(x, 2 * expected[:1500])
