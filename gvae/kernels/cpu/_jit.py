"""The one decorator that compiles a CPU kernel: every JIT option is decided here, and why.

nogil        kernels are called from many Python threads, and release the interpreter lock while they run.
error_model  "numpy": a division by zero gives inf or NaN as in NumPy; Python's model would branch to an exception on
             every division, which keeps the loop from being vectorised.
fastmath     only flags that keep NaN and inf meaningful: reassoc lets sums run in SIMD lanes, contract allows fused
             multiply-add, nsz ignores the sign of zero. Never `nnan` or `ninf`: the contracts mention NaN.
forceinline  the kernels that a kernel calls are inlined. Otherwise LLVM leaves calls, which reach a different copy in the
             process that compiled both than in one that loaded them from the cache, with different rounding.
no_..._wrapper  code for callers that a kernel does not have takes as long to compile as a short kernel.
cache        compiled code is kept on disk. Numba's cache notices a change of the kernel's own file only, so the folder's
             name carries a hash of ALL files that kernels are made of, gvae/kernels/*.py and gvae/runtime/abi.py among
             them: editing any of them never runs stale code.
"""

from __future__ import annotations

import hashlib
import os
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba import types
from numba.extending import intrinsic

from gvae.runtime import abi

FASTMATH = {"reassoc", "contract", "nsz"}

_config_lock = threading.Lock()


@cache
def cache_folder() -> str:
    """The folder for compiled kernels of exactly this source text."""
    here = Path(__file__).parent
    sources = [*sorted(here.rglob("*.py")), *sorted(here.parent.glob("*.py")), Path(abi.__file__)]
    digest = hashlib.sha256()
    for path in sources:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    base = numba.config.CACHE_DIR or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"), "gvae"
    )
    return os.path.join(base, f"kernels-{digest.hexdigest()[:16]}")


def kernel(function: Any = None, *, fastmath: bool = True, inner: bool = False) -> Any:
    """Compile a CPU kernel. `fastmath=False` where the order of operations is part of the contract; `inner`: only kernels
    call it, and never Python."""
    if function is None:
        return lambda f: kernel(f, fastmath=fastmath, inner=inner)
    flags = FASTMATH if fastmath else False
    options = {"nogil": True, "error_model": "numpy", "fastmath": flags, "forceinline": True}
    options |= {"no_cfunc_wrapper": True, "no_cpython_wrapper": inner}
    with _config_lock:  # Numba reads the folder from a process-wide setting when it decorates: set it and put it back
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = cache_folder()
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no folder can be written: compile in every process instead
            return numba.njit(**options)(function)
        finally:
            numba.config.CACHE_DIR = before


@intrinsic
def wide_vectors(typingctx):
    """Let LLVM use the widest vectors there are in the calling kernel. Unasked it takes 256 bits of AVX-512's 512, for fear
    of a lower clock, which costs up to half the speed of loops that are all arithmetic."""

    def codegen(context, builder, sig, args):
        abi.prefer_vectors(builder, 512)
        return context.get_dummy_value()

    return types.void(), codegen
