"""What stands in for a GPU (tests/emulator) runs correct kernels right, in every order. Seeded bugs are in
test_emulator_bugs.py, NVRTC's verdicts in test_nvrtc.py, the emulated CuPy in test_emulated_cupy.py."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import emulator
import numpy as np
import pytest
from emulator import EmuModule, Schedule, build, recorded
from emulator.samples import ANY_ORDER, AXPY, SAMPLES, TYPES, axpy, block_sum, chained, needs_gpp, run
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.emulator


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
        "import emulator.samples as t\n"
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
