"""How fast gvae is beside other libraries, and beside what the machine can do: a Markdown table of measured ratios.

    python asv_bench/peers_table.py                      # everything, under five minutes
    python asv_bench/peers_table.py headline entries     # some rows
    python asv_bench/peers_table.py headline --only jax_scan
    python asv_bench/peers_table.py --list

asv times one implementation after the other, minutes apart. Here all implementations of a row run in one process and in turn
(A B C A B C ...), so that whatever disturbs the machine disturbs all of them, and the ratio of each round is taken before
the median over the rounds. Everything is float32. The implementations are those of benchmarks/; there is no second copy.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # the benchmarks, and the gvae of this checkout

import numpy as np  # noqa: E402
import run  # noqa: E402
from benchmarks.banded import Inverse, Solve, offsets_of  # noqa: E402
from benchmarks.common import Benchmark  # noqa: E402

from benchmarks import gaussian, scaling  # noqa: E402

SAMPLE = 10e-3  # seconds that one timing lasts at least, as calls in a loop would: shorter calls are repeated
PAUSE = (
    5e-3  # seconds before each timing, in which the threads of the one before stop waiting for work, which they do spinning
)
SECONDS = 9.0  # per row, whatever the number of rounds
LEAST = 5  # rounds
SCRIPT = "asv_bench/peers_table.py"


@dataclass
class Timed:
    """An implementation in a row. Its time is that of `call`, times `scale`."""

    name: str
    call: Callable[[], Any]
    scale: float = 1.0
    note: str = ""


@dataclass
class Row:
    """gvae first, then what it is compared with."""

    title: str
    timed: list[Timed]
    bytes: int = 0  # of state, each input and each output once: for GB/s
    missing: list[str] = field(default_factory=list)
    pause: float = PAUSE
    sample: float = SAMPLE


@dataclass
class Result:
    """Seconds are medians over the rounds; ratio is the other's time divided by gvae's, its median and its 10 and 90 %
    quantiles; kept is the median over rounds of the ratio under load divided by that without load."""

    row: str
    title: str
    load: int
    other: str
    gvae_seconds: float
    other_seconds: float
    ratio: float
    low: float
    high: float
    kept: float | None
    rounds: int
    gigabytes_per_second: float | None
    note: str


# ---- rows ----------------------------------------------------------------------------------------


def prepared(benchmark: type[Benchmark], implementation: str, *params: Any) -> Callable[[], Any]:
    instance = benchmark()
    instance.setup(implementation, *params)
    return instance.call


only: list[str] = []  # the names that --only has


def beside(names: Iterable[str]) -> list[str]:
    """Of these implementations, gvae and those that --only names; without it, all."""
    return [name for name in names if not only or name in ("gvae", *only)]


def headline() -> Iterator[Row]:
    """Sample, log-density and the gradient by mean and chol, against JAX in three forms and PyTorch on full matrices.

    In some rows all implementations take the log-density from the noise of the draw, in the others at z as at any point.
    """
    benchmark = gaussian.SampleAndLogProb
    for at, shape in itertools.product(benchmark.params[2], benchmark.params[1]):
        row = Row(f"chain, sample + log q {'at z ' if at == 'z' else ''}with gradient, {text(shape)}", [])
        for name in beside(benchmark.params[0]):
            scale, of = 1.0, shape
            if name == "torch" and shape[-1] == 784:  # 2.5 GB per matrix for all posteriors: some of them, counted up
                scale, of = shape[0] / 32, (32, shape[1])
            note = f"{of[0]} systems, times {scale:g}" if scale != 1 else ""
            try:
                row.timed.append(Timed(name, prepared(benchmark, name, of, at), scale, note))
            except NotImplementedError as missing:
                row.missing.append(f"{name}: {missing}")
        yield row


def throughput() -> Iterator[Row]:
    """Triangular solve of a chain against a stream triad over as many bytes: the ratio is the share of its bandwidth."""
    for shape in ((1024, 64), (1024, 784), (1, 1_000_000)):
        n_bytes = 4 * 4 * shape[0] * shape[1]  # two diagonals and b in, x out
        call = prepared(Solve, "gvae", "forward", "chain", shape, "float32")
        yield Row(f"chain, solve, {text(shape)}", [Timed("gvae", call), *triads(n_bytes)], n_bytes)


def triads(n_bytes: int) -> list[Timed]:
    """a = b + s c over n_bytes in all, on one thread, and on as many as gvae may use: the better one is the bound."""
    import numba

    @numba.njit(nogil=True, fastmath=True)
    def triad(a, b, c, s, lo, hi):
        a, b, c = a[lo:hi], b[lo:hi], c[lo:hi]
        for i in range(a.size):
            a[i] = b[i] + s * c[i]

    n = n_bytes // 12
    a, b, c = (np.ones(n, np.float32) for _ in range(3))
    s = np.float32(0.5)
    timed = [Timed("stream triad, 1 thread", lambda: triad(a, b, c, s, 0, n))]
    n_threads = int(os.environ.get("GVAE_NUM_THREADS") or run.cores())
    if n_threads > 1:
        pool = ThreadPoolExecutor(n_threads - 1)
        cuts = np.linspace(0, n, n_threads + 1).astype(int).tolist()

        def call():
            others = [pool.submit(triad, a, b, c, s, *cut) for cut in itertools.pairwise(cuts[1:])]
            triad(a, b, c, s, cuts[0], cuts[1])
            for other in others:
                other.result()

        timed.append(Timed(f"stream triad, {n_threads} threads", call))
    return timed


def entries() -> Iterator[Row]:
    """Time per stored entry of the factor, against a chain's: the ratio is the chain's time per entry by this one's."""
    shape = (1024, 784)

    def timed(name, graph):
        stored = sum(shape[1] - o for o in offsets_of(graph, shape[1])) * shape[0]
        return Timed(name, prepared(Solve, "gvae", "forward", graph, shape, "float32"), 1 / stored)

    for graph, name in (("band:4", "band of 4"), ("extended_grid", "extended grid 28x28")):
        yield Row(f"solve per stored entry, {name}, {text(shape)}", [timed("gvae", graph), timed("chain", "chain")])


