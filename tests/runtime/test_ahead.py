"""Kernels compiled before the first step, by several processes: the right ones, and nothing else happens."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from nightly import thinned
from run_cases import MODELS, kinds, small

from gvae import cli, demo, models, objectives, optim, random
from gvae.autodiff import value_of
from gvae.data import Table
from gvae.kernels.cpu import _share
from gvae.runtime import compile as compiling
from gvae.runtime import device, limits, pool
from gvae.training import Trainer

ROWS = np.random.default_rng(0).random((20, 12), np.float32)


def trainer_of(name, objective="elbo", optimizer="adam", **settings):
    settings, objective = small(name)[0] | settings, objectives.parse(objective)
    model = MODELS[name](12, (5, 3) if name == "hierarchical" else 4, n_rows=20, **settings)
    return Trainer(model, objective=objective, samples=2, optimizer=optimizer, n_rows=20, seed=1)


def batch():
    return Table(ROWS, binarize="dynamic").batch(np.arange(20), random.key(0))


def test_where_values_decide_the_list_ends(rehearsed):
    class Deciding(models.VAE):
        pure = True

        def encode(self, *arguments):
            q = super().encode(*arguments)
            return q if float(value_of(q.mean).sum()) > -np.inf else None

    compiled, launched, _ = rehearsed(Trainer(Deciding(12, 4, hidden=(8,)), seed=1), batch())
    assert ("gvae.kernels.cpu.affine", "affine") in {call for call, _ in compiled}
    assert launched - compiled


def test_only_the_first_step_and_only_if_asked(rehearsed, monkeypatch):
    trainer = trainer_of("vae")
    assert rehearsed(trainer, batch())[0]
    assert not rehearsed(trainer, batch())[0]
    monkeypatch.setattr(compiling, "compile_calls", None)
    trainer_of("vae").step(batch())
    with compiling.asked(False):
        trainer_of("vae").step(batch())


@pytest.mark.parametrize("cold", [True, False])
@pytest.mark.parametrize("command", ["train", "demo"])
def test_commands_ask_for_it_where_nothing_is_compiled_yet(monkeypatch, tmp_path, capsys, command, cold):
    asked = []
    monkeypatch.setattr(compiling, "is_cold", lambda: cold)
    monkeypatch.setattr(compiling, "compile_calls", lambda calls: asked.append({name for _, name, _ in calls}))
    if command == "train":
        given = ["train", "digits", "--out", str(tmp_path / "run"), "--epochs", "1", "--hidden", "8", "--latent", "2"]
        assert cli.main(given) == 0
        assert ("compiling the kernels for this machine, once" in capsys.readouterr().err) == cold
    else:
        monkeypatch.setattr(demo, "run", lambda *_, **__: trainer_of("vae").step(batch()))
        assert cli.main(["demo", "--out", str(tmp_path / "run")]) == 0
    assert len(asked) == cold
    assert all({"affine", "affine_weight_vjp", "adam", "square_sums"} <= names for names in asked)
    assert not compiling.is_asked()


def test_no_kernel_runs_in_a_rehearsal(monkeypatch):
    x = np.full((3, 4), 7.0)

    def run(traced):
        own = traced(x)
        for array in (own, own[:1], x.astype(np.float32)):
            optim.norm(array)
        return np.exp(own)

    monkeypatch.setattr(device.Cpu, "over", None)
    calls = compiling.rehearsed(run)
    sums = ("gvae.kernels.cpu.optim", "square_sums")
    assert [kinds(call) for call in calls] == [(sums, ((np.dtype(d), 1), int, (np.dtype(d), 1))) for d in ("f8", "f4")]
    assert calls[0][2][0].size == 0
    assert compiling.rehearsed(lambda traced: 1 / 0) == []


# ---- compiling

CALLS = """
import json, sys, time
import numpy as np
from gvae.runtime import compile as compiling
from gvae.kernels.cpu import _share, optim, weights
f = np.zeros(0, np.float32)
s = np.float32(1)
calls = [("gvae.kernels.cpu.optim", "adam", (f, f, f, f, s, s, s, s)), ("gvae.kernels.cpu.optim", "square_sums", (f, 3, f)),
         ("gvae.kernels.cpu.no_such", "kernel", (f,)), ("gvae.kernels.cpu.optim", "square_sums", (f.astype("d"), 3, f)),
         ("gvae.kernels.cpu.optim", "adam", tuple(x.astype("d") for x in (f, f, f, f, s, s, s, s)))]
