"""Small CUDA kernels that do what real ones do, each with a function that runs it and checks its result."""

from __future__ import annotations

import numpy as np
import pytest

from emulator import EmuModule, build, nvrtc

needs_gpp = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))
needs_nvrtc = pytest.mark.skipif(nvrtc.why_not() is not None, reason=str(nvrtc.why_not()))

HEAD = """\
#ifndef DYN_SMEM
#define DYN_SMEM(T, name) \\
  extern __shared__ __align__(16) unsigned char dyn_smem_[]; \\
  T* name = reinterpret_cast<T*>(dyn_smem_)
#endif
"""

AXPY = """\
template <typename T>
__global__ void axpy(const T* __restrict__ x, T* __restrict__ y, T a, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  y[i] = a * x[i] + y[i];
}
"""

BLOCK_SUM = """\
template <typename T>
__device__ __forceinline__ T warp_sum(T v) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_down_sync(0xffffffffu, v, offset);
  return v;
}
template <typename T>
__global__ void block_sum(const T* __restrict__ x, T* __restrict__ out, int n) {
  __shared__ T part[8];
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  T v = T(0);
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
  v = warp_sum(v);
  if (lane == 0) part[warp] = v;
  __syncthreads();
  if (warp == 0) {
    v = lane < (int)(blockDim.x >> 5) ? part[lane] : T(0);
    v = warp_sum(v);
    if (lane == 0) out[blockIdx.x] = v;
  }
}
"""

# y_i = a_i y_{i-1} + b_i of one block's elements: a scan over pairs in dynamic shared memory, two buffers in turn
SCAN = """\
template <typename T>
__global__ void scan(const T* a, const T* b, T* y, int n) {
  DYN_SMEM(T, tile);
  int i = threadIdx.x, w = blockDim.x, at = 0;
  tile[2 * i] = i < n ? a[i] : T(1);
  tile[2 * i + 1] = i < n ? b[i] : T(0);
  __syncthreads();
  for (int d = 1; d < w; d *= 2) {
    T* from = tile + 2 * w * at;
    T* to = tile + 2 * w * (1 - at);
    T p = from[2 * i], q = from[2 * i + 1];
    if (i >= d) {
      q = p * from[2 * (i - d) + 1] + q;
      p = p * from[2 * (i - d)];
    }
    to[2 * i] = p;
    to[2 * i + 1] = q;
    at = 1 - at;
    __syncthreads();
  }
  if (i < n) y[i] = tile[2 * w * at + 2 * i + 1];
}
"""

# a sum over blocks whose last one adds up what the others left
LAST_BLOCK = """\
extern "C" __global__ void last_block(const double* x, double* part, double* total, unsigned* tickets, int n) {
  __shared__ double tile[64];
  __shared__ bool last;
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  tile[threadIdx.x] = i < n ? x[i] : 0.0;
  __syncthreads();
  for (int half = 32; half > 0; half /= 2) {
    if (threadIdx.x < half) tile[threadIdx.x] += tile[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    part[blockIdx.x] = tile[0];
    __threadfence();
    last = atomicAdd(tickets, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && threadIdx.x == 0) {
    double sum = 0.0;
    for (int b = 0; b < (int)gridDim.x; ++b) sum += part[b];
    *total = sum;
  }
}
"""

HISTOGRAM = """\
extern "C" __global__ void histogram(const int* x, int* count, int n, int bins) {
  DYN_SMEM(int, own);
  for (int k = threadIdx.x; k < bins; k += blockDim.x) own[k] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&own[x[i]], 1);
  __syncthreads();
  for (int k = threadIdx.x; k < bins; k += blockDim.x) atomicAdd(&count[k], own[k]);
}
"""

# the reversal of 32 numbers by one warp, through shared memory
WARP_REVERSE = """\
extern "C" __global__ void warp_reverse(const float* x, float* y) {
  __shared__ float tile[32];
  int lane = threadIdx.x;
  tile[lane] = x[lane];
  __syncwarp();
  y[lane] = tile[31 - lane];
}
"""

# Waits for a flag of the block with the ticket before, so it relies on blocks taking tickets in the order they start
CHAINED = """\
extern "C" __global__ void chained(int* ticket, volatile int* flag, int* order) {
  int t = atomicAdd(ticket, 1);
  if (t > 0) while (flag[t - 1] == 0) __nanosleep(20);
  order[t] = blockIdx.x;
  __threadfence();
  flag[t] = 1;
}
"""