def long() -> Iterator[Row]:
    """One chain of 10^6 variables against the plain serial loop, called once."""
    shape, names = (1, 1_000_000), ("gvae", "serial")
    for benchmark, title in ((scaling.LongSolve, "solve"), (scaling.LongInverse, "selected inverse")):
        timed = [Timed(name, prepared(benchmark, name, "forward", "chain", shape, "float32")) for name in names]
        timed[1].name = "serial loop"
        yield Row(f"chain, {title}, {text(shape)}", timed)


def inverse() -> Iterator[Row]:
    """Selected inverse of an extended grid against numpy.linalg.inv of the full precision."""
    shape, fewer = (100, 784), (10, 784)  # a full inverse of all 100 takes seconds: of 10, counted up
    params = ("forward", "extended_grid")
    yield Row(
        f"extended grid 28x28, selected inverse, {text(shape)}",
        [
            Timed("gvae", prepared(Inverse, "gvae", *params, shape, "float32")),
            Timed("numpy.linalg.inv", prepared(Inverse, "dense", *params, fewer, "float32"), 10, "10 systems, times 10"),
        ],
    )


def linear() -> Iterator[Row]:
    """Selected inverse per variable as N grows, against that at N = 1000: 1 or more is a linear cost or better."""
    for graph, name in (("chain", "chain"), ("band:4", "band of 4")):
        calls = {
            shape[1]: prepared(scaling.LongInverse, "gvae", "forward", graph, shape, "float32") for shape in scaling.SIZES
        }
        (first, least), *larger = calls.items()
        for N, call in larger:
            timed = [Timed("gvae", call, 1 / N), Timed(f"N = {first:,}", least, 1 / first)]
            yield Row(f"{name}, selected inverse per variable, N = {N:,}", timed)


def kl() -> Iterator[Row]:
    """KL to N(0, I) of (100, 2, 16): the public call against its kernels alone, and against value and gradient."""
    params = ("chain", (100, 16), "float32")
    call = prepared(gaussian.Kl, "gvae", "forward", *params)
    yield Row(
        "chain, KL to N(0, I), (100, 2, 16)",
        [
            Timed("gvae", call),
            Timed("its kernels alone", kernels_of(call)),
            Timed("value and gradient", prepared(gaussian.Kl, "gvae", "gradient", *params)),
        ],
    )


