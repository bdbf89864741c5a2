"""A good guest in a caller's process: training in many threads, across fork and spawn, without warnings, in silence."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from run_cases import SETTINGS, X

import gvae
from gvae import VAE

ROOT = Path(gvae.__file__).parents[1]


def python(code, *arguments, flags=(), **environment):
    environment = (
        os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent), *sys.path])} | environment
    )
    return subprocess.run(
        [sys.executable, *flags, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )


def digest(seed, run=None):
    """Of a small training and its use."""
    model = VAE(**SETTINGS | {"random_state": seed, "objective": "iwae", "samples": 3, "average": "ema"}).fit(X, run=run)
    values = (model.parameters_.flat, model.transform(X), model.score_samples(X, samples=3))
    return hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in values)).hexdigest()


MEASURED = """
import threading, tracemalloc
import numpy as np
import gvae

X = gvae.random.normal(gvae.random.key(0), (300, 5), np.float32)
model = gvae.VAE(latent=2, hidden=(8,), observation="gaussian", epochs=1, random_state=0).fit(X)
expected, found = model.evaluate(X, samples=5).log_likelihood, []
work = lambda: found.extend(model.evaluate(X, samples=5, memory=2.0).log_likelihood for _ in range(5))
other = threading.Event()
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in [*threads, threading.Thread(target=other.wait, daemon=True)]:  # the last one has nothing to do with gvae
    thread.start()
for thread in threads:
    thread.join()
assert len(found) == 20 and all(np.allclose(values, expected, rtol=1e-5) for values in found)
model.evaluate(X, samples=5, memory=2.0)
assert not tracemalloc.is_tracing()
"""


def test_threads_evaluate_within_memory_that_is_measured():
    """tracemalloc is one for the process, and ends when no other thread is inside gvae: its end may crash CPython then."""
    done = python(MEASURED)
    assert done.returncode == 0, done.stderr


def test_eight_threads_train_at_once(tmp_path):
    """Each has the bits that it has alone, whatever the others do; each in a run folder of its own."""
    expected = [digest(seed) for seed in range(8)]
    found: dict[int, list[str]] = {seed: [] for seed in range(8)}
    start = threading.Barrier(8)

    def work(seed):
        start.wait()
        for i in range(3):
            found[seed].append(digest(seed, tmp_path / f"{seed} {i}"))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {seed: [expected[seed]] * 3 for seed in range(8)}


FORK = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)   # Python's own of forking a process with threads
import numpy, gvae
from test_guest import digest
from gvae.runtime import pool
pool.SHARE = 1   # large and small work alike is shared
before = digest(1) if "after" in sys.argv else None
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        same = digest(1) == (before or sys.argv[1]) and digest(1) == digest(1)
        os._exit(0 if same else 1)
    children.append(pid)
mine = digest(1)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
print(mine, *codes)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("when", ["before", "after"])
def test_fork_before_and_after_the_first_use(when):
    """Three children and the parent train at the same time, with the same bits."""
    expected = digest(1)
    done = python(FORK, expected, when, GVAE_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [expected, "0", "0", "0"]


def test_spawned_processes():
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(digest, [1, 2, 1]) == [digest(1), digest(2), digest(1)]


SILENT = """
import logging, sys, warnings
import numpy as np
from run_cases import SETTINGS, X
import gvae
from gvae import data
settings = SETTINGS | {"schedule": "cosine", "average": "swa", "clip": 1.0, "patience": 2}
gvae.VAE(**settings).fit(X, run=sys.argv[1])
gvae.load(sys.argv[1]).score(X)
gvae.VAE(**settings).fit(X, run=sys.argv[1], resume=True)
assert not logging.getLogger().handlers
assert [type(handler) for handler in logging.getLogger("gvae").handlers] == [logging.NullHandler]
assert logging.getLogger("gvae").level == logging.NOTSET
"""


@pytest.mark.sharing
def test_silent_and_clean_under_w_error(tmp_path):
    before = dict(os.environ)
    done = python(SILENT, tmp_path / "run", flags=("-W", "error", "-X", "dev"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert os.environ == before


def test_signals_are_left_alone_by_the_library():
    """Only the command takes over Ctrl-C and TERM, and gives them back."""
    import signal

    from gvae import cli

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    seen = []
    VAE(**SETTINGS).fit(X, stop=lambda: seen.append([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]))
    assert seen == [before] * 9
    with cli.signals.Interruptible() as interrupted:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupted()
        assert interrupted.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
