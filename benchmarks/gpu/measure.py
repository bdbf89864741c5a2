"""Everything that only a CUDA device can tell, by one command:

    python benchmarks/gpu/measure.py

It runs the tests marked gpu on the device, notes in witness.json which kernels passed, looks for races and stray accesses
with compute-sanitizer where that is installed, and measures what PENDING.md lists. The numbers go to
benchmarks/gpu/<device>-<date>.json, and a summary to the terminal. It needs `pip install '.[cuda13,test]'`; PyTorch and JAX
with CUDA are measured beside gvae where they are installed, each at its defaults (JAX's products are of TF32 then, and once
more of float32); PyTorch also lists the kernels of gvae's step. About ten minutes. A part that fails is reported with its
error, and the others are measured. `--small --no-tests` goes through all parts in a minute, with shapes that say nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the device's memory is for all of them

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "asv_bench" / "peers"), str(ROOT / "asv_bench")]

import devices  # noqa: E402
import numpy as np  # noqa: E402

TESTS = ["tests/kernels/test_cuda_kernels.py", "tests/runtime/test_cuda.py"]
TESTS += ["tests/runtime/test_execution_paths.py", "tests/training/test_feed.py", "tests/models/test_deep_gp.py"]
TESTS += ["tests/models/test_mode.py", "tests/ops/test_linalg.py", "tests/ops/test_normalize.py"]
SMALL = "tiny or grid or (test_long_chains and 33) or (test_a_graph and model) or test_products or test_other_families"

# m, k, n of products in a training step: layers of 784-200-200 forward, back to x and to the weight, at 100 and 1000 rows
PRODUCTS = [(100, 784, 200), (100, 200, 784), (784, 100, 200), (100, 200, 200), (1000, 200, 784), (200, 1000, 784)]
PRODUCTS += [(5000, 200, 784), (20000, 200, 784)]

STEPS = ("diagonal", "chain", "grid", "diagonal-20x50", "diagonal-100x50")  # of asv_bench/peers/training_cases.py

# (operation, structure): the offsets of 256 variables, and the fraction of the copy bandwidth that is hoped for
TARGETS = {
    ("solve", "chain"): ((0, 1), 0.6),
    ("solve", "band 4"): ((0, 1, 2, 3, 4), 0.6),
    ("solve", "extended grid 16x16"): ((0, 1, 16), 0.5),
    ("inverse", "chain"): ((0, 1), 0.6),
    ("inverse", "band 4"): ((0, 1, 2, 3, 4), 0.6),
    ("inverse", "extended grid 16x16"): ((0, 1, 16), 0.2),
}


def seconds(cupy: Any, call: Callable[[], Any], repeats: int = 20, rounds: int = 5) -> float:
    """The least time of a call, among rounds of several calls that the device is waited for after, whoever's they are."""
    call()
    wait = cupy.cuda.Device().synchronize
    best = np.inf
    for _ in range(rounds):
        wait()
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        wait()
        best = min(best, (time.perf_counter() - started) / repeats)
    return best