def kernels_of(call: Callable[[], Any]) -> Callable[[], Any]:
    """The launches of kernels that `call` makes, on the same arrays and by this thread alone."""
    from gvae.runtime.context import entered
    from gvae.runtime.device import Cpu

    calls: list[tuple[Callable, tuple]] = []

    class Noted(Cpu):
        def over(self, kernel: Callable, *arguments: Any, n: int, **how: Any) -> None:
            calls.append((kernel, (*arguments, 0, n)))
            Cpu.over(kernel, *arguments, n=n, **how)

    with entered(backend=Noted()):
        call()
    if not calls:
        raise SystemExit("peers_table.py: found no kernel in the public call")

    def replay():
        for kernel, arguments in calls:
            kernel(*arguments)

    return replay


ROWS = {f.__name__: f for f in (headline, throughput, entries, long, inverse, linear, kl)}


# ---- measuring -----------------------------------------------------------------------------------


def measure(key: str, row: Row, rounds: int, seconds: float, load: int = 0) -> list[Result]:
    """Time all implementations in turn: without load and, if `load` is above 0, alternately with that many busy processes.
    Short calls are repeated to fill `row.sample` seconds; untimed calls determine how often."""
    numbers = [max(1, round(row.sample / max(min(once(t.call, 1) for _ in range(3)), 1e-7))) for t in row.timed]
    times: dict[int, list[list[float]]] = {0: [], load: []}
    end = time.perf_counter() + seconds
    while len(times[0]) < rounds and (len(times[0]) < LEAST or time.perf_counter() < end):
        for n, all_rounds in times.items():
            with busy(n):
                all_rounds.append([timing(row, t, number) for t, number in zip(row.timed, numbers, strict=True)])
    return [result(key, row, i, n, times) for n in times for i in range(1, len(row.timed))]


def timing(row: Row, timed: Timed, number: int) -> float:
    time.sleep(row.pause)
    timed.call()  # untimed: it finds the caches as the other implementation left them
    return once(timed.call, number) * timed.scale


def result(key: str, row: Row, i: int, load: int, times: dict[int, list[list[float]]]) -> Result:
    """The result of the i-th implementation under a load of that many busy processes."""
    ratios = {n: np.array([t[i] / t[0] for t in all_rounds]) for n, all_rounds in times.items()}
    low, high = np.quantile(ratios[load], [0.1, 0.9]).tolist()
    ours = statistics.median(t[0] for t in times[load])
    return Result(
        row=key,
        title=row.title + (f", beside {load} busy processes" if load else ""),
        load=load,
        other=row.timed[i].name,
        gvae_seconds=ours,
        other_seconds=statistics.median(t[i] for t in times[load]),
        ratio=float(np.median(ratios[load])),
        low=low,
        high=high,
        kept=float(np.median(ratios[load] / ratios[0])) if load else None,
        rounds=len(times[load]),
        gigabytes_per_second=row.bytes / ours / 1e9 if row.bytes else None,
        note=row.timed[i].note,
    )


def once(call: Callable[[], Any], number: int) -> float:
    """Seconds per call."""
    start = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - start) / number


@contextmanager
def busy(n: int) -> Iterator[None]:
    """In the block, n processes compute in the background; they also end when this process does."""
    code = "import os, sys\nprint(flush=True)\nwhile os.getppid() == int(sys.argv[1]): sum(range(10**5))"
    with ExitStack() as stack:
        processes = []
        for _ in range(n):
            command = [sys.executable, "-c", code, str(os.getpid())]
            processes.append(stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE)))
            stack.callback(processes[-1].kill)
        for process in processes:
            process.stdout.readline()  # type: ignore[union-attr]  # it has begun
        yield


# ---- the table -----------------------------------------------------------------------------------


def text(shape: Sequence[int]) -> str:
    return f"({', '.join('10^6' if n == 1_000_000 else str(n) for n in shape)})"


