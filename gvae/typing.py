"""Names for types in signatures. This module imports only NumPy, and every module may import it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Arrays", "Cotangents", "Key", "Needs", "Noise", "Params"]

Array: TypeAlias = Any
"""A NumPy array, a CuPy array or a `gvae.Var` around either; where a number will do, a Python or NumPy number.

To a type checker it is Any: CuPy need not be installed, and the operators of a Var are attached when `gvae.ops` is imported.
Where only arrays in host memory are meant, signatures say np.ndarray.
"""

Arrays: TypeAlias = Mapping[str, Array]
"""Arrays by name: a model's state, its codes, the columns of a batch."""

Params: TypeAlias = Mapping[str, Array]
"""Parameters by name; the name up to the first dot is the group."""

Noise: TypeAlias = Mapping[str, Array]
"""All randomness of one evaluation of a model's terms, by name, as its `noise` draws it."""

Key: TypeAlias = NDArray[np.uint32]
"""The key of a random draw, see `gvae.random`: four words. On a device it is a CuPy array."""

Needs: TypeAlias = tuple[bool, ...]
"""For each array argument of a primitive, whether its cotangent is wanted."""

Cotangents: TypeAlias = tuple[Array | None, ...]
"""What a derivative rule returns: a cotangent per array argument, None where it is not wanted or there is none."""
