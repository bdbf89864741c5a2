"""What stands in for a GPU (tests/emulator): correct kernels run, each seeded bug is reported in words that name it, and a
change that is none is not; NVRTC's verdicts. The emulated CuPy is tested in test_emulated_cupy.py."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import emulator
import numpy as np
import pytest
from emulator import EmulatorError, EmuModule, KernelError, Schedule, build, nvrtc, recorded
from hypothesis import given, settings
from hypothesis import strategies as st

needs_gpp = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))
needs_nvrtc = pytest.mark.skipif(nvrtc.why_not() is not None, reason=str(nvrtc.why_not()))

# ---- sample kernels ------------------------------------------------------------------------------

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


# ---- correct kernels -----------------------------------------------------------------------------


@needs_gpp
@pytest.mark.parametrize("sample", SAMPLES)
def test_a_correct_kernel_is_correct_in_every_order(sample):
    results = []
    for schedule in Schedule.several(6):
        with schedule:
            results.append(SAMPLES[sample]().tobytes())
    assert sample in ANY_ORDER or len(set(results)) == 1


@needs_gpp
@pytest.mark.parametrize("sample", [axpy, block_sum])
def test_float_and_double(sample):
    assert sample(dtype="float32").dtype == np.float32


@needs_gpp
@settings(max_examples=60)
@given(
    n=st.integers(1, 700),
    warps=st.integers(1, 8),
    grid=st.integers(1, 6),
    resident=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_sums_of_any_shape(n, warps, grid, resident, seed):
    with Schedule(seed=seed, resident=resident):
        block_sum(n=n, block=32 * warps, grid=grid)


@needs_gpp
def test_same_seed_same_schedule_same_bits():
    """Blocks that note who came first: the same for one seed, different ones for different seeds, grid order forward."""
    orders = {}
    for seed in range(6):
        with Schedule(seed=seed, resident=4):
            orders[seed] = chained().tobytes()
            assert chained().tobytes() == orders[seed]
    assert len(set(orders.values())) > 1
    with Schedule(order="forward"):
        assert list(chained()) == list(range(9))
    with Schedule(order="reverse"):
        assert list(chained()) == list(range(9))[::-1]


@needs_gpp
def test_contraction_is_off_unless_asked_for():
    """a^2 - c with a = 1 + 2^-30 and c its rounded square: 0 in two roundings, 2^-60 in one."""
    body = "__global__ void k(const double* x, double* y) { y[0] = x[0] * x[0] - x[1]; y[1] = fma(x[0], x[0], -x[1]); }"
    a = 1 + 2.0**-30
    x, y = np.array([a, a * a]), np.zeros(2)
    EmuModule('extern "C" ' + body).get_function("k")((1,), (1,), (x, y))
    assert y.tolist() == [0, 2.0**-60]
    if " fma " in Path("/proc/cpuinfo").read_text():
        EmuModule('extern "C" ' + body, contraction="fast").get_function("k")((1,), (1,), (x, y))
        assert y.tolist() == [2.0**-60, 2.0**-60]


@needs_gpp
def test_functions_are_those_of_the_host():
    body = """(const T* x, T* y, int n) {
      int i = threadIdx.x;
      T s, c, v = x[i];
      sincospi(v, &s, &c);
      T a = fabs(v);
      T all[] = {exp(v), log(a), log1p(a), expm1(v), sqrt(a), rsqrt(a), fmax(v, T(0)), min(v, T(1)), tanh(v), s, c, sinpi(v),
                 copysign(T(1), v), floor(v), fma(v, v, v), pow(a, T(0.3)), lgamma(a), isnan(v) ? T(1) : T(0)};
      for (int k = 0; k < 18; ++k) y[k * n + i] = all[k];
    }"""
    x = np.concatenate([np.random.default_rng(0).normal(size=30) * 3, [0.5, -1.5]])
    for dtype, name in TYPES.items():
        y = np.full((18, 32), np.nan, dtype)
        run(body, x.astype(dtype), y, np.int32(32), head=f"typedef {name} T;\n")
        v = x.astype(dtype).astype("float64")
        a = np.abs(v)
        expected = [
            np.exp(v),
            np.log(a),
            np.log1p(a),
            np.expm1(v),
            np.sqrt(a),
            1 / np.sqrt(a),
            np.maximum(v, 0),
            np.minimum(v, 1),
        ]
        expected += [
            np.tanh(v),
            np.sin(np.pi * v),
            np.cos(np.pi * v),
            np.sin(np.pi * v),
            np.sign(v),
            np.floor(v),
            v * v + v,
            a**0.3,
        ]
        expected += [np.vectorize(math.lgamma)(a), np.zeros(32)]
        tolerance = 2e-6 if dtype == "float32" else 1e-14
        np.testing.assert_allclose(y, np.array(expected), rtol=tolerance, atol=10 * tolerance)
        assert y[9, 30] == 1
        assert y[10, 30] == 0  # sin and cos of pi / 2, exactly


@needs_gpp
def test_unsigned_arithmetic_is_that_of_philox():
    """One round of Philox2x32, and 64-bit products, against Python's integers."""
    body = """(const unsigned* x, unsigned* y, unsigned long long* z) {
      unsigned i = threadIdx.x, a = x[i], m = 0xD256D193u;
      y[2 * i] = __umulhi(m, a);
      y[2 * i + 1] = m * a;
      typedef unsigned long long wide;
      z[i] = __umul64hi(0xD2B74407B1CE6E93ull, (wide)a << 31);
      z[i] ^= __popc(a) ^ ((wide)__clz((int)a) << 8) ^ ((wide)__brev(a) << 32);
    }"""
    x = np.random.default_rng(0).integers(0, 2**32, 32, dtype=np.uint32)
    y, z = np.zeros((32, 2), np.uint32), np.zeros(32, np.uint64)
    run(body, x, y, z)
    for a, (high, low), word in zip(x.tolist(), y.tolist(), z.tolist(), strict=True):
        assert (high << 32) + low == 0xD256D193 * a
        reverse = int(f"{a:032b}"[::-1], 2)
        assert word == (0xD2B74407B1CE6E93 * (a << 31) >> 64) ^ a.bit_count() ^ (32 - a.bit_length() << 8) ^ (reverse << 32)


