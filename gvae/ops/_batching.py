"""Batch axes for kernels, which have one: flat views, and which rows of which argument are used after broadcasting."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from gvae.runtime import device
from gvae.runtime.device import LANES
from gvae.typing import Array


def flat(x: Array, core: int) -> Array:
    """x with its batch axes flattened into one, as kernels require: a view where the layout allows, else a copy."""
    lead, x = x.ndim - core, x if type(x) is np.ndarray and x.flags.carray else device.plain(x)  # most need no conversion
    return x if lead == 1 else x.reshape(math.prod(x.shape[:lead]), *x.shape[lead:])


def widened(x: Array, shape: tuple[int, ...]) -> Array:
    """x broadcast to a shape; x itself if it has that shape, since NumPy's view would be read-only."""
    return x if x.shape == shape else np.broadcast_to(x, shape)


@lru_cache(maxsize=1024)
def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """np.broadcast_shapes, which takes longer than a small kernel."""
    return np.broadcast_shapes(*shapes)


@lru_cache(maxsize=64)
def owners(own: tuple[int, ...], batch: tuple[int, ...]) -> np.ndarray:
    """For each row of the flat batch, which of an argument's rows it uses, when the argument's batch axes are `own`."""
    return np.array(np.broadcast_to(np.arange(math.prod(own)).reshape(own), batch)).ravel()


@lru_cache(maxsize=64)
def rows_of_factors(factors: tuple[int, ...], batch: tuple[int, ...]) -> np.ndarray:
    """rows (F, K): the K right-hand sides, as positions in the flat batch, that use factor f after broadcasting."""
    F, owner = math.prod(factors), owners(factors, batch)
    return np.argsort(owner, kind="stable").reshape(F, len(owner) // F if F else 0)


@lru_cache(maxsize=64)
def owners_by_factor(own: tuple[int, ...], factors: tuple[int, ...], batch: tuple[int, ...]) -> np.ndarray:
    """(F, K): the rows of an argument with batch axes `own` that are paired with the right-hand sides of each factor."""
    return owners(own, batch)[rows_of_factors(factors, batch)]


@lru_cache(maxsize=64)
def owners_in_order(own: tuple[int, ...], factors: tuple[int, ...], batch: tuple[int, ...]) -> np.ndarray:
    """(R,): the rows of an argument with batch axes `own` that are paired with the right-hand sides in `lane_order`."""
    return owners(own, batch)[lane_order(factors, batch)[1]]


@lru_cache(maxsize=64)
def lane_order(factors: tuple[int, ...], batch: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """owner (R,) and row (R,): an order of the right-hand sides in which LANES successive ones have LANES successive
    factors, the same ones until their right-hand sides are exhausted; factors that fill no group of LANES come last.
    """
    rows = rows_of_factors(factors, batch)
    F, K = rows.shape
    f, k = (index.ravel() for index in np.indices((F, K)))
    group = np.where(f < F - F % LANES, f // LANES, F + f)  # each of the remaining factors is a group of its own
    order = np.lexsort((f, k, group))
    return f[order], rows.ravel()[order]