def copy_bandwidth(cupy: Any, n_bytes: int = 1 << 30) -> float:
    """Bytes read and written per second by a copy."""
    x = cupy.zeros(n_bytes // 4, np.float32)
    y = cupy.empty_like(x)
    return 2 * x.nbytes / seconds(cupy, lambda: y.data.copy_from_device_async(x.data, x.nbytes))


def bandwidths(cupy: Any, B: int = 100_000, N: int = 256) -> list[dict[str, Any]]:
    """Each structured kernel's fraction of the copy bandwidth, each input and each output counted once; and how long the
    public op takes, which allocates and looks at the failing pivots."""
    from gvae import ops
    from gvae.kernels.cuda import banded

    copy = copy_bandwidth(cupy, 8 * B * N)
    rows = np.arange(B)
    results = []
    for dtype in (np.float32, np.float64):
        for (operation, structure), (offsets, target) in TARGETS.items():
            M, W = len(offsets), offsets[-1] + 1
            chol, info = cupy.full((B, M, N), 0.1, dtype), cupy.zeros(B, np.int32)
            chol[:, 0] = 1.5
            places = np.array(offsets)
            if operation == "solve":
                b, x = cupy.ones((B, N), dtype), cupy.empty((B, N), dtype)
                kernel = lambda a=(chol, places, rows, rows, rows, b, x, False, info): banded.solve_triangular(*a, 0, B)  # noqa: E731
                op = lambda c=chol, b=b, o=offsets: ops.solve_triangular_banded(c, b, offsets=o)  # noqa: E731
                numbers = (M + 2) * B * N
            else:
                s = cupy.empty((B, W, N), dtype)
                kernel = lambda a=(chol, places, s, info): banded.inverse(*a, 0, B)  # noqa: E731
                op = lambda c=chol, o=offsets: ops.inverse_banded(c, offsets=o, fill=True)  # noqa: E731
                numbers = (M + W) * B * N
            alone, whole = seconds(cupy, kernel), seconds(cupy, op, repeats=5)
            rate = numbers * np.dtype(dtype).itemsize / alone
            results.append(
                {
                    **{"operation": operation, "structure": structure, "dtype": np.dtype(dtype).name, "B": B, "N": N},
                    **{"microseconds": 1e6 * alone, "op_microseconds": 1e6 * whole, "GB/s": rate / 1e9},
                    **{"copy_GB/s": copy / 1e9, "fraction": rate / copy, "target": target},
                }
            )
    return results


LONG = [(1, 4096), (1, 100_000), (1, 1_000_000), (64, 4096), (1024, 4096), (4096, 4096), (64, 100_000), (1024, 32_768)]


def long_chains(cupy: Any, shapes: list[tuple[int, int]] | None = None, times: int = 100) -> list[dict[str, Any]]:
    """So many long chains in segments and as systems, and whether so many repetitions of one have the same bits."""
    from gvae import ops

    results: list[dict[str, Any]] = []
    for B, N in shapes or LONG:
        rng = np.random.default_rng(0)
        chol = np.stack([rng.uniform(0.8, 2, N), rng.normal(size=N) * 0.5]).astype(np.float32)
        there, b = (cupy.asarray(np.tile(a, (B, *[1] * a.ndim))) for a in (chol, rng.normal(size=N).astype(np.float32)))
        for operation, f in (
            ("solve", lambda c, b, m: ops.solve_triangular_banded(c, b, method=m, check=False)),
            ("inverse", lambda c, b, m: ops.inverse_banded(c, method=m, check=False)),
        ):
            first = f(there, b, "segments").get().tobytes()
            alike = all(f(there, b, "segments").get().tobytes() == first for _ in range(times if B == 1 else 2))
            calls = {method: partial(f, there, b, method) for method in ("segments", "systems")}
            took = {method: 1e6 * seconds(cupy, call, 5, 3) for method, call in calls.items()}
            results.append({"operation": operation, "B": B, "N": N, "microseconds": took, "same_bits": alike})
    return results


def captured(cupy: Any, call: Callable[[], Any], times: int = 50) -> float:
    """The time of a call on the device alone: one of so many in a graph, which Python is not waited for in."""
    with cupy.cuda.Stream(non_blocking=True) as stream:
        call()  # compiles
        stream.begin_capture()
        for _ in range(times):
            call()
        graph = stream.end_capture()
        return seconds(cupy, partial(graph.launch, stream), 1) / times


def cublas(cupy: Any, x: Any, y: Any, out: Any, times: int = 50) -> Any:
    """The same of cuBLAS's product, which PyTorch can capture and CuPy cannot: None without PyTorch."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    x, y, out = (torch.as_tensor(a, device="cuda") for a in (x, y, out))
    torch.mm(x, y, out=out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            torch.mm(x, y, out=out)
    return 1e6 * seconds(cupy, graph.replay, 1) / times


def products(cupy: Any, shapes: list[tuple[int, int, int]] | None = None) -> list[dict[str, Any]]:
    """Our product of small layers and cuBLAS's: what decides about OWN in gvae/kernels/cuda/product.py."""
    from gvae.kernels.cuda.product import product

    results = []
    for (m, k, n), dtype in itertools.product(shapes or PRODUCTS, (np.float32, np.float64)):
        rng = np.random.default_rng(0)
        x, y = (cupy.asarray(rng.normal(size=shape).astype(dtype)) for shape in ((m, k), (k, n)))
        out, row = cupy.empty((m, n), dtype), {"m": m, "k": k, "n": n, "dtype": np.dtype(dtype).name}
        for turned, (a, b) in {"": (x, y), ", x turned": (cupy.ascontiguousarray(x.T).T, y)}.items():
            row[f"own{turned}"] = 1e6 * captured(cupy, partial(product, a, b, out, 0, m))
            row[f"cuBLAS{turned}"] = cublas(cupy, a, b, out)
        product(x, y, out, 0, m)
        row["same_bits"] = all(_again(cupy, product, x, y, out) for _ in range(100))
        results.append(row)
    return results


def _again(cupy: Any, product: Any, x: Any, y: Any, first: Any) -> bool:
    out = cupy.empty_like(first)
    product(x, y, out, 0, len(out))
    return bool((out == first).all())


def training_steps(cupy: Any, cases: list[Any], repeats: int = 50) -> list[dict[str, Any]]:
    """A training step of each case: in gvae from Python and as a CUDA graph; in PyTorch and JAX where they have a CUDA
    device."""
    ways: dict[str, Callable[[Any], Any]] = {
        "gvae, from Python": gvae_step,
        "gvae, graph": gvae_pass,
        "PyTorch, eager": torch_step,
        "PyTorch, compiled": partial(torch_step, mode="reduce-overhead"),
        "JAX, jit": jax_step,
        "JAX, jit, float32": partial(jax_step, precision="float32"),
    }
    results = []
    for case in cases:
        row: dict[str, Any] = {"case": str(case), "microseconds": {}, "same_bits": None}
        for way, make in ways.items():
            try:
                with make(case) as step:
                    seconds(cupy, step, repeats, 1)  # compiles, records, captures
                    row["microseconds"][way] = 1e6 * seconds(cupy, step, repeats)
            except (ImportError, NotImplementedError) as missing:
                row["microseconds"][way] = str(missing)
            except Exception as error:  # one way must not cost the others
                traceback.print_exc()
                row["microseconds"][way] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        results.append(row | bits_and_memory(case, repeats))
    return results


def bits_and_memory(case: Any, n: int) -> dict[str, Any]:
    """Whether n steps leave the same parameters by Python and by a graph; and the bytes that the graph's memory has, after
    the first launches and after the last."""
    flats, memory = [], []
    for programs in (False, True):
        with gvae_pass(case, programs) as step:
            trainer = step()
            for when in range(2):
                if programs:
                    memory.append(trainer.graph.workspace.pool.total_bytes())
                for _ in range(n if when == 0 else 0):
                    step()
        flats.append(trainer.parameters.flat.get().tobytes())
    return {"same_bits": flats[0] == flats[1], "workspace_bytes": memory}


@contextlib.contextmanager
def gvae_pass(case: Any, programs: bool = True, batches: int = 50) -> Iterator[Callable[[], Any]]:
    """Steps as `train` makes them, on passes over a table on the device: each gathers its rows as well, and every 50th
    uploads the numbers of the next 50. Returns the trainer."""
    from gvae import data, random
    from gvae.runtime import device
    from gvae.training.program import Pass

    trainer = gvae_trainer(case, programs=programs)
    table = data.Table(np.tile(case.data(), (batches, 1))).to("cuda")

    def steps() -> Iterator[Any]:
        for epoch in itertools.count():
            passing = Pass(trainer, table, random.key(epoch), case.rows, np.arange(len(table)))
            for i in range(len(passing)):
                passing.step(i)
                yield trainer

    with device.stream("cuda"):
        step = partial(next, steps())
        for _ in range(6):
            step()
        if programs and not trainer.graph.verified:
            raise NotImplementedError(trainer.graph.why_not)
        yield step


@contextlib.contextmanager
def gvae_step(case: Any) -> Iterator[Callable[[], Any]]:
    """Each made by Python. Without reading the loss: as in training, where it is read once per epoch."""
    from gvae import data, random

    trainer = gvae_trainer(case)
    batch = next(data.Table(case.data()).to("cuda").batches(random.key(0), case.rows))
    yield lambda: trainer.step(batch)


def gvae_trainer(case: Any, **settings: Any) -> Any:
    from gvae import objectives, training

    return training.Trainer(
        case.model(),
        objective=objectives.parse("iwae" if case.samples > 1 else "elbo"),
        samples=case.samples,
        learning_rate=1e-8,
        parameters=case.parameters(),
        device="cuda",
        **settings,
    )


@contextlib.contextmanager
def torch_step(case: Any, mode: str | None = None) -> Iterator[Callable[[], Any]]:
    """Without reading the loss, as in gvae's. With a mode, the loss is compiled in it."""
    import torch
    from steps_torch import Torch

    if not torch.cuda.is_available():
        raise NotImplementedError("PyTorch finds no CUDA device")
    before = torch.get_default_device()
    torch.set_default_device("cuda")
    try:
        step = Torch(case)
        if mode is not None:
            torch.compiler.reset()
            step.loss = torch.compile(step.loss, dynamic=False, mode=mode)

        def run() -> None:  # Torch.__call__ without .item()
            loss = step.loss(torch.randn(case.samples, case.rows, case.latent))
            step.optimizer.zero_grad()
            loss.backward()
            step.optimizer.step()

        run()
        yield run
    finally:
        torch.set_default_device(before)


@contextlib.contextmanager
def jax_step(case: Any, precision: str | None = None) -> Iterator[Callable[[], Any]]:
    """Without reading the loss, as in gvae's."""
    import jax
    from steps_jax import Jax

    if jax.default_backend() != "gpu":
        raise NotImplementedError("JAX finds no CUDA device")
    step = Jax(case)

    def run() -> None:  # Jax.__call__ without float(loss)
        step.values, step.state, _ = step.step_with_draw(step.values, step.state, step.x, step.key)

    with jax.default_matmul_precision(precision):
        run()
        yield run


def kernels(cases: list[Any], steps: int = 20) -> list[dict[str, Any]]:
    """What the device does in a step: its kernels by time, which PyTorch's profiler sees, whatever launches them."""
    import torch

    results = []  # entries without device time are calls of the host
    for case in cases:
        with gvae_pass(case, programs=False) as step:
            torch.cuda.synchronize()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
                for _ in range(steps):
                    step()
                torch.cuda.synchronize()
        took = sorted(
            ((e.key, e.device_time_total / steps, e.count / steps) for e in seen.key_averages()), key=lambda r: -r[1]
        )
        row = {"case": str(case), "microseconds": sum(t for _, t, _ in took), "launches": sum(n for _, t, n in took if t)}
        results.append(row | {"kernels": [{"name": name, "microseconds": t, "times": n} for name, t, n in took if t]})
    return results


def run_tests(sanitizer: str | None = None) -> dict[str, Any]:
    """pytest -m gpu, by itself or under one of compute-sanitizer's tools."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--nightly", "-p", "no:cacheprovider", *TESTS]
    if sanitizer is None:
        command += ["--witness", str(devices.WITNESS)]
    else:
        tool = shutil.which("compute-sanitizer")
        if tool is None:
            return {"ran": False, "why": "compute-sanitizer is not installed"}
        command = [tool, "--tool", sanitizer, "--error-exitcode", "99", *command, "-k", SMALL]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return {"ran": True, "passed": done.returncode == 0, "exit": done.returncode, "last_lines": lines[-8:]}


def table(report: dict[str, Any]) -> str:
    """The report in Markdown; a part that failed is its error."""
    failed = [f"{part}: {said['error']}" for part, said in report.items() if isinstance(said, dict) and "error" in said]
    report = report | {part: [] for part in PARTS if not isinstance(report.get(part), list)}
    lines = ["| kernel | dtype | us | GB/s | of a copy | hoped for |", "| --- | --- | --- | --- | --- | --- |"]
    for r in report["bandwidths"]:
        name = f"{r['operation']}, {r['structure']}"
        rate = f"{r['microseconds']:.0f} | {r['GB/s']:.0f} | {r['fraction']:.0%} | {r['target']:.0%}"
        lines.append(f"| {name} | {r['dtype']} | {rate} |")
    for i, r in enumerate(report["long_chains"]):
        if i == 0:
            lines += ["", "| long chains | segments | systems | same bits |", "| --- | --- | --- | --- |"]
        shown = " | ".join(f"{r['microseconds'][way]:.0f} us" for way in ("segments", "systems"))
        lines.append(f"| {r['operation']}, {r['B']} of {r['N']} | {shown} | {r['same_bits']} |")
    for i, r in enumerate(report["products"]):
        names = [name for name in r if name.startswith(("own", "cuBLAS"))]
        if i == 0:
            lines += ["", "| product | dtype | " + " | ".join(names) + " |", "| --- " * (2 + len(names)) + "|"]
        shown = " | ".join("" if r[name] is None else f"{r[name]:.1f} us" for name in names)
        lines.append(f"| {r['m']}x{r['k']}x{r['n']} | {r['dtype']} | {shown} |")
    for i, r in enumerate(report["training"]):
        ways = r["microseconds"]
        if i == 0:
            lines += ["", "| training step | " + " | ".join(ways) + " | same bits |", "| --- " * (2 + len(ways)) + "|"]
        shown = " | ".join(f"{x:.0f} us" if isinstance(x, float) else x for x in ways.values())
        lines.append(f"| {r['case']} | {shown} | {r['same_bits']} |")
    for r in report["kernels"]:
        lines += ["", f"{r['case']}: {r['microseconds']:.1f} us in {r['launches']:.0f} launches", ""]
        lines += [f"    {k['microseconds']:7.2f} us  {k['times']:5.2f} x  {k['name'][:90]}" for k in r["kernels"][:25]]
    return "\n".join([*lines, "", *failed])


PARTS: dict[str, Callable[[Any, list[Any], bool], Any]] = {
    "bandwidths": lambda cupy, cases, small: bandwidths(cupy, *((40, 20) if small else ())),
    "long_chains": lambda cupy, cases, small: long_chains(cupy, *([[(1, 5000), (2, 5000)], 2] if small else [])),
    "products": lambda cupy, cases, small: products(cupy, [(5, 7, 9)] if small else None),
    "training": lambda cupy, cases, small: training_steps(cupy, cases, *([2] if small else [])),
    "kernels": lambda cupy, cases, small: kernels(cases, *([2] if small else [])),
}


def attempt(part: Callable[[], Any]) -> Any:
    """What it returns, or its error: time on a device is short, and one part must not cost the others."""
    try:
        return part()
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-tests", action="store_true", help="measure only; nothing is noted in witness.json")
    parser.add_argument("--small", action="store_true", help="tiny shapes: does the script itself work?")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent, help="the folder for the results")
    parser.add_argument("--only", action="append", choices=PARTS, help="measure this part, or these; as often as wanted")
    options = parser.parse_args(arguments)
    why = devices.why_no_device()
    if why is not None:
        raise SystemExit(f"measure.py: {why}")
    import cupy
    from training_cases import CASES

    cases = [CASES[name] for name in STEPS]
    if options.small:
        cases = [replace(case, rows=4, samples=min(case.samples, 2), pixels=6, hidden=5) for case in cases]
    report: dict[str, Any] = {"machine": devices.describe_device()}
    if not options.no_tests:
        report["tests"] = run_tests()
        print("\n".join(report["tests"]["last_lines"]))
        for tool in ("memcheck", "racecheck"):
            report[tool] = run_tests(tool)
            print(tool, report[tool])
    name = re.sub(r"\W+", "-", report["machine"]["device"]).strip("-").lower()
    path = options.to / f"{name}-{report['machine']['date']}.json"
    for part, measured in PARTS.items():
        if part not in (options.only or PARTS):
            continue
        report[part] = attempt(partial(measured, cupy, cases, options.small))
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")  # what there is, if this machine goes away
    print(table(report))
    print(f"\n{path}")


if __name__ == "__main__":
    main()