"""
WORK = """
packed, here = _share.packed, []
_share.packed = lambda kernel, arguments: (here.append(kernel.__name__), packed(kernel, arguments))
with compiling.asked(True):
    compiling.compile_calls(calls)
_share.packed = packed
"""
LOOK = """
for module, name, arguments in calls:
    if name != "kernel":
        _share.packed(getattr(optim, name), arguments)
stats = [kernel.stats for kernel in (optim.adam, optim.square_sums, _share.share)]
print(json.dumps([here, sum(sum(s.cache_hits.values()) for s in stats), sum(sum(s.cache_misses.values()) for s in stats)]))
"""


def python(code, folder, **variables):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder)} | variables
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout)


alone = pool.cpus() < 2 or (limits.memory() or compiling.MEMORY * 2) < compiling.MEMORY * 2
needs_two = pytest.mark.skipif(alone, reason="one process compiles alone here")


WAIT = """
import os, pathlib
def wait_for(kernels):  # in the cache, from the other process: on a busy machine it may take seconds to start
    cache, deadline = pathlib.Path(os.environ["NUMBA_CACHE_DIR"]), time.monotonic() + 100
    while time.monotonic() < deadline and len(list(cache.rglob("optim*.nbc"))) < kernels:
        time.sleep(0.05)
"""


@needs_two
@pytest.mark.parametrize("asked", thinned([True, False], lambda asked: asked))
def test_two_processes_share_the_work(tmp_path, asked):
    work = WORK.replace("(here", "(wait_for(1), here").replace("(True)", f"({asked})")
    here, _, _ = python(CALLS + WAIT + work + LOOK, tmp_path)
    assert 0 < len(here) < 4  # the other one has had the rest
    _, hits, misses = python(CALLS + "here = []\n" + LOOK, tmp_path)
    assert (hits, misses) == (8, 0)


AWAY = """
def away(order):
    wait_for(4)
    return order
packed, here = _share.packed, []
_share.packed = lambda kernel, arguments: here.append(kernel.__name__)
compiling.compile_calls(calls, watch=away)
_share.packed = packed
"""


@needs_two
def test_another_process_goes_on_until_nothing_is_left(tmp_path):
    assert python(CALLS + WAIT + AWAY + LOOK, tmp_path, GVAE_NUM_THREADS="2") == [[], 8, 0]


NO_PROCESS = "import multiprocessing\nmultiprocessing.set_executable('/bin/false')\n"
NO_SEMAPHORE = """
import multiprocessing.synchronize
def refuse(*_, **__):
    raise OSError(38, "Function not implemented")
