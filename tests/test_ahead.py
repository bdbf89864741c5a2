"""Kernels compiled before the first step, by several processes: the right ones, and nothing else happens."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gvae import ahead, cli, demo, models, objectives, optim, random, warmup
from gvae.autodiff import value_of
from gvae.data import Table
from gvae.kernels.cpu import _share
from gvae.runtime import device, pool
from gvae.training import Trainer

ROWS = np.random.default_rng(0).random((20, 12), np.float32)
NAMES = [name for name in models.MODELS if name not in ("nlfa", "factor_analysis")]  # rows, or a step, of their own
POSTERIORS = ["diagonal", "chain", "band:2", "grid:2x2", "extended_grid:2x2", "ar1", "full", "lowrank:2"]


def trainer_of(name, objective="elbo", **settings):
    kind = models.MODELS[name]
    settings = {"hidden": (8,)} | kind.defaults | settings
    settings.pop("batch_size", None)
    objective = objectives.parse(settings.pop("objective", objective))
    model = kind(12, (5, 3) if name == "hierarchical" else 4, n_rows=20, **settings)
    return Trainer(model, objective=objective, samples=2, n_rows=20, seed=1)


def batch():
    return Table(ROWS, binarize="dynamic").batch(np.arange(20), random.key(0))


def kinds(call):
    return call[:2], tuple((x.dtype, x.ndim) if isinstance(x, np.ndarray) else type(x) for x in call[2])


@pytest.fixture
def step(monkeypatch):
    """step(trainer) -> what it has compiled ahead, what it has launched from there on, what else."""

    def step(trainer):
        compiled, launched = [], []
        launch = device.launch

        def noted(family, name, *arguments, **how):
            if compiled:
                plain = tuple(x.view(np.ndarray) if isinstance(x, np.ndarray) else x for x in arguments)
                launched.append((f"gvae.kernels.cpu.{family}", name, plain))
            launch(family, name, *arguments, **how)

        with monkeypatch.context() as patched:
            patched.setattr(ahead, "compile_calls", compiled.extend)
            patched.setattr(device, "launch", noted)
            with ahead.asked(True):
                metrics = trainer.step(batch())
        return {kinds(call) for call in compiled}, {kinds(call) for call in launched}, metrics

    return step


def check(step, make):
    trainer, other = make(), make()
    compiled, launched, metrics = step(trainer)
    assert launched
    assert launched <= compiled
    assert {"adam", "square_sums"} <= {name for (_, name), _ in compiled}
    assert {name for (_, name), _ in compiled - launched} <= {"log_mean_exp"}  # which is called past `device.launch`
    assert metrics == other.step(batch())  # and its parameters, moments and count are those of a step
    for name in ("m", "v", "step"):
        np.testing.assert_array_equal(getattr(trainer.optimizer, name), getattr(other.optimizer, name))
    np.testing.assert_array_equal(trainer.parameters.flat, other.parameters.flat)


@pytest.mark.parametrize("name", NAMES)
def test_the_kernels_of_every_model(step, name):
    check(step, lambda: trainer_of(name))


@pytest.mark.parametrize("objective", ["elbo_a", "iwae", "renyi:0.5", "miwae:2"])
def test_the_kernels_of_objectives(step, objective):
    check(step, lambda: trainer_of("vae", objective))


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_the_kernels_of_every_posterior(step, posterior):
    check(step, lambda: trainer_of("vae", posterior=posterior))


def test_where_values_decide_the_list_ends(step):
    class Deciding(models.VAE):
        pure = True

        def encode(self, *arguments):
            q = super().encode(*arguments)
            return q if float(value_of(q.mean).sum()) > -np.inf else None

    compiled, launched, _ = step(Trainer(Deciding(12, 4, hidden=(8,)), seed=1))
    assert ("gvae.kernels.cpu.affine", "affine") in {call for call, _ in compiled}
    assert launched - compiled


def test_only_the_first_step_and_only_if_asked(step, monkeypatch):
    trainer = trainer_of("vae")
    assert step(trainer)[0]
    assert not step(trainer)[0]
    monkeypatch.setattr(ahead, "compile_calls", None)
    trainer_of("vae").step(batch())
    with ahead.asked(False):
        trainer_of("vae").step(batch())


@pytest.mark.parametrize("cold", [True, False])
@pytest.mark.parametrize("command", ["train", "demo"])
def test_commands_ask_for_it_where_nothing_is_compiled_yet(monkeypatch, tmp_path, capsys, command, cold):
    asked = []
    monkeypatch.setattr(warmup, "is_cold", lambda: cold)
    monkeypatch.setattr(ahead, "compile_calls", lambda calls: asked.append({name for _, name, _ in calls}))
    if command == "train":
        given = ["train", "digits", "--out", str(tmp_path / "run"), "--epochs", "1", "--hidden", "8", "--latent", "2"]
        assert cli.main(given) == 0
        assert ("compiling the kernels for this machine, once" in capsys.readouterr().err) == cold
    else:
        monkeypatch.setattr(demo, "run", lambda *_, **__: trainer_of("vae").step(batch()))
        assert cli.main(["demo", "--out", str(tmp_path / "run")]) == 0
    assert len(asked) == cold
    assert all({"affine", "affine_weight_vjp", "adam", "square_sums"} <= names for names in asked)
    assert not ahead.is_wanted()


def test_no_kernel_runs_in_a_rehearsal(monkeypatch):
    x = np.full((3, 4), 7.0)

    def run(traced):
        own = traced(x)
        for array in (own, own[:1], x.astype(np.float32)):
            optim.norm(array)
        return np.exp(own)

    monkeypatch.setattr(pool, "over", None)
    calls = ahead.rehearsed(run)
    sums = ("gvae.kernels.cpu.optim", "square_sums")
    assert [kinds(call) for call in calls] == [(sums, ((np.dtype(d), 1), int, (np.dtype(d), 1))) for d in ("f8", "f4")]
    assert calls[0][2][0].size == 0
    assert ahead.rehearsed(lambda traced: 1 / 0) == []


# ---- compiling

CALLS = """
import json, sys, time
import numpy as np
from gvae import ahead
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
with ahead.asked(True):
    ahead.compile_calls(calls)
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
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder), "TMPDIR": str(folder)} | variables
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(pool.cpus() < 2, reason="one process compiles alone on one CPU")
@pytest.mark.parametrize("asked", [True, False])
def test_two_processes_share_the_work(tmp_path, asked):
    work = WORK.replace("(here", "(time.sleep(1.5), here").replace("(True)", f"({asked})")
    here, _, _ = python(CALLS + work + LOOK, tmp_path)
    assert 0 < len(here) < 4  # the other one has had the rest
    assert not list(tmp_path.glob("gvae-ahead-*"))
    _, hits, misses = python(CALLS + "here = []\n" + LOOK, tmp_path)
    assert (hits, misses) == (8, 0)


