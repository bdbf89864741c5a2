"""Declarations of scan.cu."""

from __future__ import annotations

from gvae.kernels.cuda.launch import SHARED, Geometry, Launch, elements, kernel

ROW = 128  # threads that share a row, as in scan.cu


def _rows(arrays: int = 0) -> Geometry:
    """A block per row, with that many arrays of the hidden units in shared memory."""

    def geometry(sizes: dict[str, int], n: int) -> Launch:
        shared = arrays * sizes.get("H", 0) * sizes["itemsize"]
        if shared > SHARED - 1024:
            most = (SHARED - 1024) // (arrays * sizes["itemsize"])
            raise ValueError(f"CUDA kernels of nade: H is {sizes['H']}, expected at most {most} hidden units on a device")
        return Launch(n, ROW, shared)

    return geometry


SHARED_BY_ROWS = "bias: T Q N, b_rows: int64 R, hidden: T Q H, weight: T F N H, out_weight: T F N H, w_rows: int64 R"

autoregressive_draw = kernel(
    "scan",
    "autoregressive_draw",
    "uniform: T R N, bias: T Q N, b_rows: int64 R, weight: T F N N, w_rows: int64 R, draw: T R N, logits: T R N -> N",
    _rows(),
)
autoregressive_draw_vjp = kernel(
    "scan",
    "autoregressive_draw_vjp",
    "draw_bar: T R N, slope: T R N, weight: T F N N, w_rows: int64 R, logits_bar: T R N -> N",
    _rows(),
)
nade = kernel(
    "scan",
    "nade",
    f"x: T P N, x_rows: int64 R, {SHARED_BY_ROWS}, log_prob: T R, residual: T S N -> N H S",
    _rows(2),
)
nade_draw = kernel("scan", "nade_draw", f"uniform: T R N, {SHARED_BY_ROWS}, draw: T R N -> N H", _rows(2))
nade_vjp = kernel(
    "scan",
    "nade_vjp",
    "x: T P N, x_rows: int64 R, hidden: T Q H, b_rows: int64 R, weight: T F N H, out_weight: T F N H, w_rows: int64 R, "
    "logit_bar: T R N, hidden_bar: T R H, weight_bar: T F N H, out_weight_bar: T F N H -> F R N H",
    elements(),
)
nade_input_vjp = kernel(
    "scan",
    "nade_input_vjp",
    f"x: T P N, x_rows: int64 R, {SHARED_BY_ROWS}, logit_bar: T R N, scale: T R, x_bar: T R N -> N H",
    _rows(4),
)
