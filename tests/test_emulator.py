"""The CUDA emulator (tests/emulator): correct kernels run, seeded bugs are reported, and a change of nothing is not."""

from __future__ import annotations

import numpy as np
import pytest
from emulator import EmulatorError, EmuModule, KernelError, Schedule, build, recorded

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))

BLOCK_SUM = """
template <typename T>
__device__ __forceinline__ T warp_sum(T v) {
  for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_down_sync(0xffffffffu, v, offset);
  return v;
}
template <typename T>
__global__ void block_sum(const T* __restrict__ x, T* __restrict__ out, int n) {
  __shared__ T part[32];
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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_block_sum(dtype):
    name = "block_sum<float>" if dtype == "float32" else "block_sum<double>"
    module = EmuModule(BLOCK_SUM, name_expressions=("block_sum<float>", "block_sum<double>"))
    assert module.code == BLOCK_SUM
    x = np.random.default_rng(0).normal(size=1000).astype(dtype)
    for schedule in Schedule.several():
        out = np.full(3, np.nan, dtype)
        with schedule, recorded() as launches:
            module.get_function(name)((3,), (128,), (x, out, np.int32(x.size)))
        assert launches.count("block_sum") == launches.count(name) == 1
        np.testing.assert_allclose(out.sum(), x.sum(dtype="float64"), atol=1e-10 if dtype == "float64" else 1e-4)


def test_a_write_out_of_bounds_is_reported():
    module = EmuModule(BLOCK_SUM.replace("out[blockIdx.x]", "out[blockIdx.x + 1]"), name_expressions=("block_sum<float>",))
    with pytest.raises(KernelError, match=r"line 19: .*writes 4 bytes after argument 1 \(element 3 of 3\)"):
        module.get_function("block_sum<float>")((3,), (64,), (np.ones(64, "f4"), np.ones(3, "f4"), np.int32(64)))


def test_dtypes_are_checked():
    f = EmuModule(BLOCK_SUM, name_expressions=("block_sum<float>",)).get_function("block_sum<float>")
    with pytest.raises(EmulatorError, match="argument 0 is an array of float64"):
        f((1,), (32,), (np.ones(3), np.ones(1, "f4"), np.int32(3)))
