"""What this machine and installation offer gvae: versions, threads, the BLAS and its kernel type, CUDA or why not."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

import gvae

__all__ = ["examine"]

PACKAGES = ("numpy", "scipy", "numba", "llvmlite", "safetensors", "tqdm", "scikit-learn", "matplotlib", "pooch")
THREAD_VARIABLES = ("GVAE_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_CORETYPE")


def examine() -> dict[str, Any]:
    """The report as nested dicts of plain values."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()} {platform.system()} {platform.machine()}",
        "packages": {"gvae": gvae.__version__} | {name: _version(name) for name in PACKAGES},
        "threads": {
            "usable cores": _usable_cores(),
            "environment": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        },
        "blas": _blas(),
        "kernels": _kernels(),
        "cuda": _cuda(),
        "data": os.environ.get("GVAE_DATA_DIR", "GVAE_DATA_DIR is not set"),
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _blas() -> dict[str, Any]:
    built: Any = np.show_config(mode="dicts")
    blas = built.get("Build Dependencies", {}).get("blas", {})
    report = {"library": f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()} | _openblas()
    if report["kernel type"] in ("Haswell", "Zen") and _has_avx512():
        report["advice"] = "the processor has AVX-512; OPENBLAS_CORETYPE=SkylakeX, set before Python starts, makes it faster"
    return report


def _has_avx512() -> bool:
    try:
        return " avx512f " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _openblas() -> dict[str, Any]:
    """Ask the OpenBLAS in this process for its kernel type and threads. Its symbols carry a prefix and suffix per build."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return {"kernel type": "unknown on this system"}
    np.ones((2, 2), np.float32) @ np.ones((2, 2), np.float32)  # make sure that it is loaded
    paths = {line.split()[-1] for line in maps.read_text().splitlines() if "openblas" in line}
    for path in sorted(paths, key=lambda p: "numpy" not in p):
        library = ctypes.CDLL(path)
        for prefix in ("scipy_", ""):
            for suffix in ("64_", ""):
                try:
                    core = getattr(library, f"{prefix}openblas_get_corename{suffix}")
                    threads = getattr(library, f"{prefix}openblas_get_num_threads{suffix}")
                except AttributeError:
                    continue
                core.restype = ctypes.c_char_p
                return {"kernel type": core().decode(), "threads": threads()}
    return {"kernel type": "unknown: not OpenBLAS"}


def _kernels() -> dict[str, Any]:
    from gvae.kernels.cpu import _jit

    folder = Path(_jit.cache_folder())
    compiled = sum(1 for _ in folder.rglob("*.nbc")) if folder.is_dir() else 0
    return {"cache": str(folder), "compiled versions in it": compiled}


def _cuda() -> str:
    for name in ("cupy-cuda12x", "cupy-cuda13x", "cupy"):
        if _version(name) != "not installed":
            break
    else:
        return "no: CuPy is not installed (pip install 'gvae[cuda12]' or 'gvae[cuda13]'); this version has CPU kernels only"
    try:
        import cupy

        if not cupy.cuda.is_available():
            return f"no: {name} {_version(name)} finds no CUDA driver or device"
        device = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
        return f"{device} through {name} {_version(name)}; this version of gvae has CPU kernels only"
    except Exception as error:  # a broken driver can raise anything; the report must not
        return f"no: {name} {_version(name)} fails: {type(error).__name__}: {error}"
