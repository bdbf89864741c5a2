"""What `observation="auto"` takes data for: Bernoulli for bits and grey levels, Gaussian for other real numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gvae.data.checks import real
from gvae.data.rows.column import Column
from gvae.ops.sparse import is_csr

__all__ = ["kind"]

BLOCK = 1 << 16  # numbers examined at once: they fit a processor's cache, and a Gaussian is known after the first block
LEVELS = 255


def kind(parts: Sequence[Any], images: bool = False, grey: bool = False) -> tuple[str, str]:
    """The observation family that data suggest, "bernoulli" or "gaussian", and why.

    Parameters
    ----------
    parts : sequence of array (N, ...), CSR or Column
        Real numbers, such as rows to train on and rows to validate on; they are judged together.
    images : bool, default False
        Whether a row is an image, flattened or not: its levels may then be multiples of 1/L for any L up to 255.
    grey : bool, default False
        Whether the values were bytes, one of them above 1, and have been divided by 255. Then no value is examined.

    Returns
    -------
    (str, str)
        The family and the reason, a short phrase; for "gaussian" with a value that is neither a bit nor a grey level.

    Raises
    ------
    DataError
        A part is not an array of real numbers.

    Notes
    -----
    Bernoulli are bits, which are bool or all 0 and 1, and grey levels: bytes with a value above 1, and numbers in [0, 1]
    that are all whole multiples of 1/255 (for images: of one 1/L), as k / L results in float32 or float64, and as
    k * (1 / L) does. Everything else is Gaussian, whatever its range.

    Examples
    --------
    >>> levels = np.arange(8.0).reshape(2, 4) / 7
    >>> gvae.data.kind([levels], images=True)
    ('bernoulli', 'grey levels: all values are multiples of 1/7')
    >>> gvae.data.kind([np.array([[0.5, 1 / np.pi]])])
    ('gaussian', 'real numbers: 0.5 is no whole multiple of 1/255')
    """
    arrays: list[Any] = [part if isinstance(part, Column) else real(part, "kind") for part in parts]
    are_bytes = [x.dtype == np.uint8 and not is_csr(x) for x in arrays]
    above_1 = any(x.shape[0] and x.max() > 1 for x, is_bytes in zip(arrays, are_bytes, strict=True) if is_bytes)
    if grey or (above_1 and all(are_bytes)):
        return "bernoulli", "grey levels: bytes with a value above 1"
    levels = 1  # the least L so far of which all values are multiples; any other that is one is a multiple of it
    for block in (block for x in arrays for block in _blocks(x, divided=above_1)):
        outside = ~((block >= 0) & (block <= 1))
        if outside.any():
            return "gaussian", f"real numbers: {block[outside.argmax()]} is not in [0, 1]"
        fits = _multiples(block, levels)
        if not fits.all():
            value = block[fits.argmin()]
            more = np.arange(2 * levels, LEVELS + 1, levels) if images else np.array([LEVELS])
            more = more[_multiples(value, more)]  # few of 254 are left to be tested on the block
            levels = next((int(l) for l in more if l > levels and _multiples(block, l).all()), 0)
        if not levels:
            of = f"1/L with one L up to {LEVELS} for all" if images else f"1/{LEVELS}"
            return "gaussian", f"real numbers: {value:.6g} is no whole multiple of {of}"
    if levels == 1:
        return "bernoulli", "bits: all values are 0 or 1"
    return "bernoulli", f"grey levels: all values are multiples of 1/{levels}"


def _blocks(x: Any, divided: bool) -> Iterator[np.ndarray]:
    """The values, some at a time and flat, as float32 or float64; bytes are divided by 255 if `divided`."""
    x = x.data if is_csr(x) else x  # what is not stored is 0, which is a bit
    rows = max(1, BLOCK // max(1, math.prod(x.shape[1:])))
    parts = x.blocks(rows) if isinstance(x, Column) else (x[start : start + rows] for start in range(0, len(x), rows))
    for part in parts:
        block = part.reshape(-1)
        if block.dtype.kind != "f":
            block = block.astype(np.float64) / (255 if divided and x.dtype == np.uint8 else 1)
        yield block if block.dtype == np.float32 else block.astype(np.float64, copy=False)


def _multiples(x: Any, levels: Any) -> Any:
    """Which x in [0, 1] are whole multiples of 1 / levels, up to the rounding of k / levels or k * (1 / levels).

    Bits are exact. A float64 that has only the digits of a float32 may be a multiple up to the rounding of float32.
    Multiples with up to 255 levels are at least 2^-16 apart: no value is taken for two of them.
    """
    exact = np.rint(x * levels) / levels
    if np.ndim(levels) == 0 and levels == 1:
        return x == exact
    error = np.abs(x - exact)
    near = error <= 1.5 * np.finfo(x.dtype).eps * exact
    if x.dtype == np.float64:
        near |= (error <= 1.5 * np.finfo(np.float32).eps * exact) & (x == x.astype(np.float32))
    return near
