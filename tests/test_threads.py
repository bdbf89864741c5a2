"""The pool of threads: the same bits for every count, from many Python threads at once, and after a fork."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

from gvae import blas, ops, threads
from gvae.autodiff import gradient
from gvae.errors import ConfigError
from gvae.ops import dense

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
    monkeypatch.setattr(threads, "SHARE", 1)
    results = []
    for n in ("1", "2", "3", "8"):
        monkeypatch.setenv("GVAE_NUM_THREADS", n)
        results.append(everything())
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_ranges_are_cut_at_multiples_and_cover_everything(monkeypatch):
    monkeypatch.setattr(threads, "SHARE", 1)
    for count in (1, 2, 3, 7):
        monkeypatch.setenv("GVAE_NUM_THREADS", str(count))
        for n in (0, 1, 31, 32, 33, 100, 1000):
            seen, lock = [], threading.Lock()

            def kernel(lo, hi, seen=seen, lock=lock):
                with lock:
                    seen.append((lo, hi))

            threads.over(kernel, n=n, work=10**6, step=32)
            seen.sort()
            assert seen[0][0] == 0
            assert seen[-1][1] == n
            assert all(a[1] == b[0] for a, b in itertools.pairwise(seen))
            assert all(lo % 32 == 0 for lo, _ in seen)
            assert len(seen) == max(1, min(count, -(-n // 32)))


def test_an_error_in_any_share_is_raised(monkeypatch):
    monkeypatch.setattr(threads, "SHARE", 1)
    monkeypatch.setenv("GVAE_NUM_THREADS", "3")

    def kernel(lo, hi):
        if lo:
            raise ValueError("share")

    with pytest.raises(ValueError, match="share"):
        threads.over(kernel, n=3, work=100)


@pytest.mark.parametrize("given", ["0", "-1", "two", "1.5"])
def test_a_wrong_count_is_named(given, monkeypatch):
    monkeypatch.setenv("GVAE_NUM_THREADS", given)
    with pytest.raises(ConfigError, match=rf"GVAE_NUM_THREADS is '{given}', expected a positive integer"):
        threads.count()


def test_the_default_is_the_affinity(monkeypatch):
    monkeypatch.delenv("GVAE_NUM_THREADS", raising=False)
    assert threads.count() == len(os.sched_getaffinity(0))


def test_eight_python_threads_at_once(monkeypatch):
    monkeypatch.setattr(threads, "SHARE", 1)
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_makes_a_pool_of_its_own():
    code = """
import os, sys, warnings
import numpy as np
from gvae import ops, threads
warnings.simplefilter("ignore")   # Python warns of forking a process with threads
threads.SHARE = 1
chol = np.ones((200, 1, 40)); first = ops.inverse_banded(chol)
assert threads._pool is not None
pid = os.fork()
if pid == 0:
    assert threads._pool is None
    same = (ops.inverse_banded(chol) == first).all() and threads._pool is not None
    os._exit(0 if same else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    env = os.environ | {"GVAE_NUM_THREADS": "2"}
    assert subprocess.run([sys.executable, "-c", code], env=env, timeout=60).returncode == 0


BITS = """
import hashlib
import numpy as np
from gvae import blas, models, objectives, random
from gvae.data import Table
from gvae.training import Trainer

x = (np.random.default_rng(0).random((150, 784)) < 0.2).astype(np.float32)
digest = hashlib.sha256()
with blas.threads(1):
    for rows, samples, steps in ((100, 1, 200), (40, 50, 5)):
        objective = objectives.parse("iwae" if samples > 1 else "elbo")
        trainer = Trainer(models.VAE(784, 16, posterior="chain"), objective=objective, samples=samples)
        for step in range(steps):
            trainer.step(Table(x).batch((np.arange(rows) + step) % 150, random.key(0)))
        digest.update(trainer.parameters.flat)
print(digest.hexdigest())
"""


def test_training_has_the_same_bits_for_every_number_of_threads():
    found = set()
    for n in ("1", "2", "4"):
        environment = os.environ | {threads.VARIABLE: n}
        done = subprocess.run([sys.executable, "-c", BITS], env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1


def test_a_large_product_is_shared_where_the_blas_is_not(monkeypatch):
    """Cut along its longer side, whatever the layout of the factors; and left to a BLAS that has threads of its own."""
    rng = np.random.default_rng(0)
    shared = []
    over = threads.over
    monkeypatch.setattr(threads, "over", lambda kernel, *a, **k: shared.append(kernel) or over(kernel, *a, **k))
    with blas.threads(1):
        if blas.count() != 1:
            pytest.skip("the BLAS of this process cannot be told to use one thread")
        for m, k, n in ((1001, 400, 300), (203, 1003, 601)):
            x, y = rng.normal(size=(m, k)), rng.normal(size=(n, k)).T
            for a, b in ((x, y), (np.asfortranarray(x), np.ascontiguousarray(y))):
                np.testing.assert_allclose(ops.affine(a, b, np.zeros(n)), a @ b, rtol=1e-12, atol=1e-12)
    assert shared.count(dense._multiply_pieces) == 4
    library, before = blas.find_openblas(), blas.count()
    library.set_threads(2)
    shared.clear()
    ops.affine(x, y, np.zeros(n))
    library.set_threads(before)
    assert dense._multiply_pieces not in shared


def test_work_that_nobody_began_holds_no_arrays(monkeypatch):
    """A share taken back by the caller stays in the queue of the busy thread; its arrays must not, or memory doubles."""
    monkeypatch.setenv(threads.VARIABLE, "2")
    begin, done = threading.Event(), threading.Event()
    blocker = threads._shared_pool(1).submit(lambda: (begin.set(), done.wait(60)))
    try:
        assert begin.wait(60)
        array = np.zeros(10)
        gone = weakref.ref(array)
        seen = []
        threads.over(lambda x, lo, hi: seen.append((lo, hi)), array, n=10, work=1 << 30)
        assert sorted(seen) == [(0, 5), (5, 10)]
        del array
        assert gone() is None
    finally:
        done.set()
        blocker.result()
