"""Did a change make gvae slower or larger? Training steps, start-up and memory of two checkouts, interleaved, by family.

    python asv_bench/two_checkouts.py BASE                         # a commit, beside this working tree
    python asv_bench/two_checkouts.py BASE OTHER --json two.json   # two commits, or folders with the package gvae
    python asv_bench/two_checkouts.py BASE --family chain --family full --small

For every posterior family there are three workers, processes that live as long as the family is measured: one of OTHER and
two of BASE, whose difference is the noise of the machine. They take turns of some steps each, in another order in every
round; all others are blocked meanwhile. A round's ratio is taken before the median over the rounds.

start    a new process to the end of its first step, compiled kernels in the cache; medians of `--starts` processes
import   of that, `import gvae` with what a step needs
step     `Trainer.step` on a batch of 100 rows, MLP 784-200-200-16, ELBO, one BLAS thread, as in peers/training.py
memory   the largest resident set of a process after 10 steps

OTHER is called slower where the median of its ratios to BASE exceeds 1.01 and the 90 % quantile of the ratios between the
two of BASE, taken either way round. Exit status: 1 if it is slower or larger anywhere, else 0. All families take about eight
minutes on two idle cores, once their kernels are compiled.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SIDES = ("BASE", "BASE again", "OTHER")
QUANTITIES = {"step": "ms", "start": "s", "import": "s", "memory": "MB"}
SIZES = {False: (784, 16, (200, 200)), True: (64, 16, (32, 32))}  # columns, latent variables, hidden layers; with --small
LEAST = 1.01  # two folders with the same text differ by a thousandth in memory, and in nothing else
ROWS = 100
STEPS = 10  # before the memory is read, and before steps are timed: what a step needs is compiled, recorded, allocated
SEED = 20240607
ONES = 0.13  # of the pixels, as of binarized MNIST


# ---- a worker: it reads a line of JSON, and answers with one -------------------------------------


def _serve(posterior: str, small: bool) -> None:
    begun = time.perf_counter()
    from gvae import data, models, objectives, random, training

    imported = time.perf_counter()
    import resource

    import numpy as np

    columns, latent, hidden = SIZES[small]
    trainer = training.Trainer(
        models.VAE(columns, latent, posterior, observation="bernoulli", hidden=hidden, activation="elu"),
        objective=objectives.parse("elbo"),
        samples=1,
        learning_rate=1e-8,  # the same work in every step
    )
    x = (np.random.default_rng(SEED).random((ROWS, columns)) < ONES).astype(np.float32)
    batch = data.Table(x).batch(np.arange(ROWS), random.key(0))
    trainer.step(batch)
    _answer({"import": imported - begun})
    for _ in range(STEPS - 1):
        trainer.step(batch)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    _answer({"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit})
    for line in sys.stdin:
        end, times = time.perf_counter() + float(line), []
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            trainer.step(batch)
            times.append(time.perf_counter() - start)
        _answer({"step": 1e3 * statistics.median(times)})


def _families() -> None:
    from gvae import families

    _answer(list(families.FAMILIES))


def _answer(what: Any) -> None:
    print(json.dumps(what), flush=True)


class Worker:
    """A process of a checkout. `found` has what it has measured of itself: start, import, memory."""

    def __init__(self, checkout: Any, variables: Mapping[str, str], posterior: str, small: bool):
        command = [sys.executable, __file__, "--worker", posterior, str(int(small))]
        environment, pipe = checkout.environment(**variables), subprocess.PIPE
        begun = time.perf_counter()
        self.process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
        self.found = self._read()
        self.found["start"] = time.perf_counter() - begun
        self.found |= self._read()

    def turn(self, seconds: float) -> float:
        """The median time of the steps of a turn, in milliseconds."""
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return self._read()["step"]

    def end(self) -> dict[str, float]:
        self.process.communicate()
        return self.found

    def _read(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"two_checkouts.py: a worker ended with status {self.process.wait()}")
        return json.loads(line)


# ---- measuring -----------------------------------------------------------------------------------


@dataclass
class Result:
    """A quantity of a family. base, other : medians, in `unit`       ratio : OTHER / BASE, median over the rounds, and its
    10 and 90 % quantiles       spread : the same of BASE again / BASE"""

    family: str
    quantity: str
    unit: str
    base: float
    other: float
    ratio: float
    low: float
    high: float
    spread: float
    spread_low: float
    spread_high: float
    rounds: int

    @property
    def is_worse(self) -> bool:
        return self.ratio > max(LEAST, self.spread_high, 1 / self.spread_low)


def measure(
    family: str, checkouts: Mapping[str, Any], variables: Mapping[str, str], options: argparse.Namespace
) -> Iterator[Result]:
    """The quantities of a family."""

    def worker(side: str) -> Worker:
        return Worker(checkouts[side], variables, family, options.small)

    for side in ("BASE", "OTHER"):
        worker(side).end()  # compiles what is not in the cache
    orders = itertools.cycle(itertools.permutations(SIDES))
    times: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in QUANTITIES}
    workers = {}
    for i in range(options.starts):
        for side in next(orders):
            started = worker(side)
            for name, value in started.found.items():
                times[name][side].append(value)
            if i < options.starts - 1:
                started.end()
            else:
                workers[side] = started
    for _ in range(options.rounds):
        for side in next(orders):
            times["step"][side].append(workers[side].turn(options.seconds))
    for started in workers.values():
        started.end()
    for name, unit in QUANTITIES.items():
        yield result(family, name, unit, times[name])


def result(family: str, quantity: str, unit: str, times: Mapping[str, Sequence[float]]) -> Result:
    base, again, other = (times[side] for side in SIDES)
    ratios, spread = ([y / x for x, y in zip(base, side, strict=True)] for side in (other, again))
    middle = statistics.median(base), statistics.median(other)
    return Result(family, quantity, unit, *middle, *_quantiles(ratios), *_quantiles(spread), len(base))


def _quantiles(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Median, 10 and 90 %."""
    if len(ratios) == 1:
        return (ratios[0],) * 3
    deciles = statistics.quantiles(ratios, n=10, method="inclusive")
    return statistics.median(ratios), deciles[0], deciles[-1]


