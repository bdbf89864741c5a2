"""The OpenBLAS behind NumPy's matrix products: its kernels and its threads, in processes that gvae owns.

Nothing here runs at import, and no library function of gvae changes a thread count or the environment: only its commands do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "AVX512",
    "KERNELS",
    "THREAD_VARIABLES",
    "OpenBLAS",
    "choose_kernels",
    "chosen_by_user",
    "count",
    "find_openblas",
    "has_avx512",
    "rate",
    "threads",
]

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "GOTO_NUM_THREADS")
KERNELS = "OPENBLAS_CORETYPE"  # the variable by which OpenBLAS is told for which processor to take its kernels
AVX512 = "SkylakeX"  # the kernels that every processor with these flags can run
FLAGS = frozenset(("avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"))

_ours = False  # whether KERNELS in the environment is this process's own choice


class OpenBLAS(NamedTuple):
    """Functions of the loaded library."""

    kernel_type: Any
    get_threads: Any
    set_threads: Any


@cache
def find_openblas() -> OpenBLAS | None:
    """The OpenBLAS that NumPy has loaded into this process, or None. Its symbols carry a prefix and a suffix per build."""
    import numpy as np  # not before: see choose_kernels

    np.ones((2, 2), np.float32) @ np.ones((2, 2), np.float32)  # make sure that it is loaded
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:  # not Linux
        return None
    paths = {line.split()[-1] for line in maps.splitlines() if "openblas" in line}
    for path in sorted(paths, key=lambda p: "numpy" not in p):  # SciPy may have brought another one
        try:
            library = ctypes.CDLL(path)
        except OSError:  # out of reach by now: another root, other permissions
            continue
        for prefix in ("scipy_", ""):
            for suffix in ("64_", ""):
                names = ("get_corename", "get_num_threads", "set_num_threads")
                with contextlib.suppress(AttributeError):
                    found = OpenBLAS(*(getattr(library, f"{prefix}openblas_{name}{suffix}") for name in names))
                    found.kernel_type.restype = ctypes.c_char_p
                    return found
    return None


def has_avx512() -> bool:
    """Whether this processor runs OpenBLAS's AVX-512 kernels. False where that cannot be told."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return FLAGS.issubset(flags.split())


def choose_kernels() -> None:
    """Have OpenBLAS take its AVX-512 kernels where the processor has them and the user has not chosen.

    Releases of OpenBLAS older than a processor take it for one with AVX2, at half of the speed. The choice is read when
    the library is loaded, so this must come before NumPy does.
    """
    global _ours
    if "numpy" not in sys.modules and KERNELS not in os.environ and has_avx512():
        os.environ[KERNELS], _ours = AVX512, True


def chosen_by_user() -> bool:
    """Whether the user has named a kernel type in the environment."""
    return KERNELS in os.environ and not _ours


def rate(kernel_type: str | None) -> float | None:
    """GFLOP/s of a product (100, 784) x (784, 200) in float32 with OpenBLAS's kernels for that processor, or for the one it
    takes this to be; measured in a process of its own. None if that fails: the kernels need another processor."""
    environment = {name: value for name, value in os.environ.items() if name != KERNELS}
    if kernel_type is not None:
        environment[KERNELS] = kernel_type
    done = subprocess.run([sys.executable, "-c", _MEASURE], env=environment, capture_output=True, text=True)
    return float(done.stdout) if done.returncode == 0 else None


_MEASURE = """
import time
import numpy as np
x, w = np.ones((100, 784), np.float32), np.ones((784, 200), np.float32)
y, times = x @ w, []
while sum(times) < 0.3:
    start = time.perf_counter()
    np.matmul(x, w, out=y)
    times.append(time.perf_counter() - start)
print(2e-9 * y.size * 784 / sorted(times)[len(times) // 2])
"""


def count() -> int | None:
    """How many threads the BLAS uses now; None where that cannot be told."""
    library = find_openblas()
    return None if library is None else library.get_threads()


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Run the block with n BLAS threads, unless the user has chosen a number in the environment."""
    library = find_openblas()
    if library is None or any(name in os.environ for name in THREAD_VARIABLES):
        yield
        return
    before = library.get_threads()
    library.set_threads(n)
    try:
        yield
    finally:
        library.set_threads(before)
