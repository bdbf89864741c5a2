"""NVRTC compiles for real architectures and refuses spills, stack frames and accidental doubles."""

from __future__ import annotations

import pytest
from emulator import nvrtc
from emulator.samples import (
    AXPY,
    BLOCK_SUM,
    CHAINED,
    HEAD,
    HISTOGRAM,
    LAST_BLOCK,
    SCAN,
    WARP_REVERSE,
    needs_nvrtc,
)

pytestmark = pytest.mark.emulator


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