# ---- the table -----------------------------------------------------------------------------------


def markdown(results: Sequence[Result]) -> Iterator[str]:
    yield "| posterior | | BASE | OTHER | OTHER / BASE | 10-90 % | BASE again / BASE | 10-90 % | |"
    yield "| --- " * 9 + "|"
    last = None
    for r in results:
        numbers = f"{r.base:.3g} {r.unit} | {r.other:.3g} {r.unit} | {r.ratio:.3f} | {r.low:.3f}-{r.high:.3f}"
        spread = f"{r.spread:.3f} | {r.spread_low:.3f}-{r.spread_high:.3f}"
        yield f"| {r.family if r.family != last else ''} | {r.quantity} | {numbers} | {spread} | {_verdict(r)} |"
        last = r.family


def _verdict(r: Result) -> str:
    if not r.is_worse:
        return ""
    return "larger" if r.quantity == "memory" else "slower"


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    import datetime
    import os
    from pathlib import Path

    import checkouts
    import run

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", metavar="BASE", help="a commit, or a folder with the package gvae")
    parser.add_argument(
        "other", metavar="OTHER", nargs="?", default=str(checkouts.ROOT), help="likewise [this working tree]"
    )
    parser.add_argument("--family", action="append", metavar="TEXT", help="a posterior; may be repeated [all of BASE's]")
    parser.add_argument("--small", action="store_true", help="64-32-32-16 in place of 784-200-200-16")
    parser.add_argument("--rounds", type=_count, default=7, metavar="N", help="turns of each worker [%(default)d]")
    parser.add_argument("--seconds", type=float, default=0.4, metavar="S", help="that a turn lasts [%(default)g]")
    parser.add_argument(
        "--starts", type=_count, default=3, metavar="N", help="processes that each side starts [%(default)d]"
    )
    parser.add_argument("--threads", type=_count, metavar="N", help="GVAE_NUM_THREADS [as many as there are CPUs]")
    parser.add_argument("--json", metavar="FILE", help="also write everything as JSON")
    options = parser.parse_args(arguments)
    try:
        base, other = (checkouts.find(text) for text in (options.base, options.other))
    except ValueError as error:
        parser.error(str(error))
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    if (load or 0) > 0.5:
        print(f"{parser.prog}: other programs are busy (load {load})", file=sys.stderr)
    variables = {} if options.threads is None else {"GVAE_NUM_THREADS": str(options.threads)}
    command = [sys.executable, __file__, "--families"]
    listed = subprocess.run(command, env=base.environment(), capture_output=True, text=True)
    if listed.returncode:
        raise SystemExit(listed.stderr)
    results = []
    for family in options.family or json.loads(listed.stdout):
        print(f"{family} ...", file=sys.stderr)
        sides = dict(zip(SIDES, (base, base, other), strict=True))
        results += measure(family, sides, variables, options)
    print(*markdown(results), sep="\n")
    facts = {
        "command": " ".join(["python asv_bench/two_checkouts.py", *(sys.argv[1:] if arguments is None else arguments)]),
        "base": base.name,
        "other": other.name,
        "machine": run.machine(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "load_before": load,
    }
    cores = f"{facts['machine']['cpu']}, {facts['machine']['cores']} cores, load before {load}"
    print("", f"`{facts['command']}`: BASE is {base.name}, OTHER {other.name}; {cores}; {facts['date']}.", sep="\n")
    if options.json:
        content = json.dumps(facts | {"results": [asdict(r) for r in results]}, indent=1)
        Path(options.json).write_text(content + "\n", encoding="utf-8")
    return int(any(r.is_worse for r in results))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _serve(sys.argv[2], bool(int(sys.argv[3])))
    elif sys.argv[1:] == ["--families"]:
        _families()
    else:
        sys.exit(main())