TYPES = {"float32": "float", "float64": "double"}


def axpy(code=AXPY, dtype="float64", n=100, block=32, grid=None, x=None, y=None, a=None, count=None):
    rng = np.random.default_rng(0)
    x = rng.normal(size=n).astype(dtype) if x is None else x
    y = rng.normal(size=n).astype(dtype) if y is None else y
    a = np.dtype(dtype).type(0.3) if a is None else a
    expected = 0.3 * x.astype("float64") + y.astype("float64")
    f = EmuModule(code, name_expressions=("axpy<float>", "axpy<double>")).get_function(f"axpy<{TYPES[dtype]}>")
    f((-(-n // block),) if grid is None else grid, (block,), (x, y, a, np.int32(n) if count is None else count))
    np.testing.assert_allclose(
        y, expected, rtol=1e-6 if dtype == "float32" else 1e-14, atol=1e-6 if dtype == "float32" else 0
    )
    return y


def block_sum(code=BLOCK_SUM, dtype="float64", n=1000, block=128, grid=3):
    x = np.random.default_rng(0).normal(size=n).astype(dtype)
    out = np.full(grid, np.nan, dtype)
    name = f"block_sum<{TYPES[dtype]}>"
    EmuModule(code, name_expressions=(name,)).get_function(name)((grid,), (block,), (x, out, np.int32(n)))
    np.testing.assert_allclose(out.sum(), x.sum(dtype="float64"), atol=1e-10 if dtype == "float64" else 1e-4)
    return out


def scan(code=HEAD + SCAN, n=50, block=64, spare=0):
    rng = np.random.default_rng(0)
    a, b, y = rng.uniform(0.5, 1, n), rng.normal(size=n), np.full(n, np.nan)
    expected, last = np.empty(n), 0.0
    for i in range(n):
        last = expected[i] = a[i] * last + b[i]
    f = EmuModule(code, name_expressions=("scan<double>",)).get_function("scan<double>")
    f((1,), (block,), (a, b, y, np.int32(n)), shared_mem=4 * 8 * block + spare)
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    return y


def last_block(code=LAST_BLOCK, n=500):
    x = np.random.default_rng(0).normal(size=n)
    grid = -(-n // 64)
    part, total, tickets = np.full(grid, np.nan), np.full(1, np.nan), np.zeros(1, np.uint32)
    EmuModule(code).get_function("last_block")((grid,), (64,), (x, part, total, tickets, np.int32(n)))
    np.testing.assert_allclose(total, x.sum(), rtol=1e-12)
    return total


def histogram(code=HEAD + HISTOGRAM, n=777, bins=40):
    x = np.random.default_rng(0).integers(0, bins, n).astype(np.int32)
    count = np.zeros(bins, np.int32)
    f = EmuModule(code).get_function("histogram")
    f((5,), (96,), (x, count, np.int32(n), np.int32(bins)), shared_mem=4 * bins)
    np.testing.assert_array_equal(count, np.bincount(x, minlength=bins))
    return count


def warp_reverse(code=WARP_REVERSE):
    x, y = np.arange(32, dtype=np.float32), np.full(32, np.nan, np.float32)
    EmuModule(code).get_function("warp_reverse")((1,), (32,), (x, y))
    np.testing.assert_array_equal(y, x[::-1])
    return y


def chained(code=CHAINED, n=9):
    ticket, flag, order = np.zeros(1, np.int32), np.zeros(n, np.int32), np.full(n, -1, np.int32)
    EmuModule(code).get_function("chained")((n,), (1,), (ticket, flag, order))
    assert sorted(order) == list(range(n))
    return order


SAMPLES = {f.__name__: f for f in (axpy, block_sum, scan, last_block, histogram, warp_reverse, chained)}
ANY_ORDER = {"chained"}  # the result says in which order blocks started


def run(body, *args, grid=(1,), block=(32,), shared_mem=0, head=""):
    """Run extern "C" kernel k with this parameter list and body."""
    EmuModule(f'{head}extern "C" __global__ void k{body}').get_function("k")(grid, block, args, shared_mem=shared_mem)
