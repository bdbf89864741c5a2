"""Declarations of normalize.cu."""

from __future__ import annotations

from gvae.kernels import LANES
from gvae.kernels.cuda.launch import Launch, elements, kernel

ROW = 256  # threads that add up LANES columns, as in normalize.cu


def _columns(sizes: dict[str, int], n: int) -> Launch:
    """A block per LANES columns."""
    return Launch(-(-n // LANES), ROW)


moments = kernel("normalize", "moments", "a: T R O, mean: T O, variance: T O -> R O", _columns)
normalize = kernel(
    "normalize",
    "normalize",
    "a: T R O, mean: T O, variance: T O, scale: T O, shift: T O, activation: scalar int32, y: T R O -> O",
    elements("O"),
)
sums = kernel(
    "normalize",
    "sums",
    "a: T R O, mean: T O, variance: T O, b: T R O, scale_bar: T O, shift_bar: T O -> R O",
    _columns,
)
input_vjp = kernel(
    "normalize",
    "input_vjp",
    "a: T R O, mean: T O, variance: T O, scale: T O, b: T R O, scale_bar: T O, shift_bar: T O, a_bar: T R O -> R O",
    elements("O"),
)
