"""Several ranks of MPI: four figures of a step, the cost of an exchange, and weak scaling simulated by the schedule itself.

    python asv_bench/scaling_mpi.py figures [--rounds 5] [--steps 40]
    python asv_bench/scaling_mpi.py exchange [--times 300]
    python asv_bench/scaling_mpi.py simulate [--alpha 2e-6] [--beta 8e-11] [--gamma 1.4e-10] [--seconds 0.017]

`figures` times a training step of a 784-200-200-16 model with a chain posterior, 8 shards of 100 rows and one draw, with

    (a) one rank of one thread    (b) one rank of two threads    (c) two ranks of one thread    (d) the exchange alone

round by round, and prints medians; the scaling is a / (2 c), the price of processes c / b. `exchange` fits alpha and beta of

    T(R) = 2 alpha log2 R + (R - 1) / R n (2 beta + gamma)

to sums of n bytes over two ranks, with gamma the time of an addition, and prints it beside what 4 and 8 ranks take.
`simulate` runs the exchanges of every rank in time: one begins when both of its partners are there. --launcher is the path
of another mpirun.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

SHARDS, ROWS, PARAMETERS = 8, 800, 407_831
SIZES = [2**k for k in range(2, 22, 2)]  # numbers of float32
LINKS = {  # seconds of a message, and of a byte; assumed
    "100 Gb InfiniBand": (2e-6, 1 / 12.5e9),
    "10 Gb Ethernet": (25e-6, 1 / 1.25e9),
}


def launched(ranks: int, threads: int, launcher: str, *arguments: str) -> object:
    """What rank 0 of a child prints."""
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    env = os.environ | allowed | {"GVAE_NUM_THREADS": str(threads)}
    more = ["--oversubscribe"] if "openmpi" in _version(launcher) else []
    if more and ranks * threads > (os.cpu_count() or 1):
        env["OMPI_MCA_mpi_yield_when_idle"] = "1"
    command = [launcher, "-n", str(ranks), *more, sys.executable, __file__, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _version(launcher: str) -> str:
    said = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=False).stdout
    return "openmpi" if "Open MPI" in said else "mpich"


def timed(call: Callable[[], object], times: int, before: Callable[[], object] = lambda: None) -> list[float]:
    """The seconds of each of so many calls, after ten more."""
    taken = []
    for _ in range(times + 10):
        before()
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return taken[10:]


def step(steps: int) -> list[float]:
    """In a child: the seconds of training steps, each begun by all ranks together."""
    from mpi4py import MPI

    from gvae import models, training
    from gvae.data import Table
    from gvae.random import key
    from gvae.runtime import parallel

    ranks = parallel.of(MPI.COMM_WORLD)
    x = (np.random.default_rng(0).random((ROWS, 784)) < 0.2).astype(np.float32)
    model = models.VAE(784, latent=16, posterior="chain", hidden=(200, 200))
    trainer = training.Trainer(model, shards=SHARDS, communicator=ranks, learning_rate=1e-8)
    assert trainer.parameters.flat.size == PARAMETERS
    batch = Table(x).batch(np.arange(ROWS), key(0))
    return timed(lambda: trainer.step(batch), steps, MPI.COMM_WORLD.Barrier)


def exchanged(n: int, times: int) -> list[float]:
    """In a child: the seconds of sums of n numbers."""
    from mpi4py import MPI

    from gvae.runtime import parallel

    ranks, buffer = parallel.of(MPI.COMM_WORLD), parallel.Buffer(n, np.float32, 32)
    return timed(lambda: ranks.add(buffer), times, MPI.COMM_WORLD.Barrier)


def figures(rounds: int, steps: int, launcher: str) -> None:
    cases = {"a": (1, 1), "b": (1, 2), "c": (2, 1)}
    found: dict[str, list[float]] = {name: [] for name in (*cases, "d")}
    for _ in range(rounds):
        for name, (ranks, threads) in cases.items():
            found[name].append(statistics.median(launched(ranks, threads, launcher, "step", "--steps", str(steps))))
        given = "exchanged", "--n", str(PARAMETERS), "--times", "200"
        found["d"].append(statistics.median(launched(2, 1, launcher, *given)))
    a, b, c, d = (statistics.median(found[name]) for name in "abcd")
    print(f"{_version(launcher)}, {ROWS} rows in {SHARDS} shards, medians of {rounds} rounds of {steps} steps")
    for name, text in (("a", "1 rank, 1 thread"), ("b", "1 rank, 2 threads"), ("c", "2 ranks, 1 thread"), ("d", "exchange")):
        least, most = min(found[name]), max(found[name])
        print(f"({name}) {text:<18} {1e3 * statistics.median(found[name]):7.2f} ms ({1e3 * least:.2f} to {1e3 * most:.2f})")
    print(f"scaling a / (2 c) {a / (2 * c):.2f}; the price of processes c / b {c / b:.2f}; exchange / step of c {d / c:.3f}")


def gamma() -> float:
    """Seconds that an addition takes per byte of its result."""
    x, y = np.zeros(PARAMETERS, np.float32), np.ones(PARAMETERS, np.float32)
    return statistics.median(timed(lambda: np.add(x, y, out=x), 200)) / x.nbytes


def exchange(times: int, launcher: str) -> None:
    found = {
        n: statistics.median(launched(2, 1, launcher, "exchanged", "--n", str(n), "--times", str(times))) for n in SIZES
    }
    n_bytes, seconds = 4.0 * np.array(SIZES), np.array(list(found.values()))
    weight = 1 / seconds  # relative errors
    slope, least = np.polyfit(n_bytes, seconds, 1, w=weight)
    added = gamma()
    alpha, beta = max(least, 0.0) / 2, (2 * slope - added) / 2
    print(f"{_version(launcher)}: alpha {1e6 * alpha:.1f} us; ns of a byte: beta {1e9 * beta:.3f}, gamma {1e9 * added:.3f}")
    for n, taken in found.items():
        computed = formula(2, 4 * n, alpha, beta, added)
        print(f"  2 ranks, {4 * n:>9} bytes: {1e6 * taken:8.1f} us, by the formula {1e6 * computed:8.1f}")
    cpus = len(os.sched_getaffinity(0))
    for ranks in (2, 4, 8):
        given = "exchanged", "--n", str(PARAMETERS), "--times", str(times)
        taken = statistics.median(launched(ranks, 1, launcher, *given))
        simulated = exchanges(np.zeros(ranks), 4 * PARAMETERS, alpha, beta, added).max()
        shared = max(1, ranks / cpus)
        print(
            f"  {ranks} ranks on {cpus} CPUs, {4 * PARAMETERS} bytes: {1e3 * taken:.2f} ms; simulated "
            f"{1e3 * simulated:.2f} ms, times {shared:g} ranks a CPU {1e3 * simulated * shared:.2f}"
        )


def formula(ranks: int, n_bytes: float, alpha: float, beta: float, gamma: float) -> float:
    return 2 * alpha * math.log2(ranks) + (ranks - 1) / ranks * n_bytes * (2 * beta + gamma)


def exchanges(ready: np.ndarray, n_bytes: float, alpha: float, beta: float, gamma: float) -> np.ndarray:
    """When each rank has the total, if it is ready at a time: by the exchanges of `gvae.runtime.parallel.schedule`."""
    from gvae.runtime.parallel import schedule

    ranks, now, n = len(ready), np.array(ready, np.float64), 2**20
    plans = [schedule(rank, ranks, n) for rank in range(ranks)]
    levels = len(plans[0])
    for place in range(2 * levels):
        level = min(place, 2 * levels - 1 - place)  # up, and down again
        partner = np.array([plan[level][0] for plan in plans])
        share = np.array([plan[level][1][1] - plan[level][1][0] for plan in plans]) / n
        now = np.maximum(now, now[partner]) + alpha + (beta + (gamma if place < levels else 0.0)) * n_bytes * share
    return now


def simulate(alpha: float, beta: float, gamma: float, seconds: Sequence[float]) -> None:
    rng, n_bytes = np.random.default_rng(0), 4.0 * PARAMETERS
    links = {"as given": (alpha, beta)} | LINKS
    steps = np.asarray(seconds)
    print(f"steps of {1e3 * np.median(steps):.2f} ms; efficiency of weak scaling, in brackets with the spread of the steps")
    print("ranks     " + "".join(f"{name:>26}" for name in links))
    for ranks in (2**k for k in range(1, 11)):
        row = f"{ranks:<10}"
        for a, b in links.values():
            base = float(np.median(steps))
            even = exchanges(np.full(ranks, base), n_bytes, a, b, gamma).max()
            mean = np.mean([exchanges(rng.choice(steps, ranks), n_bytes, a, b, gamma).max() for _ in range(20)])
            row += f"{base / even:>18.2f} ({steps.mean() / mean:.2f})"
        print(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["figures", "exchange", "simulate", "step", "exchanged"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--times", type=int, default=300)
    parser.add_argument("--n", type=int, default=PARAMETERS)
    parser.add_argument("--alpha", type=float, default=2e-6)
    parser.add_argument("--beta", type=float, default=1 / 12.5e9)
    parser.add_argument("--gamma", type=float, default=1 / 7e9)
    parser.add_argument("--seconds", type=float, nargs="*", help="of a step; by default those of (a) are measured")
    parser.add_argument("--launcher", default=str(Path(sys.executable).with_name("mpirun")))
    given = parser.parse_args()
    if given.what == "figures":
        figures(given.rounds, given.steps, given.launcher)
    elif given.what == "exchange":
        exchange(given.times, given.launcher)
    elif given.what == "simulate":
        seconds = given.seconds or launched(1, 1, given.launcher, "step", "--steps", str(given.steps))
        simulate(given.alpha, given.beta, given.gamma, seconds)
    else:
        from mpi4py import MPI

        found = MPI.COMM_WORLD.gather(step(given.steps) if given.what == "step" else exchanged(given.n, given.times))
        if found is not None:
            print(json.dumps(np.max(found, axis=0).tolist()))  # a step is over when it is over on all ranks


if __name__ == "__main__":
    main()