def human(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def number(x: float) -> str:
    return f"{x:,.0f}" if x >= 1000 else f"{x:.3g}"


def markdown(results: list[Result]) -> Iterator[str]:
    yield "| | gvae | beside | its time | ratio | 10-90 % |"
    yield "| --- | --- | --- | --- | --- | --- |"
    title = None
    for r in results:
        ours = human(r.gvae_seconds) + (f", {r.gigabytes_per_second:.3g} GB/s" if r.gigabytes_per_second else "")
        first = (r.title, ours) if r.title != title else ("", "")
        title = r.title
        other = r.other + (f" ({r.note})" if r.note else "")
        ratio = number(r.ratio) + (f", {number(r.kept)} of that at rest" if r.kept is not None else "")
        cells = (*first, other, human(r.other_seconds), ratio, f"{number(r.low)}-{number(r.high)}")
        yield f"| {' | '.join(cells)} |"


def about(arguments: Sequence[str], script: str = SCRIPT) -> dict[str, Any]:
    commit = subprocess.run(["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "machine": run.machine(),
        "commit": commit.stdout.strip() or "unknown",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": " ".join([f"python {script}", *arguments]),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def caption(facts: dict[str, Any]) -> str:
    machine = facts["machine"]
    names = ("python", "numpy", "scipy", "numba", *run.PEERS)
    versions = ", ".join(f"{name} {machine[name]}" for name in names if name in machine)
    threads = ", ".join(f"{name}={value}" for name, value in machine["threads"].items())
    return (
        f"`{facts['command']}`: {machine['cpu']}, {machine['vectors']}, {machine['cores']} cores; {versions}; "
        f"BLAS {machine['blas']}; {threads + '; ' if threads else ''}float32; commit {facts['commit']}, {facts['date']}. "
        "Ratio: the other's time by gvae's, above 1 where gvae is faster; median and 10-90 % of the rounds."
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def main(
    arguments: Sequence[str] | None = None,
    rows: Mapping[str, Callable[[], Iterator[Row]]] = ROWS,
    script: str = SCRIPT,
) -> int:
    """The command. Another script has rows of its own, named and described as those above."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog=Path(script).name,
        description="Measure gvae beside other libraries, all in one process and in turn, and print a Markdown table. "
        "Close other programs first. PyTorch and JAX are left out where they are not installed.",
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"some of {', '.join(rows)} (default: all)")
    parser.add_argument("--rounds", type=_count, default=50, metavar="N", help="at most so many rounds per row [50]")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, metavar="S", help=f"about so long per row, {LEAST} rounds at least [9]"
    )
    parser.add_argument(
        "--sample",
        type=float,
        metavar="S",
        help="seconds that each library runs before the next one [as the row says]",
    )
    parser.add_argument(
        "--load",
        type=_count,
        default=0,
        metavar="N",
        help="also measure every round with N busy processes in the background, to see whether the ratios hold",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="compare with this library only, as the table names it, and load no other; may be repeated",
    )
    parser.add_argument("--json", metavar="FILE", help="also write everything as JSON")
    parser.add_argument("--list", action="store_true", help="list the rows")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.rows if name not in rows]
    if unknown:
        parser.error(f"no row is called {unknown[0]!r}: there are {', '.join(rows)}")
    if options.list:
        width = max(map(len, rows)) + 2
        print(*(f"{name:<{width}}{(f.__doc__ or '').splitlines()[0]}" for name, f in rows.items()), sep="\n")
        return 0
    only[:] = options.only
    facts = about(arguments, script)
    if (facts["load_before"] or 0) > 0.5:
        print(f"{parser.prog}: other programs are busy (load {facts['load_before']})", file=sys.stderr)
    results = []
    for name in options.rows or rows:
        for row in rows[name]():
            print(f"{row.title} ...", file=sys.stderr)
            for missing in row.missing:
                print(f"  without {missing}", file=sys.stderr)
            if len(row.timed) < 2:
                print("  nothing to compare gvae with", file=sys.stderr)
                continue
            if options.sample is not None:
                row = replace(row, sample=options.sample)
            results += measure(name, row, options.rounds, options.seconds, options.load)
    if not results:
        parser.error("there was nothing to compare gvae with" + (f": --only has {', '.join(only)}" if only else ""))
    print(*markdown(results), "", caption(facts), sep="\n")
    if options.json:
        content = json.dumps(facts | {"results": [asdict(r) for r in results]}, indent=1)
        Path(options.json).write_text(content + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
