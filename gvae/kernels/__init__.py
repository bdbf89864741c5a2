"""Kernels: recurrences and fused loops, one text per device.

    gvae/kernels/cpu/<family>.py     Numba
    gvae/kernels/cuda/<family>.cu    CUDA C++, the same function names, loops and letters
    gvae/kernels/cuda/<family>.py    their declarations, and launches that stand for one CPU kernel; called as the CPU's are
                                     a large family is a folder with a file per subject, of the same name in cpu and cuda
    gvae/kernels/cuda/launch.py      the one launcher (CuPy RawModule)
    gvae/kernels/cuda/library.py     large dense matrices, by CUDA's libraries
    gvae/kernels/cuda/graph.py       for launches that are replayed: memory, a stream, the graph of them

The contract that both sides keep, and that `gvae.ops` relies on:

- A kernel checks nothing, allocates nothing but scratch for one group of systems, raises nothing, draws nothing (random
  numbers are a pure function of a key and a position). Wrappers in `gvae.ops` check, allocate and turn a status into an
  error.
- Arrays are C-contiguous and of one floating type; index arrays are int64, statuses int32. So there are two compiled
  versions of each kernel, float32 and float64.
- Arguments come as inputs, outputs, then `lo, hi`: a half-open range of independent systems (rows, factors, blocks).
  What a system computes does not depend on the range it came in, so any split over threads gives the same bits. Threads
  get the arrays without reference counts (gvae.kernels.cpu._share): a kernel returns nothing and keeps no argument.
- `info[f]` is 0, or the 1-based order of the first pivot that is not positive, as LAPACK counts; the system's results are
  then NaN and its neighbours untouched. A pivot passes only if `pivot > 0`, so NaN fails.
- Recurrences run LANES systems side by side: SIMD lanes on a CPU, the threads of a warp on a GPU. For them `lo` is a
  multiple of LANES.
- On a GPU a kernel reads no result back and waits for nothing: what depends on values is decided on the device. A key and
  index arrays may come from the host; a key, and numbers that change from step to step, may also lie on the device.

One-system functions (`..._one`) can be called from a user's own `@njit` code; see examples/embed_kernel.py.
"""

LANES = 32  # a few vector registers, so that independent recurrences hide each other's latency; one warp
NORM_EPSILON = 1e-5  # added to variances by normalised layers
