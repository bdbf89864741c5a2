"""Counts divided at random into a part that is seen and a part that is held out."""

from __future__ import annotations

from typing import Any

import numpy as np

from gvae import random
from gvae.data.checks import check_support
from gvae.data.sparse import as_csr
from gvae.distributions import Support
from gvae.errors import ConfigError, DataError
from gvae.ops.draws import smallest_count
from gvae.runtime import device

__all__ = ["split_counts"]

COUNTS = Support(0, whole=True)
DIGITS = {"float32": 24, "float64": 53}  # whole numbers below 2 to this power are exact


def split_counts(x: Any, seen: float = 0.1, *, key: Any) -> tuple[Any, Any]:
    """The words of each document divided at random into those that are seen and those that are held out.

    Parameters
    ----------
    x : sparse matrix (N, D)
        Counts of D words in N documents: SciPy's, of any format.
    seen : float, default 0.1
        The probability with which a word token is seen, above 0 and below 1. Tokens are independent of each other.
    key : array of uint32 (4,)
        See `gvae.random.key`.

    Returns
    -------
    seen, held_out : scipy.sparse.csr_array (N, D)
        Whole numbers that add up to x exactly, canonical and without stored zeros; float32, or float64 if x is. For an
        empty document both are empty.

    Raises
    ------
    DataError
        x is not a sparse matrix of whole numbers of at least 0, or one is too large to be exact (2^24, or 2^53 if x is
        float64).
    ConfigError
        `seen` is not between 0 and 1.
    ShapeError, DTypeError
        The key is not valid.

    Notes
    -----
    The seen part of a count c is binomial, of c trials with probability `seen`: its distribution function is inverted at a
    uniform number. Those of row i are drawn from fold_in(key, i), in the order of the columns where x is not 0, so that the
    split of a row depends on its number and its counts, and on no other row.

    Examples
    --------
    >>> from scipy import sparse
    >>> x = sparse.csr_array(np.array([[8, 0, 20], [0, 0, 0], [1, 30, 0]]))
    >>> seen, held_out = gvae.data.split_counts(x, 0.5, key=gvae.random.key(0))
    >>> seen.toarray()
    array([[ 5.,  0., 11.],
           [ 0.,  0.,  0.],
           [ 1., 15.,  0.]], dtype=float32)
    >>> bool(((seen + held_out).toarray() == x.toarray()).all())
    True
    """
    name = "split_counts"
    if isinstance(seen, bool) or not isinstance(seen, int | float | np.number) or not 0 < seen < 1:
        raise ConfigError(f"{name}: seen is {seen!r}, expected a probability above 0 and below 1")
    if not hasattr(x, "tocsr"):
        raise DataError(f"{name}: x is {type(x).__name__}, expected a sparse matrix")
    counts = as_csr(x, name)
    check_support(counts, COUNTS, name)
    digits = DIGITS[counts.dtype.name]
    if counts.nnz and counts.data.max() >= 2.0**digits:
        raise DataError(
            f"{name}: x has a count of {counts.data.max():.17g}, expected less than 2^{digits} in {counts.dtype}"
        )
    counts.eliminate_zeros()
    u, pointers = np.empty(counts.nnz), counts.indptr
    for i, of_row in enumerate(random.fold_in_each(key, 0, counts.shape[0])):
        u[pointers[i] : pointers[i + 1]] = random.uniform(of_row, int(pointers[i + 1] - pointers[i]), np.float64)
    of_seen, of_rest = counts.copy(), counts
    of_seen.data = _binomial(u, counts.data, float(seen)).astype(counts.dtype)
    of_rest.data = counts.data - of_seen.data
    for part in (of_seen, of_rest):
        part.eliminate_zeros()
    return of_seen, of_rest


def _binomial(u: np.ndarray, n: np.ndarray, p: float) -> np.ndarray:
    """The smallest k with P(x <= k) > u, for x binomial of n trials with probability p."""
    special, trials = device.special(u), n.astype(np.int64)
    guess = np.minimum(special.bdtrik(u, n.astype(np.float64), p), n)
    return np.minimum(smallest_count(guess, u, lambda k: special.bdtr(k, trials, p)), n)
