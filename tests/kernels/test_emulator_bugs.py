"""The emulator reports each seeded bug in words that name it, and a change that is none is not reported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from emulator import EmulatorError, EmuModule, KernelError, Schedule
from emulator.samples import (
    AXPY,
    BLOCK_SUM,
    CHAINED,
    HEAD,
    HISTOGRAM,
    LAST_BLOCK,
    SAMPLES,
    SCAN,
    WARP_REVERSE,
    axpy,
    block_sum,
    needs_gpp,
    run,
)

pytestmark = pytest.mark.emulator


@needs_gpp
def test_a_block_larger_than_the_launch_bounds():
    code = """
    constexpr int LANES = 32;
    template <typename T> __global__ void
    __launch_bounds__(LANES * 8 / sizeof(T), 3)
    ones(T* x) { x[threadIdx.x] = 1; }
    """
    module = EmuModule(code, name_expressions=("ones<float>", "ones<double>"))
    for name, dtype, most in (("ones<float>", np.float32, 64), ("ones<double>", np.float64, 32)):
        x = np.zeros(128, dtype)
        module.get_function(name)((1,), (most,), (x,))
        assert x.sum() == most
        with pytest.raises(EmulatorError, match=f"a block of .* is more than {most} threads"):
            module.get_function(name)((1,), (most + 1,), (x,))


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
