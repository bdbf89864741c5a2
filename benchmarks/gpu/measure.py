"""Everything that only a CUDA device can tell, by one command:

    python benchmarks/gpu/measure.py

It runs the tests marked gpu on the device, notes in witness.json which kernels passed, looks for races and stray accesses
with compute-sanitizer where that is installed, and measures what PENDING.md lists. The numbers go to
benchmarks/gpu/<device>-<date>.json, and a summary to the terminal. It needs `pip install '.[cuda13,test]'`; PyTorch and JAX
with CUDA are measured beside gvae where they are installed. About ten minutes.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "asv_bench" / "peers"), str(ROOT / "asv_bench")]

import devices  # noqa: E402
import numpy as np  # noqa: E402

TESTS = ["tests/test_cuda_kernels.py", "tests/test_cuda.py"]
SMALL = "tiny or grid or (test_long_chains and 33) or test_training_steps"  # what a sanitizer can run through in minutes

STEPS = ("diagonal", "chain", "grid", "diagonal-20x50")  # of asv_bench/peers/training_cases.py

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
    """The least time of a call, among rounds of several calls that the device is waited for after."""
    call()
    stream = cupy.cuda.get_current_stream()
    best = np.inf
    for _ in range(rounds):
        stream.synchronize()
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        stream.synchronize()
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


def long_chains(cupy: Any, lengths: tuple[int, ...] = (4096, 100_000, 1_000_000)) -> list[dict[str, Any]]:
    """One long chain in segments and as one system, and whether repetitions have the same bits."""
    from gvae import ops

    results: list[dict[str, Any]] = []
    for N in lengths:
        rng = np.random.default_rng(0)
        chol = np.stack([rng.uniform(0.8, 2, N), rng.normal(size=N) * 0.5]).astype(np.float32)
        there, b = cupy.asarray(chol), cupy.asarray(rng.normal(size=N).astype(np.float32))
        for operation, f in (
            ("solve", lambda c, b, m: ops.solve_triangular_banded(c, b, method=m, check=False)),
            ("inverse", lambda c, b, m: ops.inverse_banded(c, method=m, check=False)),
        ):
            first = f(there, b, "segments").get().tobytes()
            alike = all(f(there, b, "segments").get().tobytes() == first for _ in range(100))
            calls = {method: partial(f, there, b, method) for method in ("segments", "systems")}
            times = {method: 1e6 * seconds(cupy, call, 5, 3) for method, call in calls.items()}
            results.append({"operation": operation, "N": N, "microseconds": times, "same_bits_100_times": alike})
    return results


def training_steps(cupy: Any, cases: list[Any], repeats: int = 50) -> list[dict[str, Any]]:
    """A training step of each case in gvae, and in PyTorch and JAX where they have a CUDA device."""
    results = []
    for case in cases:
        row: dict[str, Any] = {"case": str(case), "microseconds": {}}
        for library, make in {"gvae": gvae_step, "PyTorch, eager": torch_step, "JAX, jit": jax_step}.items():
            try:
                step = make(case)
                seconds(cupy, step, repeats, 1)  # compiles and allocates
                row["microseconds"][library] = 1e6 * seconds(cupy, step, repeats)
            except (ImportError, NotImplementedError) as missing:
                row["microseconds"][library] = str(missing)
        results.append(row)
    return results


def gvae_step(case: Any) -> Callable[[], Any]:
    """Without reading the loss: as in training, where it is read once per epoch."""
    from gvae import data, objectives, random, training

    trainer = training.Trainer(
        case.model(),
        objective=objectives.parse("iwae" if case.samples > 1 else "elbo"),
        samples=case.samples,
        learning_rate=1e-8,
        parameters=case.parameters(),
        device="cuda",
    )
    index = np.arange(case.rows)
    batch = next(data.Table(case.data()).to("cuda").batches(random.key(0), len(index)))
    return lambda: trainer.step(batch)


def torch_step(case: Any) -> Callable[[], Any]:
    import torch
    from steps_torch import Torch

    if not torch.cuda.is_available():
        raise NotImplementedError("PyTorch finds no CUDA device")
    torch.set_default_device("cuda")
    step = Torch(case)
    noise = lambda: torch.randn(case.samples, case.rows, case.latent)  # noqa: E731

    def run() -> None:  # Torch.__call__ without .item()
        loss = step.loss(noise())
        step.optimizer.zero_grad()
        loss.backward()
        step.optimizer.step()

    def and_wait() -> None:
        run()
        torch.cuda.current_stream().synchronize()

    and_wait()
    return and_wait


def jax_step(case: Any) -> Callable[[], Any]:
    import jax
    from steps_jax import Jax

    if jax.default_backend() != "gpu":
        raise NotImplementedError("JAX finds no CUDA device")
    return Jax(case)


def run_tests(sanitizer: str | None = None) -> dict[str, Any]:
    """pytest -m gpu, by itself or under one of compute-sanitizer's tools."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *TESTS]
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
    """The report in Markdown."""
    lines = ["| kernel | dtype | us | GB/s | of a copy | hoped for |", "| --- | --- | --- | --- | --- | --- |"]
    for r in report["bandwidths"]:
        name = f"{r['operation']}, {r['structure']}"
        rate = f"{r['microseconds']:.0f} | {r['GB/s']:.0f} | {r['fraction']:.0%} | {r['target']:.0%}"
        lines.append(f"| {name} | {r['dtype']} | {rate} |")
    lines += ["", "| training step | " + " | ".join(report["training"][0]["microseconds"]) + " |", "| --- " * 4 + "|"]
    for r in report["training"]:
        shown = (f"{x:.0f} us" if isinstance(x, float) else x for x in r["microseconds"].values())
        lines.append(f"| {r['case']} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-tests", action="store_true", help="measure only; nothing is noted in witness.json")
    options = parser.parse_args()
    why = devices.why_no_device()
    if why is not None:
        raise SystemExit(f"measure.py: {why}")
    import cupy
    from training_cases import CASES

    report: dict[str, Any] = {"machine": devices.describe_device()}
    if not options.no_tests:
        report["tests"] = run_tests()
        print("\n".join(report["tests"]["last_lines"]))
        for tool in ("memcheck", "racecheck"):
            report[tool] = run_tests(tool)
            print(tool, report[tool])
    report["bandwidths"] = bandwidths(cupy)
    report["long_chains"] = long_chains(cupy)
    report["training"] = training_steps(cupy, [CASES[name] for name in STEPS])
    name = re.sub(r"\W+", "-", report["machine"]["device"]).strip("-").lower()
    path = Path(__file__).with_name(f"{name}-{report['machine']['date']}.json")
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(report))
    print(f"\n{path}")


if __name__ == "__main__":
    main()
