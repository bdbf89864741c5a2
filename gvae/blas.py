"""The OpenBLAS behind NumPy's matrix products: what it is, and how many threads it uses, for processes that gvae owns.

Nothing here runs at import, and no library function of gvae changes a thread count: only its commands do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["THREAD_VARIABLES", "OpenBLAS", "find_openblas", "threads"]

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "GOTO_NUM_THREADS")


class OpenBLAS(NamedTuple):
    """Functions of the loaded library."""

    kernel_type: Any
    get_threads: Any
    set_threads: Any


@cache
def find_openblas() -> OpenBLAS | None:
    """The OpenBLAS that NumPy has loaded into this process, or None. Its symbols carry a prefix and a suffix per build."""
    np.ones((2, 2), np.float32) @ np.ones((2, 2), np.float32)  # make sure that it is loaded
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:  # not Linux
        return None
    paths = {line.split()[-1] for line in maps.splitlines() if "openblas" in line}
    for path in sorted(paths, key=lambda p: "numpy" not in p):  # SciPy may have brought another one
        library = ctypes.CDLL(path)
        for prefix in ("scipy_", ""):
            for suffix in ("64_", ""):
                names = ("get_corename", "get_num_threads", "set_num_threads")
                with contextlib.suppress(AttributeError):
                    found = OpenBLAS(*(getattr(library, f"{prefix}openblas_{name}{suffix}") for name in names))
                    found.kernel_type.restype = ctypes.c_char_p
                    return found
    return None


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