def test_alone_it_compiles_everything(tmp_path):
    for code, variables in ((CALLS, {"GVAE_NUM_THREADS": "1"}), (CALLS + "sys.executable = '/bin/false'\n", {})):
        here, _, _ = python(code + WORK + LOOK, tmp_path, **variables)
        assert here == ["adam", "square_sums", "square_sums", "adam"]


def test_where_nothing_can_be_kept_nobody_helps(monkeypatch):
    monkeypatch.setattr(ahead.subprocess, "Popen", None)
    stats = type("stats", (), {"cache_path": None})
    monkeypatch.setattr(_share, "share", type("share", (), {"stats": stats}))
    ahead.compile_calls([("gvae.kernels.cpu.optim", "adam", ())])


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_ends_the_others(monkeypatch, tmp_path, error):
    begun, Popen = [], subprocess.Popen

    def noted(command, **settings):
        begun.append(Popen(["sleep", "60"], **settings))
        return begun[-1]

    def interrupted(*_):
        raise error

    monkeypatch.setattr(ahead.subprocess, "Popen", noted)
    monkeypatch.setattr(ahead, "_compile_unclaimed", interrupted)
    monkeypatch.setattr(ahead.threads, "cpus", lambda: 3)
    monkeypatch.setenv("GVAE_NUM_THREADS", "3")
    monkeypatch.setattr(ahead.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(error):
        ahead.compile_calls([("a", "b", ()), ("c", "d", ()), ("e", "f", ())])
    assert [process.poll() for process in begun] == [-9, -9]
    assert not list(Path(tmp_path).iterdir())


@pytest.mark.skipif(pool.cpus() < 2, reason="there is nobody on one CPU")
def test_who_waits_for_calls_goes_with_the_block(monkeypatch):
    begun, Popen = [], subprocess.Popen
    monkeypatch.setattr(ahead.subprocess, "Popen", lambda *a, **k: begun.append(Popen(*a, **k)) or begun[-1])
    monkeypatch.setenv("GVAE_NUM_THREADS", "2")
    with contextlib.suppress(ZeroDivisionError), ahead.asked(True):
        assert [process.poll() for process in begun] == [None]
        raise ZeroDivisionError
    assert [process.poll() for process in begun] == [-9]
    with ahead.asked(True):
        begun[-1].kill()
        begun[-1].wait()
        ahead.compile_calls([("gvae.kernels.cpu.no_such", "kernel", ())] * 3)  # the pipe is broken
        ahead.compile_calls([])  # and those of a second model have processes of their own
        assert len(begun) == 3
        assert begun[-1].returncode == 0
    with ahead.asked(False):
        assert len(begun) == 3


@pytest.mark.skipif(pool.cpus() < 2, reason="there is nobody on one CPU")
def test_who_waits_for_calls_goes_with_who_asked(tmp_path):
    code = """
import json, os
from gvae import ahead
block = ahead.asked(True)
block.__enter__()
print(json.dumps(ahead._others[0].pid), flush=True)
os._exit(0)
"""
    pid = python(code, tmp_path, GVAE_NUM_THREADS="2")
    for _ in range(600):
        if not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return
        time.sleep(0.1)
    os.kill(pid, 9)
    pytest.fail("it is still there")
