"""The BLAS behind NumPy's products outside of layers: its threads and its kernels, in processes that gvae owns.

Nothing here runs at import, and no library function of gvae changes a thread count or the environment: only its commands do.
threadpoolctl finds the loaded libraries and the numbers of their threads; it is imported when first needed,
since it sets KMP_DUPLICATE_LIB_OK.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "AVX512",
    "KERNELS",
    "THREAD_VARIABLES",
    "VARIABLES",
    "choose_kernels",
    "chosen_by_user",
    "has_avx512",
    "inherited",
    "libraries",
    "rate",
    "threads",
]

# Where a user chooses the number of threads, by the libraries' names in threadpoolctl.
VARIABLES = {
    "openblas": ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"),
    "mkl": ("MKL_NUM_THREADS", "MKL_DOMAIN_NUM_THREADS", "OMP_NUM_THREADS"),
    "blis": ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"),
    "flexiblas": ("FLEXIBLAS_NUM_THREADS", "OMP_NUM_THREADS"),
}
THREAD_VARIABLES = tuple(sorted({name for names in VARIABLES.values() for name in names}))
KERNELS = "OPENBLAS_CORETYPE"  # the variable that selects the processor type of OpenBLAS's kernels
AVX512 = "SkylakeX"  # the kernels that every processor with these flags can run
FLAGS = frozenset(("avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"))

_n: contextvars.ContextVar[int | None] = contextvars.ContextVar("BLAS threads", default=None)  # set by `threads`
_ours = False  # whether KERNELS in the environment is this process's own choice


def libraries() -> list[dict[str, Any]]:
    """What threadpoolctl says of each BLAS in this process: internal_api, num_threads, filepath, architecture and more.
    NumPy's comes first; SciPy may have brought another one. Empty if there is none that it knows (Accelerate is not)."""
    controller = _controller(VARIABLES)
    return [] if controller is None else sorted(controller.info(), key=lambda found: "numpy" not in found["filepath"])


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

    It costs nothing where OpenBLAS takes them by itself, as with NumPy 2.1 to 2.4 on an AMD EPYC (Zen 4) and a Xeon. With
    NumPy 2.0 it takes others on that EPYC, of the same speed but with other bits; releases older than a processor may take
    it for one without AVX-512, or for one of 2004 (OpenBLAS issue 6029). The choice is read when the library is loaded, so
    this must come before NumPy does.
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


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Run the block with n threads in each BLAS of this process whose number the user has not chosen in the environment."""
    controller = _controller(name for name, variables in VARIABLES.items() if not any(v in os.environ for v in variables))
    before = _n.set(n)
    try:
        with contextlib.nullcontext() if controller is None else controller.limit(limits=n):
            yield
    finally:
        _n.reset(before)


def inherited() -> contextlib.AbstractContextManager[None]:
    """The caller's `threads`, for the other threads of `gvae.runtime.pool.each`: the thread counts of MKL, and of an
    OpenBLAS on OpenMP, apply only to the thread that sets them."""
    n = _n.get()
    return contextlib.nullcontext() if n is None else threads(n)


def _controller(names: Iterable[str]) -> Any:
    """threadpoolctl's controller of these libraries, as far as they are loaded. None if one cannot be opened again."""
    import numpy as np  # noqa: F401 - it loads its BLAS; not before: see choose_kernels
    from threadpoolctl import ThreadpoolController

    try:
        return ThreadpoolController().select(internal_api=list(names))
    except OSError:  # out of reach by now: another root, other permissions
        return None