@needs_gpp
def test_shuffles_votes_and_counts():
    body = """(int* out) {
      int i = threadIdx.x, lane = i & 31;
      out[i] = __shfl_up_sync(0xffffffffu, i, 3);
      out[64 + i] = __shfl_xor_sync(0xffffffffu, i, 5, 8);
      out[128 + i] = __shfl_sync(0xffffffffu, i, 3, 16);
      out[192 + i] = (int)__ballot_sync(0xffffffffu, lane % 3 == 0);
      out[256 + i] = __any_sync(0xffffffffu, i == 40) * 2 + __all_sync(0xffffffffu, i < 32);
      out[320 + i] = __syncthreads_count(i < 7) * 4 + __syncthreads_or(i == 63) * 2 + __syncthreads_and(i > 0);
      if (lane < 16) out[384 + i] = __shfl_down_sync(0xffffu, i, 1);
    }"""
    out = np.full(448, -7, np.int32)
    run(body, out, block=(64,))
    i = np.arange(64)
    lane, warp = i % 32, i // 32
    np.testing.assert_array_equal(out[:64], np.where(lane >= 3, i - 3, i))
    np.testing.assert_array_equal(out[64:128], i ^ 5)
    np.testing.assert_array_equal(out[128:192], i // 16 * 16 + 3)
    np.testing.assert_array_equal(out[192:256].view(np.uint32), sum(1 << k for k in range(0, 32, 3)))
    np.testing.assert_array_equal(out[256:320], np.where(warp == 1, 2, 1))
    np.testing.assert_array_equal(out[320:384], 7 * 4 + 2)
    np.testing.assert_array_equal(out[384:][lane < 15], i[lane < 15] + 1)
    assert (out[384:][lane == 15] == -1).all()  # from a lane outside of the mask: undefined, here poison
    assert (out[384:][lane >= 16] == -7).all()


@needs_gpp
def test_atomics():
    body = """(float* f, double* d, int* i, unsigned* u, unsigned long long* l) {
      int t = threadIdx.x;
      atomicAdd(f, 1.0f); atomicAdd(d, 0.5); atomicAdd(l, 3ull);
      atomicMax(i, t); atomicMin(i + 1, -t); atomicSub(i + 2, 1); atomicExch(i + 3, 9);
      atomicOr(u, 1u << (t % 32)); atomicAnd(u + 1, ~(1u << (t % 32))); atomicXor(u + 2, 1u);
      if (atomicCAS(i + 4, 0, t + 1) == 0) atomicAdd(i + 5, 1);
    }"""
    f, d, i = np.zeros(1, np.float32), np.zeros(1), np.zeros(6, np.int32)
    u, wide = np.array([0, 2**32 - 1, 0], np.uint32), np.zeros(1, np.uint64)
    run(body, f, d, i, u, wide, grid=(3,), block=(64,))
    assert (f[0], d[0], wide[0]) == (192, 96, 576)
    assert i[:4].tolist() == [63, -63, -192, 9]
    assert i[4] > 0
    assert i[5] == 1
    assert u.tolist() == [2**32 - 1, 0, 0]


@needs_gpp
def test_aliased_arguments_share_their_memory_and_others_keep_theirs():
    x = np.arange(64.0)
    run("(const double* x, double* y) { int i = threadIdx.x; y[i] = 2 * x[i]; }", x[:32], x[:32])
    np.testing.assert_array_equal(x, np.concatenate([2 * np.arange(32.0), np.arange(32.0, 64)]))


@needs_gpp
def test_vector_types_and_constants():
    body = """(const float4* x, float4* y) {
      float4 v = x[threadIdx.x];
      y[threadIdx.x] = make_float4(v.w * scale[0], v.z, v.y, v.x * scale[1]);
    }"""
    x = np.arange(128, dtype=np.float32)
    y = np.zeros_like(x)
    run(body, x, y, head="__constant__ float scale[2] = {2.0f, 3.0f};\n")
    np.testing.assert_array_equal(y.reshape(-1, 4), x.reshape(-1, 4)[:, ::-1] * [2, 1, 1, 3])


@needs_gpp
def test_two_modules_keep_their_shared_memory_apart():
    """One template in two modules: its static variables must not become one (STB_GNU_UNIQUE)."""
    code = """template <typename T> __global__ void own(T* out) {
      __shared__ T tile[32];
      tile[threadIdx.x] = T(VALUE);
      __syncthreads();
      out[threadIdx.x] = tile[31 - threadIdx.x];
    }"""
    outs = []
    for value in (1, 2):
        name = "own<float>"
        f = EmuModule(code, options=(f"-DVALUE={value}",), name_expressions=(name,)).get_function(name)
        out = np.zeros(32, np.float32)
        f((1,), (32,), (out,))
        outs.append(out[0])
    assert outs == [1, 2]


@needs_gpp
def test_text_is_the_very_text_and_builds_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("GVAE_EMULATOR_CACHE", str(tmp_path))
    first = EmuModule(AXPY, name_expressions=["axpy<float>"])
    assert first.code is AXPY
    built = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("**/*")}
    EmuModule(AXPY, name_expressions=("axpy<float>",))
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("**/*")} == built
    EmuModule(AXPY + "// more", name_expressions=("axpy<float>",))
    assert len(list(tmp_path.glob("**/*"))) == len(built) + 1
    assert sorted(name.split(".", 1)[1] for name in built) == ["h.gch", "headers", "so"]