multiprocessing.synchronize.SemLock.__init__ = refuse
"""


@pytest.mark.parametrize(
    ("code", "variables"), [("", {"GVAE_NUM_THREADS": "1"}), (NO_PROCESS, {}), (NO_SEMAPHORE, {})], ids=range(3)
)
def test_alone_it_compiles_everything(tmp_path, code, variables):
    here, _, _ = python(CALLS + code + WORK + LOOK, tmp_path, **variables)
    assert here == ["adam", "square_sums", "square_sums", "adam"]


def test_where_nothing_can_be_kept_nobody_helps(monkeypatch):
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", None)
    stats = type("stats", (), {"cache_path": None})
    monkeypatch.setattr(_share, "share", type("share", (), {"stats": stats}))
    compiling.compile_calls([("gvae.kernels.cpu.optim", "adam", ())])


@pytest.mark.sharing
@pytest.mark.parametrize(
    ("cpus", "gib", "n"), [(64, None, 3), (64, 2.5, 1), (64, 1.5, 0), (64, 0.5, 0), (2, 9, 1), (1, 9, 0)]
)
def test_so_many_as_there_are_cpus_and_memory_for(monkeypatch, cpus, gib, n):
    monkeypatch.setattr(pool, "cpus", lambda: cpus)
    monkeypatch.setattr(limits, "memory", lambda: None if gib is None else int(gib * 2**30))
    monkeypatch.delenv("GVAE_NUM_THREADS", raising=False)
    with compiling.asked(True):
        assert len(multiprocessing.active_children()) == n


@pytest.mark.sharing
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_ends_the_others(monkeypatch, error):
    begun = []

    def interrupted(order):
        begun.extend(multiprocessing.active_children())
        raise error

    monkeypatch.setattr(pool, "cpus", lambda: 3)
    monkeypatch.setattr(limits, "memory", lambda: None)
    monkeypatch.setenv("GVAE_NUM_THREADS", "3")
    with pytest.raises(error):
        compiling.compile_calls([("a", "b", ()), ("c", "d", ()), ("e", "f", ())], watch=interrupted)
    assert len(begun) == 2
    assert not multiprocessing.active_children()


@pytest.mark.sharing
@needs_two
def test_who_waits_for_calls_goes_with_the_block(monkeypatch):
    monkeypatch.setenv("GVAE_NUM_THREADS", "2")
    with contextlib.suppress(ZeroDivisionError), compiling.asked(True):
        assert len(multiprocessing.active_children()) == 1
        raise ZeroDivisionError
    assert not multiprocessing.active_children()
    with compiling.asked(True):
        (worker,) = multiprocessing.active_children()
        worker.kill()
        worker.join()
        compiling.compile_calls([("gvae.kernels.cpu.no_such", "kernel", ())] * 3)  # it is done by this process
        compiling.compile_calls([])  # and those of a second model have processes of their own
        assert not multiprocessing.active_children()
    with compiling.asked(False):
        assert not multiprocessing.active_children()


START = """
import json, multiprocessing, os, signal, threading, time
from gvae.runtime import compile as compiling
block = compiling.asked(True)
block.__enter__()
print(json.dumps([process.pid for process in multiprocessing.active_children()]), flush=True)
"""
COMPILE = """
_share.packed = lambda *_: time.sleep(60)
threading.Thread(target=compiling.compile_calls, args=(calls * 9,), daemon=True).start()
while not any(name.startswith("optim") for _, _, names in os.walk(os.environ["NUMBA_CACHE_DIR"]) for name in names):
    time.sleep(0.01)
"""


DOING = {"starting": "", "waiting": "time.sleep(1)", "compiling": CALLS + COMPILE}


@needs_two
@pytest.mark.parametrize(
    ("end", "doing"),
    thinned(
        itertools.product(["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"], DOING),
        lambda end, doing: ("SIGKILL" in end) != (doing == "waiting"),
    ),
)
def test_no_compiler_outlives_its_caller(tmp_path, end, doing):
    """However that ends, and whatever the compiler does."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "GVAE_NUM_THREADS": "2"}
    command = [sys.executable, "-c", "\n".join((START, DOING[doing], end))]
    caller = subprocess.run(command, stdout=subprocess.PIPE, env=environment, text=True)
    assert caller.returncode in (0, -signal.SIGKILL)
    (pid,) = json.loads(caller.stdout)
    for _ in range(600):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if "\nState:\tZ" in status(pid):  # whoever adopted it does not ask
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("it is still there")


def status(pid):
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:  # gone by now, or not Linux
        return ""


@needs_two
def test_ctrl_c_is_for_the_caller_alone(tmp_path):
    """The terminal sends it to all processes of a command; one that starts would print a traceback."""
    code = """
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
    block.__exit__(None, None, None)
"""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "GVAE_NUM_THREADS": "2"}
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    for pause in (0, 0.05, 0.3):
        caller = subprocess.Popen([sys.executable, "-c", START + code], start_new_session=True, **settings)
        begun = caller.stdout.readline()
        time.sleep(pause)
        os.killpg(caller.pid, signal.SIGINT)
        assert caller.communicate(timeout=60) == ("interrupted\n", "")
        assert json.loads(begun)


@needs_two
def test_a_script_does_not_run_again(tmp_path):
    """As it would if the others imported the main module, which may train."""
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nprint('once', file=sys.stderr)\n{CALLS}{WORK}print('[]')\n")
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        env=os.environ
        | {"NUMBA_CACHE_DIR": str(tmp_path), "GVAE_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "once\n")