@needs_gpp
def test_many_python_threads():
    def work(seed):
        with Schedule(seed=seed):
            return block_sum(n=200).tobytes()

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(16)))
    with Schedule(seed=1):
        assert set(results) == {block_sum(n=200).tobytes()}


@needs_gpp
def test_launches_are_recorded():
    with recorded() as launches:
        axpy(n=100, block=32)
        axpy(dtype="float32", n=10, block=32)
    assert [(r.name, r.grid, r.block) for r in launches] == [
        ("axpy<double>", (4, 1, 1), (32, 1, 1)),
        ("axpy<float>", (1, 1, 1), (32, 1, 1)),
    ]
    assert launches.count("axpy") == 2
    assert launches.count("axpy<float>") == 1
    assert launches[0].module.code == AXPY


@needs_gpp
def test_ucontext_does_the_same(tmp_path):
    """Where there is no assembly for the processor: the same schedules, the same reports."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_emulator as t\n"
        "from emulator import Schedule, KernelError\n"
        "out = []\n"
        "for s in Schedule.several(3):\n"
        "    with s: out.append([t.SAMPLES[n]().tobytes().hex() for n in ('block_sum', 'chained', 'last_block')])\n"
        "    with s:\n"
        "        try: t.block_sum(t.BLOCK_SUM.replace('__syncthreads();', ''))\n"
        "        except (KernelError, AssertionError) as e: out.append(type(e).__name__ + str(e)[:60])\n"
        "print(out)\n"
    )
    folder = build.HERE.parent
    outputs = []
    for how in ("assembly", "ucontext"):
        if how == "assembly" and emulator.module.switching() != "assembly":
            pytest.skip("this processor has no assembly of its own")
        env = {**os.environ, "GVAE_EMULATOR_SWITCH": how}
        done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]


# ---- seeded bugs ---------------------------------------------------------------------------------


def mutant(code, old, new, count=1):
    assert code.count(old) >= 1, old
    return code.replace(old, new, count)


MUTANTS = [
    # sample, what is changed, into what, what the emulator says
    ("block_sum", "part[warp] = v;\n  __syncthreads();", "part[warp] = v;", "race: .*static shared memory"),
    (
        "block_sum",
        "if (lane == 0) part[warp] = v;\n  __syncthreads();",
        "if (lane == 0) { part[warp] = v; __syncthreads(); }",
        "__syncthreads|deadlock|race: ",
    ),
    ("block_sum", "T v = T(0);\n", "if (threadIdx.x > 95) return;\n  T v = T(0);\n", "never reach|returns, while"),
    (
        "block_sum",
        "  v = warp_sum(v);\n  if (lane == 0) part",
        "  if (lane < 16) v = warp_sum(v);\n  if (lane == 0) part",
        "deadlock: .*__shfl_down_sync|has returned|is at __|names lane",
    ),
    ("block_sum", "__shfl_down_sync(0xffffffffu", "__shfl_down_sync(0xfffffff0u", "is not in its own mask 0xfffffff0"),
    (
        "block_sum",
        "__shfl_down_sync(0xffffffffu",
        "__shfl_down_sync(threadIdx.x % 32 < 8 ? 0xffu : 0xffffffffu",
        "gives the mask|deadlock",
    ),
    ("block_sum", "i < n; i += gridDim", "i <= n; i += gridDim", r"reads 8 bytes after argument 0 \(element 1000 of 1000\)"),
    ("block_sum", "out[blockIdx.x] = v", "out[blockIdx.x + 1] = v", r"writes 8 bytes after argument 1 \(element 3 of 3\)"),
    (
        "block_sum",
        "out[blockIdx.x] = v",
        "out[(int)blockIdx.x - 1] = v",
        r"writes 8 bytes before argument 1 \(element -1 of 3\)",
    ),
    ("block_sum", "part[warp] = v", "part[warp + 5] = v", "index 8 is outside of its array"),
    (
        "block_sum",
        "out[blockIdx.x] = v",
        "const_cast<T*>(x)[blockIdx.x] = v",
        "argument 0, which the kernel takes as pointer to const",
    ),
    ("axpy", "if (i >= n) return;\n", "", "after argument"),
    ("axpy", "y[i] = a", "y[i + (i == 7)] = a", "race: "),
    ("scan", "    at = 1 - at;\n    __syncthreads();", "    at = 1 - at;", "race: .*dynamic shared memory"),
    (
        "scan",
        "tile[2 * i + 1] = i < n ? b[i] : T(0);\n  __syncthreads();",
        "tile[2 * i + 1] = i < n ? b[i] : T(0);",
        "race: ",
    ),
    ("scan", "T* to = tile + 2 * w * (1 - at)", "T* to = tile + 2 * w * at", "race: "),
    ("last_block", "__threadfence();", "", "race: .*argument 1"),
    (
        "last_block",
        "part[blockIdx.x] = tile[0];\n    __threadfence();\n    last = atomicAdd(tickets, 1u) == gridDim.x - 1;",
        "last = atomicAdd(tickets, 1u) == gridDim.x - 1;\n    __threadfence();\n    part[blockIdx.x] = tile[0];",
        "race: ",
    ),
    ("last_block", "tile[threadIdx.x + half];\n    __syncthreads();", "tile[threadIdx.x + half];", "race: "),
    ("last_block", "last = atomicAdd(tickets, 1u)", "last = (*tickets)++", "race: .*argument 3"),
    ("histogram", "atomicAdd(&own[x[i]], 1)", "own[x[i]] += 1", "race: "),
    ("histogram", "own[k] = 0;\n  __syncthreads();", "own[k] = 0;", "race: "),
    (
        "histogram",
        "k < bins; k += blockDim.x) own",
        "k <= bins; k += blockDim.x) own",
        "writes dynamic shared memory at byte 160 of 160",
    ),
    ("warp_reverse", "__syncwarp();", "", "race: "),
    ("warp_reverse", "__syncwarp();", "__shfl_sync(0xffffffffu, lane, 0);", "race: "),  # a shuffle orders no memory
    ("warp_reverse", "__syncwarp()", "__syncwarp(lane < 16 ? 0xffffu : 0xffff0000u)", "race: "),
    ("chained", "int t = atomicAdd(ticket, 1);", "int t = blockIdx.x;", "livelock"),  # blocks may start in any order
    ("chained", "flag[t] = 1;", "", "livelock"),
]
CODES = {"axpy": AXPY, "block_sum": BLOCK_SUM, "scan": HEAD + SCAN, "last_block": LAST_BLOCK, "histogram": HEAD + HISTOGRAM}
CODES |= {"warp_reverse": WARP_REVERSE, "chained": CHAINED}


@needs_gpp
@pytest.mark.parametrize(("sample", "old", "new", "message"), MUTANTS)
def test_a_seeded_bug_is_reported(sample, old, new, message):
    """In one of a few schedules, and in words that name it."""
    code = mutant(CODES[sample], old, new)

    def all_schedules():
        for schedule in Schedule.several(4):
            with schedule:
                SAMPLES[sample](code)

    with pytest.raises(KernelError, match=message):
        all_schedules()


@needs_gpp
@pytest.mark.parametrize(
    ("sample", "old", "new"),
    [
        ("block_sum", "int lane = threadIdx.x & 31", "int lane = threadIdx.x % 32"),
        ("scan", "if (i < n) y[i]", "__syncthreads();\n  if (i < n) y[i]"),
        ("last_block", "__threadfence();", "__threadfence(); __threadfence_block();"),
        ("histogram", "own[k] = 0;", "own[k] = 0, own[k] = 0;"),
        ("warp_reverse", "y[lane] =", "__syncwarp();\n  y[lane] ="),
    ],
)
def test_a_change_of_nothing_is_not_reported(sample, old, new):
    code = mutant(CODES[sample], old, new)
    for schedule in Schedule.several(6):
        with schedule:
            SAMPLES[sample](code)


@needs_gpp
def test_writes_of_one_value_need_no_order():
    """Over poison, however the writes are interleaved; writes of two values are a race."""
    for seed in range(30):
        flag = np.full(1, -1, np.int32)
        with Schedule(seed=seed, resident=2, preempt=1):
            run("(int* flag) { if (threadIdx.x % 3 == 0) *flag = 7; }", flag, grid=(2,))
        assert flag[0] == 7
    with pytest.raises(KernelError, match=r"race: writes element 0 of argument 0, which block .* wrote in line 1"):
        run("(int* flag) { if (threadIdx.x % 3 == 0) *flag = threadIdx.x; }", np.zeros(1, np.int32))


@needs_gpp
def test_threads_are_interrupted_between_accesses():
    """So an addition that is not atomic loses some, even if nobody looks for races."""
    totals = []
    for preempt in (0, 2):
        y = np.zeros(1, np.int32)
        with Schedule(preempt=preempt, races=False):
            run("(volatile int* y) { y[0] = y[0] + 1; }", y, block=(64,))
        totals.append(int(y[0]))
    assert totals[0] == 64 > totals[1]


@needs_gpp
def test_what_each_thread_publishes_is_seen():
    """Two threads of a block each write, fence and add to a counter; the block that finds both may read both."""
    body = """(int* data, int* counter, int* out) {
      if (blockIdx.x < 2) {
        data[2 * blockIdx.x + threadIdx.x] = 5;
        __threadfence();
        atomicAdd(counter, 1);
      } else if (threadIdx.x == 0) {
        while (atomicAdd(counter, 0) < 4) __nanosleep(10);
        out[0] = data[0] + data[1] + data[2] + data[3];
      }
    }"""
    for schedule in Schedule.several(4):
        data, counter, out = np.zeros(4, np.int32), np.zeros(1, np.int32), np.zeros(1, np.int32)
        with replace(schedule, resident=3):
            run(body, data, counter, out, grid=(3,), block=(2,))
        assert out[0] == 20


@needs_gpp
def test_without_the_race_check_a_missing_barrier_shows_as_poison():
    code = mutant(BLOCK_SUM, "part[warp] = v;\n  __syncthreads();", "part[warp] = v;")
    with Schedule(seed=1, races=False), pytest.raises(AssertionError, match="nan"):
        block_sum(code)


@needs_gpp
def test_uninitialised_shared_memory():
    """Its content is NaN, or an error."""
    body = """(float* y) {
      __shared__ float tile[32];
      int i = threadIdx.x;
      if (i < 31) tile[i] = 1;
      __syncthreads();
      y[i] = tile[i];
    }"""
    y = np.zeros(32, np.float32)
    run(body, y)
    assert np.isnan(y[31])
    assert (y[:31] == 1).all()
    with (
        Schedule(uninitialised=True),
        pytest.raises(KernelError, match=r"reads byte .* to which its block has not written"),
    ):
        run(body, y)


@needs_gpp
def test_shared_memory_of_the_block_before_is_not_seen():
    body = "(float* y) { __shared__ float tile; if (blockIdx.x == 0) tile = 1; y[blockIdx.x] = tile; }"
    y = np.zeros(2, np.float32)
    with Schedule(order="forward", resident=1):
        run(body, y, grid=(2,), block=(1,))
    assert y[0] == 1
    assert np.isnan(y[1])


@needs_gpp
def test_uninitialised_arrays_of_a_thread_hold_poison():
    y = np.zeros(32, np.float32)
    run("(float* y) { float own[8]; own[threadIdx.x % 7] = 1; y[threadIdx.x] = own[7 - threadIdx.x % 2]; }", y)
    assert (y[::2] < -1e38).all()


@needs_gpp
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{ y[1 << 28] = 1; }", "belongs to no argument|after argument"),
        ("{ *(float4*)(y + 1) = make_float4(1, 2, 3, 4); }", "misaligned"),
        ("{ int i = 2147483647; i += (int)y[0] + 1; y[0] = i; }", "signed integer overflow"),
        ("{ y[0] = 1 << (32 + (int)y[0]); }", "shift"),
        ("{ y[0] = 5 / (int)y[0]; }", "division by zero"),
        ("{ float own[4] = {}; y[threadIdx.x] = own[threadIdx.x]; }", "index [0-9]+ is outside of its array"),
        ("{ y[0] = __shfl_sync(0xffffffffu, 1.0f, 0, 12); }", "width must be a power of two"),
        ("{ assert(threadIdx.x < 31); y[threadIdx.x] = 1; }", r"assert\(threadIdx.x < 31\) fails"),
        (
            "{ if (threadIdx.x % 2) __syncthreads(); else\n __syncthreads(); }",
            "__syncthreads in line .* while .* wait at the one in line",
        ),
        (
            "{ if (threadIdx.x == 3) __syncthreads(); else __syncwarp(0xfffffff7u); __syncthreads(); }",
            "__syncthreads|deadlock",
        ),
        ("{ if (threadIdx.x < 16) __syncwarp(); else __syncthreads(); }", "deadlock: .*__syncthreads.*__syncwarp"),
        ("{ while (*(volatile float*)y == 0) __nanosleep(10); }", "livelock: 200000 calls of __nanosleep"),
    ],
)
def test_what_a_kernel_must_not_do(body, message):
    with pytest.raises(KernelError, match=message):
        run("(float* y) " + body, np.zeros(64, np.float32))


@needs_gpp
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "{ if (threadIdx.x < 16) return; __syncthreads(); }",
            "which 16 threads of the block that have returned never reach",
        ),
        (
            "{ if (threadIdx.x > 15) return; __syncthreads(); }",
            "returns, while 16 threads of the block wait at __syncthreads",
        ),
        ("{ __syncwarp(threadIdx.x == 1 ? 3u : ~0u); }", "with mask 0x00000003, while lane 0 gives the mask 0xffffffff"),
    ],
)
def test_words_of_one_schedule(body, message):
    with Schedule(order="forward"), pytest.raises(KernelError, match=message):
        run("(float* y) " + body, np.zeros(1, np.float32))


@needs_gpp
def test_a_busy_wait_ends_with_the_budget():
    with Schedule(budget=100_000), pytest.raises(KernelError, match=r"livelock: .* budget"):
        run("(float* y) { while (*(volatile float*)y == 0) {} }", np.zeros(1, np.float32))


@needs_gpp
def test_a_module_variable_is_not_written():
    with pytest.raises(KernelError, match="__device__ and __constant__ data are read-only"):
        run("(float* y) { state = 1; y[0] = state; }", np.zeros(1, np.float32), head="__device__ float state;\n")


@needs_gpp
def test_after_an_error_everything_works_as_before():
    with pytest.raises(KernelError):
        block_sum(mutant(BLOCK_SUM, "out[blockIdx.x] = v", "out[blockIdx.x + 1] = v"))
    block_sum()


@needs_gpp
def test_a_report_names_line_block_and_thread():
    with Schedule(order="forward"), pytest.raises(KernelError) as caught:
        run(
            "(float* y) {\n  int i = blockIdx.x * 8 + threadIdx.x;\n\n  y[i] = 1;\n}",
            np.zeros(20, np.float32),
            grid=(3,),
            block=(8,),
        )
    assert str(caught.value) == (
        "k: line 4: block (2, 0, 0), thread (4, 0, 0): writes 4 bytes after argument 0 (element 20 of 20)"
    )


@needs_gpp
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.ones(100)}, "argument 0 is an array of float64, the kernel takes a pointer to float32"),
        ({"x": np.ones(200, "f4")[::2]}, "argument 0 has gaps"),
        ({"x": [1.0] * 100}, "argument 0 is list, the kernel takes an array of float32"),
        ({"y": np.broadcast_to(np.float32(1), 100)}, "argument 1 has gaps|argument 1 is read-only"),
        ({"a": 0.3}, "argument 2 is float, the kernel takes a float32 scalar"),
        ({"a": np.float64(0.3)}, "argument 2 is a float64 scalar, the kernel takes float32"),
        ({"count": 100}, "argument 3 is int, the kernel takes a int32 scalar"),
        ({"count": np.int64(100)}, "argument 3 is a int64 scalar, the kernel takes int32"),
        ({"count": np.uint32(100)}, "argument 3 is a uint32 scalar, the kernel takes int32"),
        ({"grid": (0,)}, "grid .* outside"),
        ({"grid": (1, 70000)}, "grid .* outside"),
        ({"block": 2048}, "block .* outside"),
        ({"grid": 4}, "grid must be a tuple"),
    ],
)
def test_what_a_launch_must_not_be_given(change, message):
    change = {"x": np.ones(100, "f4"), "y": np.ones(100, "f4")} | change
    if isinstance(change["x"], list):
        f = EmuModule(AXPY, name_expressions=("axpy<float>", "axpy<double>")).get_function("axpy<float>")
        with pytest.raises(EmulatorError, match=message):
            f((4,), (32,), (change["x"], change["y"], np.float32(0.3), np.int32(100)))
        return
    with pytest.raises(EmulatorError, match=message):
        axpy(dtype="float32", **change)


@needs_gpp
def test_other_launch_errors():
    f = EmuModule(AXPY, name_expressions=("axpy<float>", "axpy<double>")).get_function("axpy<float>")
    x = np.ones(4, "f4")
    with pytest.raises(EmulatorError, match="takes 4 arguments, got 3"):
        f((1,), (32,), (x, x, np.float32(1)))
    with pytest.raises(EmulatorError, match=r"a block of .* is more than 1024 threads"):
        f((1,), (64, 32), (x, x, np.float32(1), np.int32(4)))
    with pytest.raises(EmulatorError, match="max_dynamic_shared_size_bytes is 49152"):
        f((1,), (32,), (x, x.copy(), np.float32(1), np.int32(4)), shared_mem=50000)
    f.max_dynamic_shared_size_bytes = 60000
    f((1,), (32,), (x, x.copy(), np.float32(1), np.int32(4)), shared_mem=50000)
    with pytest.raises(EmulatorError, match="no kernel 'axpy<half>'"):
        EmuModule(AXPY, name_expressions=("axpy<float>",)).get_function("axpy<half>")
    with pytest.raises(EmulatorError, match=r"does not compile this module:\n.*kernels.cu:2:.*error"):
        EmuModule("\nnonsense", name_expressions=())
    with pytest.raises(TypeError, match="unexpected argument 'fast_math'"):
        EmuModule(AXPY, fast_math=True)
    with pytest.raises(ValueError, match="order must be one of"):
        Schedule(order="sideways")


# ---- NVRTC ---------------------------------------------------------------------------------------


@needs_nvrtc
def test_nvrtc_compiles_every_sample_for_every_architecture():
    names = (
        "axpy<float>",
        "axpy<double>",
        "block_sum<float>",
        "block_sum<double>",
        "scan<double>",
        "last_block",
        "histogram",
        "warp_reverse",
        "chained",
    )
    reports = nvrtc.check("\n".join((HEAD, AXPY, BLOCK_SUM, SCAN, LAST_BLOCK, HISTOGRAM, WARP_REVERSE, CHAINED)), names)
    assert set(reports) == {(arch, name) for arch in ("sm_75", "sm_80", "sm_90") for name in names}
    assert all(0 < r.registers < 64 for r in reports.values())
    assert reports["sm_90", "block_sum<double>"].shared == 64
    assert reports["sm_90", "axpy<double>"].doubles > 0
    assert reports["sm_90", "axpy<float>"].doubles == 0


SPILL = """template <typename T> __global__ void __launch_bounds__(1024, 2) spill(const T* x, T* y, int n) {
  T a[48];
  for (int i = 0; i < 48; ++i) a[i] = x[i * n + threadIdx.x];
  for (int j = 0; j < n; ++j)
    for (int i = 0; i < 48; ++i) a[i] = a[i] * a[(i * 7 + 3) % 48] + a[(i + j) % 2 ? 5 : 11];
  for (int i = 0; i < 48; ++i) y[i * n + threadIdx.x] = a[i];
}"""


@needs_nvrtc
@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        (SPILL, "spill<float>", "spill<float> on sm_80 spills: "),
        (
            AXPY.replace("a * x[i]", "0.3 * x[i]"),
            "axpy<float>",
            "axpy<float> on sm_80 has . instructions of double arithmetic",
        ),
        (
            """template <typename T> __global__ void indexed(const T* x, T* y, int n) {
              T a[64];
              for (int i = 0; i < 64; ++i) a[i] = x[i];
              for (int j = 0; j < n; ++j) a[j] = 1;
              for (int i = 0; i < 64; ++i) y[i] = a[i];
            }""",
            "indexed<float>",
            "indexed<float> on sm_80 has a stack frame of .* an array is not in registers",
        ),
    ],
)
def test_nvrtc_check_raises(code, name, message):
    with pytest.raises(nvrtc.SpillError, match=message):
        nvrtc.check(code, (name,), archs=("sm_80",))
    if "spills" not in message:  # unless the caller says that it is meant
        nvrtc.check(code, (name,), archs=("sm_80",), stack=("indexed",), doubles=(name,))


@needs_nvrtc
def test_nvrtc_tells_what_it_refuses():
    with pytest.raises(nvrtc.NvrtcError, match=r"kernels.cu.*error"):
        nvrtc.compile("nonsense", (), "sm_90")
    with pytest.raises(nvrtc.NvrtcError, match="sm_70"):
        nvrtc.compile(AXPY, ("axpy<float>",), "sm_70")
    assert nvrtc.compile(AXPY, ("axpy<float>",), "sm_90")[0] is nvrtc.compile(AXPY, ("axpy<float>",), "sm_90")[0]
